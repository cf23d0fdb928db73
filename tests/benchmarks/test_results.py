"""Figures that the tables of studies print, against their plain definition."""

import re
from types import SimpleNamespace

import numpy as np
import pytest


def test_the_standard_error_of_a_paired_difference(benchmarks, capsys):
    """The standard deviation of the differences over the root of their number, over all folds of all cohorts."""
    values = {"federated": np.array([[0.60, 0.70, 0.65, 0.80]]), "pooled": np.array([[0.62, 0.68, 0.66, 0.74]])}
    study = SimpleNamespace(
        settings=("one",), cohorts=("a", "b"), values=lambda root, setting, cohort, method: values[method]
    )
    benchmarks("results").tell_paired(study, None, ("federated", "pooled"))
    mean, error, num = re.search(
        r"([+-][\d.]+) ± ([\d.]+) \(standard error, (\d+) folds\)", capsys.readouterr().out
    ).groups()
    differences = np.tile([-0.02, 0.02, -0.01, 0.06], 2)
    assert int(num) == 8
    assert float(mean) == pytest.approx(0.0125, abs=5e-5)
    assert float(error) == pytest.approx(np.sqrt(differences.var(ddof=1) / 8), abs=5e-5)
