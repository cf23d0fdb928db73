"""Pair counts against a double loop, lifelines and scikit-survival; measures at the ends of follow-up."""

import time as clock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index as lifelines_concordance_index
from sksurv.metrics import concordance_index_censored, cumulative_dynamic_auc
from sksurv.metrics import integrated_brier_score as sksurv_integrated_brier_score
from sksurv.util import Surv

from memamba_core.errors import NoComparablePairError
from memamba_core.survival import (
    PairCounts,
    concordance_index,
    count_pairs,
    integrated_brier_score,
    log_rank_p,
    time_dependent_auc,
)

# Few distinct values, so that ties in risk and in time are the rule.
PATIENTS = st.lists(st.tuples(st.integers(-4, 0), st.integers(0, 5), st.booleans()), max_size=25)
EDGES = (12.0, 24.0, 48.0)


def _arrays(patients):
    risk, time, event = zip(*patients, strict=True) if patients else ((), (), ())
    return np.array(risk, dtype=float), np.array(time, dtype=float), np.array(event, dtype=bool)


def _slow_count_pairs(risk, time, event) -> PairCounts:
    """Compare every patient with every other, as the definition says."""
    concordant = discordant = tied = 0
    for i in range(len(risk)):
        for j in range(len(risk)):
            died_before = event[i] and time[i] < time[j]
            died_when_other_was_alive = event[i] and not event[j] and time[i] == time[j]
            if died_before or died_when_other_was_alive:
                concordant += risk[i] > risk[j]
                discordant += risk[i] < risk[j]
                tied += risk[i] == risk[j]
    return PairCounts(int(concordant), int(discordant), int(tied))


def _cohort(num: int, seed: int, *, distinct_times: bool = True):
    """Draw exponential times with a planted risk; about 40 % are censored."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=num)
    happens, leaves = rng.exponential(40 * np.exp(-score)), rng.exponential(60, size=num)
    time, event = np.minimum(happens, leaves), happens <= leaves
    hazards_NK = 1 / (1 + np.exp(1.2 - score[:, None] + rng.normal(scale=0.5, size=(num, 1)) + np.zeros(4)))
    survival_NK = np.cumprod(1 - hazards_NK, axis=1)
    return survival_NK, (time if distinct_times else np.ceil(time / 6) * 6), event


@given(PATIENTS)
def test_pairs_are_those_of_the_double_loop(patients):
    assert count_pairs(*_arrays(patients)) == _slow_count_pairs(*_arrays(patients))


@pytest.mark.parametrize("distinct_times", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_c_index_is_that_of_lifelines_and_scikit_survival(seed, distinct_times):
    survival_NK, time, event = _cohort(200, seed, distinct_times=distinct_times)
    risk = np.round(-survival_NK.sum(axis=1), 1)  # with ties, none of them within scikit-survival's tolerance
    counts = count_pairs(risk, time, event)
    c_index, concordant, discordant, tied_risk, _ = concordance_index_censored(event, time, risk)
    assert (counts.concordant, counts.discordant, counts.tied_risk) == (concordant, discordant, tied_risk)
    assert counts.tied_risk > 0
    assert counts.c_index == pytest.approx(c_index)
    # lifelines ranks by survival, so the risk goes in with its sign reversed.
    assert counts.c_index == pytest.approx(lifelines_concordance_index(time, -risk, event))
    assert concordance_index(risk, time, event) == counts.c_index


def test_risks_a_hair_apart_are_not_tied():
    time, event = np.array([1.0, 2.0]), np.array([True, True])
    assert count_pairs(np.array([-1.0 + 1e-12, -1.0]), time, event) == PairCounts(concordant=1)
    assert count_pairs(np.array([-1.0, -1.0]), time, event) == PairCounts(tied_risk=1)


@given(PATIENTS)
def test_c_index_is_a_share_and_turning_the_risk_turns_it(patients):
    risk, time, event = _arrays(patients)
    counts, turned = count_pairs(risk, time, event), count_pairs(-risk, time, event)
    assert turned == PairCounts(counts.discordant, counts.concordant, counts.tied_risk)
    if counts.num_pairs:
        assert 0 <= counts.c_index <= 1
        assert counts.c_index + turned.c_index == pytest.approx(1)


@given(PATIENTS, st.permutations(range(25)))
def test_order_of_patients_does_not_matter(patients, order):
    shuffled = [patients[i] for i in order if i < len(patients)]
    assert count_pairs(*_arrays(shuffled)) == count_pairs(*_arrays(patients))


@given(PATIENTS, PATIENTS)
def test_counts_of_sites_add_up_to_the_pairs_inside_sites(here, there):
    together = count_pairs(*_arrays(here)) + count_pairs(*_arrays(there))
    # Twin: all patients in one list, without the pairs across the two sites.
    site = np.array([0] * len(here) + [1] * len(there))
    risk, time, event = _arrays(here + there)
    inside = [_slow_count_pairs(risk[site == s], time[site == s], event[site == s]) for s in (0, 1)]
    assert together == sum(inside, PairCounts())
    assert together.num_pairs <= count_pairs(risk, time, event).num_pairs


@pytest.mark.parametrize(
    "patients",
    [
        pytest.param([], id="no patient"),
        pytest.param([(-1, 3, True)], id="one patient"),
        pytest.param([(-1, 3, False), (-2, 4, False)], id="no event"),
        pytest.param([(-1, 4, True), (-2, 3, False)], id="censored before the event"),
        pytest.param([(-1, 4, True), (-2, 4, True)], id="events at the same time"),
    ],
)
def test_without_a_comparable_pair_there_is_no_index(patients):
    counts = count_pairs(*_arrays(patients))
    assert counts == PairCounts()
    with pytest.raises(NoComparablePairError, match="no comparable pair"):
        _ = counts.c_index
    with pytest.raises(ValueError, match="no comparable pair"):
        concordance_index(*_arrays(patients))


def test_counts_are_not_negative_and_add_only_to_counts():
    with pytest.raises(ValueError, match="expected none below zero"):
        PairCounts(3, -1, 0)
    with pytest.raises(TypeError):
        PairCounts() + 1


def test_patients_that_cannot_be_ranked_are_refused():
    risk, time, event = np.array([-1.0, -2.0]), np.array([3.0, 4.0]), np.array([True, False])
    with pytest.raises((ValueError, TypeError), match="event"):  # jaxtyping refuses first where it is on
        count_pairs(risk, time, event.astype(np.int64))
    with pytest.raises((ValueError, TypeError), match="risk"):
        count_pairs(risk[:1], time, event)
    with pytest.raises(ValueError, match="risk has 1 values that are not finite"):
        count_pairs(np.array([np.nan, 0.0]), time, event)
    with pytest.raises(ValueError, match="time_months has 1 values that are not finite"):
        count_pairs(risk, np.array([np.inf, 0.0]), event)


def test_ten_thousand_patients_take_no_time():
    survival_NK, time, event = _cohort(10_000, 0)
    started = clock.perf_counter()
    counts = count_pairs(-survival_NK.sum(axis=1), time, event)
    assert clock.perf_counter() - started < 5  # 0.1 s on an idle core
    assert counts.c_index > 0.6


def test_log_rank_p_is_that_of_two_groups():
    survival_NK, time, event = _cohort(120, 0)
    high = survival_NK.sum(axis=1) < np.median(survival_NK.sum(axis=1))
    expected = logrank_test(time[high], time[~high], event[high], event[~high]).p_value
    assert log_rank_p(time, event, high) == pytest.approx(expected)
    assert log_rank_p(time, event, np.where(high, 7, 3)) == pytest.approx(expected)
    assert expected < 0.01
    three = np.arange(120) % 3
    p_value = log_rank_p(time, event, three)
    assert p_value is not None
    assert 0 < p_value <= 1


@pytest.mark.parametrize(
    ("time", "event", "group"),
    [
        pytest.param([], [], [], id="no patient"),
        pytest.param([1, 2, 3], [1, 1, 0], [0, 0, 0], id="one group"),
        pytest.param([1, 2, 3], [0, 0, 0], [0, 1, 0], id="no event"),
        pytest.param([1, 2, 3], [0, 0, 1], [0, 0, 1], id="one group gone before the first event"),
        pytest.param([2, 2, 2], [1, 1, 1], [0, 1, 1], id="all events at once"),
    ],
)
def test_log_rank_p_is_none_where_there_is_nothing_to_test(time, event, group):
    assert log_rank_p(np.array(time, dtype=float), np.array(event, dtype=bool), np.array(group, dtype=int)) is None


@settings(max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.booleans()), max_size=12))
def test_log_rank_p_is_a_probability_or_none(patients):
    group, time, event = _arrays(patients)
    p_value = log_rank_p(time, event, group.astype(np.int64))
    assert p_value is None or 0 <= p_value <= 1


def test_weighted_measures_are_those_of_scikit_survival_inside_follow_up():
    survival_NK, time, event = _cohort(150, 1)
    _, train_time, train_event = _cohort(300, 2)
    # scikit-survival handles this cohort without a cut if no patient is followed longer than the training patients.
    longest = train_time[train_event].max()
    time, event = np.minimum(time, longest), event & (time <= longest)
    train, test = Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time)
    auc, _ = cumulative_dynamic_auc(train, test, 1 - survival_NK[:, :3], EDGES)
    brier = sksurv_integrated_brier_score(train, test, survival_NK[:, :3], EDGES)
    assert time_dependent_auc(survival_NK, time, event, EDGES, train_time, train_event) == pytest.approx(auc)
    assert integrated_brier_score(survival_NK, time, event, EDGES, train_time, train_event) == pytest.approx(brier)
    assert min(auc) > 0.6
    assert brier < 0.25


def test_follow_up_beyond_the_training_patients_does_not_matter():
    survival_NK, time, event = _cohort(150, 1)
    _, train_time, train_event = _cohort(300, 2)
    keep = train_time < 60
    train = train_time[keep], train_event[keep]
    longer, happened = np.where(time > 59, time + 500, time), np.where(time > 59, ~event, event)
    assert time_dependent_auc(survival_NK, time, event, EDGES, *train) == pytest.approx(
        time_dependent_auc(survival_NK, longer, happened, EDGES, *train)
    )
    assert integrated_brier_score(survival_NK, time, event, EDGES, *train) == pytest.approx(
        integrated_brier_score(survival_NK, longer, happened, EDGES, *train)
    )


def test_edges_outside_follow_up_are_none():
    survival_NK, time, event = _cohort(150, 1)
    short = np.minimum(time, 30.0), event & (time <= 30)
    auc = time_dependent_auc(survival_NK, *short, (0.0, 12.0, 48.0), *short)
    assert [value is None for value in auc] == [True, False, True]
    assert integrated_brier_score(survival_NK, *short, (0.0, 12.0, 48.0), *short) is None
    assert integrated_brier_score(survival_NK, *short, (6.0, 12.0, 48.0), *short) is not None


def test_an_edge_at_the_end_of_follow_up_counts_and_one_at_its_beginning_does_not():
    """Evaluate each edge a moment before: a patient last seen at 48 was alive then, and nothing is known before 12."""
    time, event = np.array([12.0, 20.0, 30.0, 40.0, 48.0, 48.0]), np.array([True, True, True, False, True, False])
    survival_NK = np.linspace(0.9, 0.1, 24).reshape(6, 4)[:, ::-1].copy()
    train = np.array([10.0, 20.0, 40.0, 60.0, 80.0]), np.array([True, True, False, True, False])
    auc = time_dependent_auc(survival_NK, time, event, EDGES, *train)
    assert [value is None for value in auc] == [True, False, False]
    outcomes = Surv.from_arrays(train[1], train[0]), Surv.from_arrays(event, time)
    expected = sksurv_integrated_brier_score(*outcomes, survival_NK[:, 1:3], np.nextafter([24.0, 48.0], 0.0))
    assert integrated_brier_score(survival_NK, time, event, EDGES, *train) == pytest.approx(expected)


def test_an_event_on_an_edge_is_survived_by_the_bin_before_it():
    # Bins are [a, b): of four patients, the one with an event at 12 is still alive in [0, 12).
    time, event = np.array([6.0, 12.0, 30.0, 40.0]), np.array([True, True, True, False])
    survival_NK = np.array([[0.1, 0.1], [0.9, 0.1], [0.9, 0.8], [0.9, 0.9]])
    assert time_dependent_auc(survival_NK, time, event, (12.0,), time, event) == (1.0,)
    worse_NK = survival_NK.copy()
    worse_NK[1, 0] = 0.05  # now a control is ranked above the only case
    assert time_dependent_auc(worse_NK, time, event, (12.0,), time, event)[0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("who", ["test", "train"])
def test_without_events_weighted_measures_are_none(who):
    survival_NK, time, event = _cohort(40, 1)
    nothing = np.zeros(40, dtype=bool)
    test_event, train_event = (nothing, event) if who == "test" else (event, nothing)
    assert time_dependent_auc(survival_NK, time, test_event, EDGES, time, train_event) == (None, None, None)
    assert integrated_brier_score(survival_NK, time, test_event, EDGES, time, train_event) is None


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=8),
)
def test_weighted_measures_are_defined_or_none_for_any_follow_up(test, train):
    time, event = np.array([t for t, _ in test], dtype=float), np.array([e for _, e in test])
    train_time, train_event = np.array([t for t, _ in train], dtype=float), np.array([e for _, e in train])
    survival_NK = np.linspace(0.9, 0.1, 4 * len(test)).reshape(-1, 4)
    arguments = (survival_NK, time, event, (2.0, 4.5, 8.0), train_time, train_event)
    for value in (*time_dependent_auc(*arguments), integrated_brier_score(*arguments)):
        assert value is None or 0 <= value < np.inf


def test_survival_that_does_not_fit_the_edges_is_refused():
    survival_NK, time, event = _cohort(10, 1)
    with pytest.raises(ValueError, match="4 columns and there are 2 interior edges"):
        integrated_brier_score(survival_NK, time, event, (12.0, 24.0), time, event)
