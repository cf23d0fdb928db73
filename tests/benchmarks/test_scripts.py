"""Every script of `benchmarks/` can be imported: a renamed module of the product breaks no script unnoticed."""

from pathlib import Path

import pytest

SCRIPTS = sorted(path.stem for path in (Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_imported(benchmarks, script):
    assert benchmarks(script).__doc__
