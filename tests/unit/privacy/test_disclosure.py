"""Thresholds of disclosure: a number below its threshold is suppressed, a number on its threshold is disclosed."""

import numpy as np
import pytest

from memamba_core.config.site import DisclosureConfig
from memamba_core.privacy.disclosure import disclose_metrics, may_disclose_outcomes, suppress_below
from memamba_core.survival.concordance import PairCounts

THRESHOLDS = DisclosureConfig(min_patients=10, min_events=5, min_pairs=50)
PAIRS = PairCounts(30, 15, 5)
PAIR_NAMES = {"concordant", "discordant", "tied_risk"}


def disclosed(num_patients=10, num_events=5, pairs=PAIRS):
    metrics = disclose_metrics(
        THRESHOLDS,
        num_patients=num_patients,
        num_events=num_events,
        loss_sum=3.5,
        pairs=pairs,
        histogram=np.ones((2, 3, 4), dtype=np.int64),
    )
    values = metrics.model_dump(exclude={"counts"}, exclude_none=True)
    return values, set(metrics.counts)


def test_on_all_thresholds_every_number_is_disclosed():
    values, counts = disclosed()
    assert values == {
        "num_patients": 10,
        "num_events": 5,
        "loss_sum": 3.5,
        "concordant": 30,
        "discordant": 15,
        "tied_risk": 5,
    }
    assert counts == {"histogram"}


def test_below_the_threshold_of_patients_no_number_is_disclosed():
    assert disclosed(num_patients=9) == ({}, set())


def test_below_the_threshold_of_events_no_number_that_depends_on_events_is_disclosed():
    assert disclosed(num_events=4) == ({"num_patients": 10, "loss_sum": 3.5}, set())


@pytest.mark.parametrize(("num_patients", "num_events"), [(11, 11), (11, 7), (1000, 996)])
def test_too_few_without_the_event_are_as_telling_as_too_few_with_it(num_patients, num_events):
    assert disclosed(num_patients, num_events) == ({"num_patients": num_patients, "loss_sum": 3.5}, set())


@pytest.mark.parametrize(
    ("num_patients", "num_events", "answer"),
    [(10, 5, True), (9, 5, False), (10, 4, False), (10, 6, False), (11, 6, True), (11, 11, False), (0, 0, False)],
)
def test_outcomes_are_disclosed_if_both_cells_reach_the_threshold(num_patients, num_events, answer):
    assert may_disclose_outcomes(THRESHOLDS, num_patients, num_events) is answer


def test_below_the_threshold_of_pairs_no_pair_is_disclosed():
    values, counts = disclosed(pairs=PairCounts(30, 15, 4))
    assert set(values) == {"num_patients", "num_events", "loss_sum"}
    assert counts == {"histogram"}


@pytest.mark.parametrize(("count", "answer"), [(9, None), (10, 10), (11, 11), (0, None)])
def test_a_count(count, answer):
    assert suppress_below(count, 10) == answer


def test_deployment_is_strict_by_default():
    assert DisclosureConfig() == THRESHOLDS
