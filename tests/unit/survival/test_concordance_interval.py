"""Confidence interval of the concordance index: against torchsurv, and against the spread over many cohorts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchsurv.metrics.cindex import ConcordanceIndex

from memamba_core.survival import concordance_index, concordance_interval, count_pairs
from memamba_core.survival.concordance import _pairs_of_each_patient


def _cohort(num, rng):
    score = rng.normal(size=num)
    happens, leaves = rng.exponential(40 * np.exp(-score)), rng.exponential(60, size=num)
    return score + rng.normal(size=num), np.minimum(happens, leaves), happens <= leaves


def _torchsurv(risk, time, event):
    estimator = ConcordanceIndex()
    estimator(torch.from_numpy(risk), torch.from_numpy(event), torch.from_numpy(time))
    return estimator


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_it_is_the_interval_of_torchsurv_given_the_pairs_of_both_patients(confidence):
    risk, time, event = _cohort(90, np.random.default_rng(0))
    estimator = _torchsurv(risk, time, event)
    assert estimator.cindex.item() == pytest.approx(concordance_index(risk, time, event))
    estimator.concordant, estimator.discordant = map(torch.from_numpy, _pairs_of_each_patient(risk, time, event))
    expected = estimator.confidence_interval("noether", alpha=1 - confidence).tolist()
    assert concordance_interval(risk, time, event, confidence) == pytest.approx(expected, abs=1e-5)


def test_its_width_is_the_spread_of_the_index_over_cohorts_where_that_of_torchsurv_is_wider():
    rng = np.random.default_rng(1)
    indices, ours, theirs = [], [], []
    for _ in range(60):
        patients = _cohort(80, rng)
        lower, upper = concordance_interval(*patients)
        indices.append(concordance_index(*patients))
        ours.append((upper - lower) / 2)
        theirs.append(np.diff(_torchsurv(*patients).confidence_interval("noether")).item() / 2)
    spread = 1.96 * np.std(indices)
    assert 0.75 < np.mean(ours) / spread < 1.25
    assert np.mean(theirs) / spread > 1.5


@given(st.lists(st.tuples(st.integers(-4, 0), st.integers(0, 5), st.booleans()), max_size=25))
def test_it_holds_the_index_or_is_none(patients):
    risk, time, event = (np.array([patient[i] for patient in patients], dtype=float) for i in range(3))
    event = event.astype(bool)
    counts = count_pairs(risk, time, event)
    concordant, discordant = _pairs_of_each_patient(risk, time, event)
    assert concordant.sum() == 2 * (counts.concordant + 0.5 * counts.tied_risk)
    assert discordant.sum() == 2 * (counts.discordant + 0.5 * counts.tied_risk)
    interval = concordance_interval(risk, time, event)
    if interval is not None:
        assert 0 <= interval[0] <= counts.c_index <= interval[1] <= 1


def test_it_is_none_where_no_error_can_be_estimated():
    nothing, times = np.zeros(3, dtype=bool), np.array([1.0, 2.0, 3.0])
    assert concordance_interval(times, times, nothing) is None
    assert concordance_interval(-times, times, ~nothing) is None  # a perfect order
    assert concordance_interval(times[:2], times[:2], ~nothing[:2]) is None
    with pytest.raises(ValueError, match="confidence is 95"):
        concordance_interval(times, times, ~nothing, confidence=95.0)
