"""The tutorials do what they say: their commands and the notebook are executed."""

import os
import subprocess
import sys

import pytest
from fixtures.pages import REPOSITORY, console_script

TUTORIALS = REPOSITORY / "docs" / "tutorials"


def follow(page, folder):
    """Type what a tutorial says into a shell in an empty folder, and stop at the first command that fails."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])  # noqa: PTH120  a text for PATH
    script = "set -e\n" + console_script(TUTORIALS / page)
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.mark.ci_slow
def test_the_first_simulation(tmp_path):
    done = follow("first_simulation.md", tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("first", "second"):
        assert (tmp_path / name / "summary.json").is_file()
    assert "'federated'" in done.stdout  # the line of Python that reads the summary
    assert "strategy:" in done.stdout  # the composed settings


@pytest.mark.slow
def test_three_sites_on_one_machine(tmp_path):
    done = follow("three_sites.md", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "federation" / "runs" / "first" / "model.safetensors").is_file()
    assert (tmp_path / "site-01" / "predictions" / "predictions.csv").is_file()
    assert "train" in done.stdout  # the log of what left


@pytest.mark.ci_slow
def test_the_notebook_of_an_own_cohort(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs" / "generator")
    monkeypatch.setenv("PATH", os.environ["PATH"])  # `execute` adds this Python's folder; undone after the test
    from notebook import execute

    notebook = execute(tmp_path)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()))
    assert "150 patients" in printed
    assert "ready to run" in printed
    assert (tmp_path / "results" / "summary.json").is_file()
