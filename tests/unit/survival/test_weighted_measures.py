"""AUC and Brier score against scikit-survival: hypothesis cohorts full of ties, and five real cohorts."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sksurv.metrics import cumulative_dynamic_auc
from sksurv.metrics import integrated_brier_score as sksurv_integrated_brier_score
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv
from torchsurv.stats.ipcw import get_ipcw

from memamba_core.survival import curves, integrated_brier_score, time_dependent_auc

EDGES = (2.0, 4.5, 8.0)
# Few distinct times, on the edges and between them, so that ties and times on an edge are the rule.
OUTCOMES = st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.5, 5.0, 8.0, 9.0]), st.booleans()), min_size=1)


def _just_before(edges):
    """scikit-survival counts an event at an edge as happened; a moment earlier both agree."""
    return np.nextafter(np.asarray(edges, dtype=np.float64), 0.0)


def _twin(survival_NK, time, event, edges, train_time, train_event):
    """Version 0.1.0: scikit-survival within the follow-up that it can weight."""
    nothing = (None,) * len(edges), None
    if not event.any() or not train_event.any():
        return nothing
    train = Surv.from_arrays(train_event, train_time)
    censoring = CensoringDistributionEstimator().fit(train)
    horizon = censoring.unique_time_[censoring.prob_ > 0][-1]
    event, time = event & (time <= horizon), np.minimum(time, horizon)
    if not event.any():
        return nothing
    test = Surv.from_arrays(event, time)
    usable = [k for k, edge in enumerate(edges) if time.min() < edge <= time.max()]
    auc = [None] * len(edges)
    columns = [k for k in usable if np.any(event & (time < edges[k]))]
    if columns:
        at = _just_before([edges[k] for k in columns])
        scores, _ = cumulative_dynamic_auc(train, test, 1.0 - survival_NK[:, columns], at)
        for k, score in zip(columns, scores, strict=True):
            auc[k] = score
    brier = None
    if len(usable) > 1:
        at = _just_before([edges[k] for k in usable])
        brier = sksurv_integrated_brier_score(train, test, survival_NK[:, usable], at)
    return tuple(auc), brier


def _assert_same(arguments, tolerance=1e-6):
    auc, brier = _twin(*arguments)
    assert time_dependent_auc(*arguments) == pytest.approx(auc, abs=tolerance)
    assert integrated_brier_score(*arguments) == pytest.approx(brier, abs=tolerance)
    return auc, brier


def _split(outcomes):
    return np.array([time for time, _ in outcomes]), np.array([event for _, event in outcomes])


@settings(max_examples=150)
@given(OUTCOMES, OUTCOMES, st.integers(0, 2**32 - 1), st.booleans())
@example([(1.0, True), (8.0, True), (8.0, False)], [(2.0, False), (8.0, True), (8.0, False)], 0, True)
def test_weighted_measures_are_those_of_scikit_survival(test, train, seed, tied):
    hazards_NK = np.random.default_rng(seed).uniform(size=(len(test), 4))
    survival_NK = np.cumprod(1 - (np.round(hazards_NK, 1) if tied else hazards_NK), axis=1)
    _assert_same((survival_NK, *_split(test), EDGES, *_split(train)))


@given(OUTCOMES, st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.5, 8.0, 8.5]), min_size=1, max_size=8))
def test_the_censoring_distribution_is_that_of_scikit_survival(train, times):
    time, event = _split(train)
    at, values = curves._censoring_survival(time, event)
    expected = CensoringDistributionEstimator().fit(Surv.from_arrays(event, time)) if event.any() else None
    if expected is not None:
        # Beyond the last time scikit-survival refuses unless the distribution has reached zero.
        times = np.minimum(times, time.max())
        ours = values[np.searchsorted(at, times, side="right") - 1]
        assert ours == pytest.approx(expected.predict_proba(times), abs=1e-12)
        inverse = get_ipcw(torch.tensor(event), torch.tensor(time), torch.tensor(times)).numpy()
        assert curves._inverse(ours) == pytest.approx(inverse, rel=1e-5)


def test_a_time_that_float32_would_move_across_an_edge_stays_on_its_side():
    """torchsurv rounds times to float32: 24 months less a nanosecond would become 24."""
    time = np.array([6.0, np.nextafter(24.0, 0.0), 24.0, 40.0, 50.0])
    event = np.array([True, True, True, True, False])
    survival_NK = np.array([[0.2, 0.1, 0.1], [0.7, 0.3, 0.1], [0.9, 0.4, 0.2], [0.8, 0.6, 0.3], [0.9, 0.8, 0.7]])
    auc, _ = _assert_same((survival_NK, time, event, (24.0, 48.0), time, event))
    assert auc[0] == 1.0  # both patients with the event before 24 months have a lower survival than all others


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("cohort", "table"),
    [
        ("tcga_blca", "tcga_blca_mcat"),
        ("tcga_brca", "tcga_brca_porpoise"),
        ("tcga_gbmlgg", "tcga_gbmlgg_porpoise"),
        ("tcga_luad", "tcga_luad_mcat"),
        ("tcga_ucec", "tcga_ucec_mcat"),
    ],
)
def test_weighted_measures_on_a_real_cohort_are_those_of_scikit_survival(data_root, cohort, table):
    columns = ["case_id", "age", "survival_months", "event"]
    patients = pd.read_csv(data_root / "cohorts" / f"{table}.csv.gz", usecols=columns).set_index("case_id")
    age = patients["age"].fillna(patients["age"].median()).to_numpy()
    time, event = patients["survival_months"].to_numpy(float), patients["event"].to_numpy() == 1
    quartiles = tuple(np.quantile(time[event], [0.25, 0.5, 0.75]))
    assert len(np.unique(time)) < len(time)
    values = []
    for edges in (quartiles, (12.0, 24.0, 60.0)):
        # Ages in whole years: survival curves with many ties.
        hazards_NK = 1 / (1 + np.exp(2 - (age[:, None] - 60) / 15 - np.array([0.0, 0.3, -0.2, 0.5])))
        survival_NK = np.cumprod(1 - hazards_NK, axis=1)
        for fold in range(5):
            held_out = pd.read_csv(data_root / "splits" / cohort / f"splits_{fold}.csv")["val"].dropna()
            test = patients.index.isin(held_out)
            arguments = survival_NK[test], time[test], event[test], edges, time[~test], event[~test]
            auc, brier = _assert_same(arguments)
            values += [*auc, brier]
    assert len(values) == 40
    assert values.count(None) <= 2  # a fold of BRCA has no death within 12 months
