"""Check that a test fold can say what a run would report of it: events to learn from, and pairs to compare."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from client.site import Site
from memamba_core.config.experiment import Experiment
from memamba_core.data.records import PatientRecord
from memamba_core.errors import DataError
from memamba_core.survival.concordance import FEWEST_PAIRS, count_pairs

__all__ = ["FEWEST_EVENTS", "can_be_ranked", "check_test_folds"]

FEWEST_EVENTS = 3
"""Fewest events behind a C-index of a test fold: all pairs of one event rank one patient."""


def can_be_ranked(time_months: npt.ArrayLike, event: npt.ArrayLike) -> bool:
    """Return True if the patients form enough comparable pairs for a C-index."""
    return _num_pairs(time_months, event) >= FEWEST_PAIRS and int(np.count_nonzero(np.asarray(event))) >= FEWEST_EVENTS


def check_test_folds(
    name: str, sites: Mapping[str, Site], records: Sequence[PatientRecord], folds: Sequence[int], experiment: Experiment
) -> Iterator[str]:
    """Yield a warning for each fold whose test patients are too few for a C-index.

    Args:
        name: name of the cohort.
        sites: the simulated sites.
        records: all patients, with their test fold.
        folds: test folds of the run.
        experiment: seed and holdout, which decide who trains.

    Raises:
        DataError: in a fold no training patient had the event.
    """
    for fold in folds:
        training = [
            record
            for site in sites.values()
            for record in site.training_cohort(fold, experiment.seed, experiment.federation.curve_holdout).records
        ]
        test = [record for record in records if record.fold == fold]
        events = sum(record.event for record in test)
        if not any(record.event for record in training):
            others = sorted({r.fold for r in records if r.event and r.fold is not None} - {fold})
            raise DataError(
                f"cohort {name}: none of the {len(training)} training patients of fold {fold} had the event, and "
                f"{events} of its {len(test)} test patients had; there is nothing to learn. The events are in "
                f"{f'the test folds {others}' if others else 'this test fold alone'}: use a cohort with more events, "
                "other folds (folds=[...]) or another seed"
            )
        times = [record.time_months for record in test], [record.event for record in test]
        if not can_be_ranked(*times):
            yield (
                f"fold {fold}: no C-index and no AUC: {len(test)} test patients with {events} "
                f"event{'s' * (events != 1)} form {_num_pairs(*times)} comparable pairs; wanted at least "
                f"{FEWEST_PAIRS} pairs and {FEWEST_EVENTS} events"
            )


def _num_pairs(time_months: npt.ArrayLike, event: npt.ArrayLike) -> int:
    times, happened = np.asarray(time_months, np.float64), np.asarray(event, np.bool_)
    return count_pairs(np.zeros(len(times)), times, happened).num_pairs
