"""Tables of the studies: the standard error of a paired difference."""

import json

import pytest


@pytest.fixture
def results(benchmarks):
    return benchmarks("results")


def test_the_standard_error_of_paired_differences(results, tmp_path, capsys):
    """The mean of -.01, .01, .03 and .05 is .02; the sample's deviation over the root of 4 is .0129."""
    study = results.Study((), (results.STUDIES["federated"].settings[0],), ("one", "two"), (0,))
    for cohort, pairs in {"one": [(0.59, 0.6), (0.61, 0.6)], "two": [(0.73, 0.7), (0.75, 0.7)]}.items():
        folder = tmp_path / "by-tissue-source-site" / f"{cohort}-seed-0"
        folder.mkdir(parents=True)
        folds = [{"federated": federated, "pooled": pooled} for federated, pooled in pairs]
        (folder / "summary.json").write_text(json.dumps({"folds": folds}), encoding="utf-8")
    results.print_paired(study, tmp_path, ("federated", "pooled"))
    line = capsys.readouterr().out.strip()
    assert line == "federated - pooled: +0.0200 ± 0.0129 (standard error, 4 folds)"
