"""Doubt columns of the input whose values are the outcome: a model that reads them learns nothing else."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import gammaln
from scipy.stats import norm

from memamba_core.config.site import SiteDataConfig
from memamba_core.data.doubt import Doubt
from memamba_core.data.features.slide_tables import SlideTable
from memamba_core.data.records import Cohort, PatientRecord

__all__ = ["find_outcome_columns", "match_outcome"]

AGREEMENT = 0.95
"""Correlation with the outcome from which a column may hold it; in ten tables of TCGA at most 0.45."""
CHANCE = 1e-4
"""Largest probability that any column of a table matches by chance."""
_SAMPLE = 64
_NAMED = 3


def find_outcome_columns(cohort: Cohort, config: SiteDataConfig) -> Iterator[Doubt]:
    """Doubt molecular columns, and columns of a slide-level table, that hold the event or the follow-up.

    Args:
        cohort: all patients, joined with their data.
        config: names the files.
    """
    if cohort.genes is not None and config.genomics is not None:
        measured = [r for r in cohort.records if r.gene_row is not None]
        values = cohort.genes.values_NC[[r.gene_row for r in measured if r.gene_row is not None]]
        yield from _doubts(values, measured, cohort.genes.columns, config.genomics.file, "data.genomics.file")
    store = cohort.features
    if isinstance(store, SlideTable) and config.features is not None:
        present = [r for r in cohort.records if store.has(r)]
        first = np.stack([bag.patches_PF[0].numpy() for r in present if (bag := store.load(r, 1)) is not None])
        yield from _doubts(first, present, store.columns, config.features.path, "data.features.path")


def _doubts(
    values: npt.NDArray[np.float32], records: Sequence[PatientRecord], columns: Sequence[str], file: str, setting: str
) -> Iterator[Doubt]:
    months = np.array([r.time_months for r in records])
    event = np.array([r.event for r in records], np.bool_)
    for what, found in match_outcome(values, months, event).items():
        if found.any():
            names = [repr(columns[place]) for place in np.flatnonzero(found).tolist()]
            listed = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            yield Doubt(
                "outcome",
                f"{file}: the model would read the {what} of the patients, or its reverse, as input from "
                f"column{'s' * (len(names) > 1)} {listed}",
                f"if this is the outcome, take it out of the file ({setting}): no model is worth anything with it",
            )


def match_outcome(
    values_NC: npt.NDArray[np.float32], months: npt.NDArray[np.float64], event: npt.NDArray[np.bool_]
) -> dict[str, npt.NDArray[np.bool_]]:
    """Find the columns that agree with the outcome beyond chance, among as many columns as there are.

    Args:
        values_NC: inputs, NaN where not measured.
        months: follow-up of the patients.
        event: True where the event happened.

    Returns:
        `event` and `follow-up` -> True for each column that takes two values and marks the events (or the others) with
        a correlation of at least 0.95, or that orders the patients by follow-up with such a rank correlation.
    """
    num_columns = values_NC.shape[1]
    found = {"event": np.zeros(num_columns, np.bool_), "follow-up": np.zeros(num_columns, np.bool_)}
    for name, outcome in (("event", event.astype(np.float64)), ("follow-up", months)):
        for place in _candidates(values_NC, outcome, ranks=name == "follow-up"):
            column = values_NC[:, place].astype(np.float64)
            known = ~np.isnan(column)
            test = _is_event if name == "event" else _is_ordered_by
            found[name][place] = test(column[known], outcome[known], num_columns)
    return found


def _candidates(values_NC: npt.NDArray[np.float32], outcome: npt.NDArray[np.float64], *, ranks: bool) -> list[int]:
    """Return the columns that agree with the outcome on a sample of patients, so that 20,000 columns take no time."""
    order = np.argsort(outcome, kind="stable")
    parts = (order,) if ranks else np.split(order, [int((outcome == 0).sum())])  # few events: as many of both kinds
    chosen = np.concatenate([_evenly(part, _SAMPLE // len(parts)) for part in parts])
    sample, wanted = pd.DataFrame(values_NC[chosen]), pd.Series(outcome[chosen])
    if ranks:
        sample, wanted = sample.rank(), wanted.rank()
    centred, target = sample.to_numpy(np.float64), wanted.to_numpy(np.float64)
    known = ~np.isnan(centred)
    count = np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, centred - np.where(known, centred, 0).sum(axis=0) / count, 0)
    target_NC = np.where(known, target[:, None], 0)
    target_NC = np.where(known, target_NC - target_NC.sum(axis=0) / count, 0)
    product = (centred * target_NC).sum(axis=0)
    scale = np.sqrt((centred**2).sum(axis=0) * (target_NC**2).sum(axis=0))
    agreement = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return np.flatnonzero(np.abs(agreement) >= 0.8).tolist()


def _evenly(rows: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)
    return np.take(rows, places)


def _is_event(column: npt.NDArray[np.float64], event: npt.NDArray[np.float64], num_columns: int) -> bool:
    """Return True if a column of two values marks the events, with fewer errors than chance allows."""
    if len(np.unique(column)) != 2 or len(np.unique(event)) != 2:
        return False
    marked = column == column.max()
    wrong = int(min((marked != event).sum(), (marked == event).sum()))
    num, events = len(event), int(event.sum())
    if abs(np.corrcoef(column, event)[0, 1]) < AGREEMENT:
        return False
    chance = _log_choose(num, wrong) - _log_choose(num, events)
    return bool(chance + math.log(num_columns) < math.log(CHANCE))


def _is_ordered_by(column: npt.NDArray[np.float64], months: npt.NDArray[np.float64], num_columns: int) -> bool:
    """Return True if a column orders the patients as their follow-up does, or in reverse, beyond chance."""
    if len(column) < 8 or min(len(np.unique(column)), len(np.unique(months))) < 5:
        return False
    agreement = abs(np.corrcoef(pd.Series(column).rank(), pd.Series(months).rank())[0, 1])
    if agreement < AGREEMENT:
        return False
    z = math.atanh(min(agreement, 1 - 1e-12)) * math.sqrt((len(column) - 3) / 1.06)  # Fieller's for rank correlations
    return bool(2 * norm.sf(z) * num_columns < CHANCE)


def _log_choose(num: int, chosen: int) -> float:
    return float(gammaln(num + 1) - gammaln(chosen + 1) - gammaln(num - chosen + 1))
