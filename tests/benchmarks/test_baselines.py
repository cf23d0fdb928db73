"""Benchmark scripts: the baselines fit the stated models and read no test patient; the double of a federation runs."""

import json

import numpy as np
import pytest
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.util import Surv


@pytest.fixture(scope="module")
def ridge(benchmarks):
    return benchmarks("ridge_cox")


@pytest.fixture(scope="module")
def baselines(benchmarks):
    return benchmarks("baselines")


@pytest.fixture
def patients(baselines, ridge):
    """Draw two hundred patients in five folds; their risk is a common factor of a third of sixty genes."""
    rng = np.random.default_rng(3)
    factor = rng.normal(size=200)
    genes = rng.normal(size=(200, 60))
    genes[:, :20] += 1.5 * factor[:, None]
    genes[rng.random(genes.shape) < 0.02] = np.nan
    hidden = rng.exponential(np.exp(-1.5 * factor) * 30)
    censored = rng.exponential(60, size=200)
    age_sex = np.stack([60 + 10 * factor + rng.normal(scale=10, size=200), rng.integers(0, 2, 200)], axis=1)
    age_sex[:5, 0] = np.nan
    return baselines.Patients(
        time_months=np.minimum(hidden, censored),
        event=hidden <= censored,
        fold=np.arange(200) % 5,
        age_sex_N2=age_sex,
        blocks={
            "genes": ridge.Block(genes, scale_floor=0.3),
            "histology": ridge.Block(rng.normal(size=(200, 9))),
        },
    )


def with_other_test_patients(baselines, ridge, patients, fold):
    """Keep the training patients; exchange outcomes, ages and genes among the test patients, and change them."""
    rng, test = np.random.default_rng(8), np.flatnonzero(patients.fold == fold)
    changed = {name: getattr(patients, name).copy() for name in ("time_months", "event", "age_sex_N2")}
    for values in changed.values():
        values[test] = values[rng.permutation(test)]
    genes = patients.blocks["genes"].values_NC.copy()
    genes[test] = 50 + 7 * genes[rng.permutation(test)]
    return baselines.Patients(**changed, fold=patients.fold, blocks={"genes": ridge.Block(genes, scale_floor=0.3)})


def test_ridge_cox_equals_a_plain_reference(ridge, patients):
    """Fit step by step, with scikit-survival's Newton solver in place of its path solver."""
    values, time, event = patients.blocks["genes"].values_NC, patients.time_months, patients.event
    scaled = (values - np.nanmean(values, axis=0)) / np.maximum(np.nanstd(values, axis=0), 0.3)
    scaled = np.nan_to_num(np.clip(scaled, -5, 5))
    axes = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)[2]
    scores = scaled @ axes[:7].T
    scores /= scores[:, 0].std(ddof=1)
    reference = CoxPHSurvivalAnalysis(alpha=0.05 * len(time), ties="breslow", tol=1e-12)
    expected = reference.fit(scores, Surv.from_arrays(event, time)).predict(scores)

    blocks = [patients.blocks["genes"]]
    model = ridge.fit_ridge_cox(blocks, time, event, components=[7], penalties=[0.05])
    risk = model.risk(blocks)
    np.testing.assert_allclose(risk - risk.mean(), expected - expected.mean(), atol=1e-4)


def test_partial_likelihood_equals_its_definition(ridge):
    rng = np.random.default_rng(0)
    risk, time, event = rng.normal(size=30), rng.integers(1, 8, size=30).astype(float), rng.random(30) < 0.6
    expected = sum(risk[i] - np.log(np.exp(risk[time >= time[i]]).sum()) for i in range(30) if event[i])
    assert ridge.partial_log_likelihood(risk, time, event) == pytest.approx(expected)


@pytest.mark.parametrize("names", [("genes",), ("histology", "genes"), ()], ids=["genes", "both", "age and sex"])
def test_baselines_find_planted_risk(baselines, ridge, patients, names):
    results = [baselines.evaluate_fold(patients, names, fold) for fold in (0, 1)]
    assert min(r.c_index for r in results) > 0.6
    assert all((r.penalty in ridge.PENALTIES) == bool(names) for r in results)


def test_block_of_noise_finds_nothing(baselines, patients):
    indices = [baselines.evaluate_fold(patients, ("histology",), fold).c_index for fold in range(5)]
    assert np.mean(indices) == pytest.approx(0.5, abs=0.1)


def test_test_patients_do_not_touch_the_fit(baselines, ridge, patients):
    other = with_other_test_patients(baselines, ridge, patients, fold=2)
    ours, theirs = (baselines.fit_ridge(p, ("genes",), 2) for p in (patients, other))
    assert (ours.num_components, ours.penalty) == (theirs.num_components, theirs.penalty)
    np.testing.assert_array_equal(ours.coefficients, theirs.coefficients)
    np.testing.assert_array_equal(ours.projections[0].axes_KC, theirs.projections[0].axes_KC)
    ours, theirs = (baselines.fit_age_sex(p, 2) for p in (patients, other))
    np.testing.assert_array_equal(ours.model.params_, theirs.model.params_)
    np.testing.assert_array_equal(ours.medians, theirs.medians)
    training = baselines.fit_ridge(other, ("genes",), 1)  # the same patients have an effect if they are trained on
    assert not np.array_equal(training.coefficients, baselines.fit_ridge(patients, ("genes",), 1).coefficients)


def test_patients_in_no_fold_are_neither_trained_on_nor_tested(baselines, ridge, patients):
    fold = np.where(patients.fold == 4, -1, patients.fold)
    some = baselines.Patients(patients.time_months, patients.event, fold, patients.age_sex_N2, patients.blocks)
    other = with_other_test_patients(baselines, ridge, patients, fold=4)
    other = baselines.Patients(other.time_months, other.event, fold, other.age_sex_N2, other.blocks)
    ours, theirs = (baselines.evaluate_fold(p, ("genes",), 0) for p in (some, other))
    assert ours == theirs


def test_missing_age_is_the_training_median_and_one_sex_is_no_column(baselines, patients):
    patients.age_sex_N2[:, 1] = 1
    model = baselines.fit_age_sex(patients, 0)
    np.testing.assert_array_equal(model.used, [True, False])
    assert model.medians[0] == np.nanmedian(patients.age_sex_N2[patients.fold != 0, 0])
    risk = model.risk(np.array([[np.nan, 1.0], [model.medians[0], 1.0]]))
    assert risk[0] == risk[1]


def test_more_components_than_columns_are_not_tried(baselines, patients):
    model = baselines.fit_ridge(patients, ("histology",), 0)
    assert model.num_components in (4, 8)
    assert len(model.coefficients) == model.num_components


def test_without_data_it_says_so_and_ends_well(baselines, monkeypatch, capsys):
    monkeypatch.delenv("MEMAMBA_DATA", raising=False)
    baselines.main([])
    assert capsys.readouterr().out.startswith("skipped: set the environment variable MEMAMBA_DATA")


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_endometrial_cancer(baselines, data_root, monkeypatch, tmp_path):
    monkeypatch.setenv("MEMAMBA_DATA", str(data_root))
    output = tmp_path / "baselines.json"
    baselines.main(["--cohorts", "tcga_ucec", "--output", str(output)])
    (outcome,) = json.loads(output.read_text(encoding="utf-8"))["cohorts"]
    assert (outcome["num_patients"], outcome["num_events"], outcome["num_columns"]) == (480, 75, {"genes": 123})
    assert outcome["models"]["genes"]["mean"] == pytest.approx(0.611, abs=0.02)
    assert outcome["models"]["age_sex"]["mean"] == pytest.approx(0.571, abs=0.02)


@pytest.mark.ci_slow
def test_a_federation_of_doubles_is_measured(benchmarks):
    overhead = benchmarks("federation_overhead")
    figures = overhead.measure(num_sites=3, work=0.01, rounds=2, strategy="fedavg")
    assert 4.5e6 < figures["parameters"] < 5.5e6
    assert len(figures["seconds"]) == len(figures["overhead"]) == len(figures["peak_bytes"]) == 2
    assert min(figures["seconds"]) >= 3 * 0.01
    assert figures["total_peak_bytes"] >= max(figures["peak_bytes"])
