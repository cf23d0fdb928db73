"""Warnings about sites whose sums hint at a wrong unit of time or a wrong coding of events. A hint is no proof."""

import logging
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memamba_core.wire.protocol import FactsReply, StatisticsReply

from .exchange import quote

__all__ = ["find_outlying_sites"]

_log = logging.getLogger(__name__)

_FEWEST_PATIENTS = 20
_STANDARD_ERRORS = 5.0
_SWAP_GAIN = 2.0
_FOLLOW_UP_FACTOR = 1.5
_UNIT_FACTOR = 6.0


def find_outlying_sites(replies: Mapping[str, StatisticsReply], facts: Mapping[str, FactsReply]) -> list[str]:
    """Warn about sites whose event share or follow-up differs from that of the other sites like a mistake.

    Sites of one cohort differ in the share of events, because they recruit at different times and treat different
    patients. So a coding of events is doubted only if three things hold: the share differs by more than 5 standard
    errors; it would differ by less than half as much with events and censored patients swapped; and the mean follow-up
    is within a factor of 1.5 of the others', because a share that differs with the length of follow-up is ordinary. On
    the TCGA cohorts this rule warns of no site in any partition by tissue source site. A unit of time is doubted if the
    median follow-up is 6 times that of the others, or if nine tenths of the patients are followed up for less than a
    sixth of the others' median.

    Args:
        replies: summed counts of each site on the coarse time grid.
        facts: declarations of the sites.
    """
    counts = {site: _counts(reply) for site, reply in replies.items()}
    warnings = []
    for site, own in counts.items():
        rest = sum((c for name, c in counts.items() if name != site), start=np.zeros_like(own))
        if min(own.sum(), rest.sum()) < _FEWEST_PATIENTS:
            continue
        if _looks_swapped(own, rest):
            warnings.append(
                f"{site}: {own[1].sum()} of {own.sum()} training patients had the event, {rest[1].sum()} of "
                f"{rest.sum()} elsewhere; the site declares that a 1 means {quote(facts[site].event_means)}. Check "
                "clinical.event_means"
            )
        cell, other = _quantile_cell(own, 0.5), _quantile_cell(rest, 0.5)
        too_long = cell + 0.5 > _UNIT_FACTOR * (other + 0.5)  # middles of the cells; a month is 30 days
        too_short = other + 0.5 > _UNIT_FACTOR * (_quantile_cell(own, 0.9) + 0.5)
        if too_long or too_short:
            warnings.append(
                f"{site}: median follow-up lies in cell {cell} of the time grid, elsewhere in cell {other}; the site "
                f"declares {quote(facts[site].time_unit)}. Check clinical.time_unit"
            )
    for warning in warnings:
        _log.warning(warning)
    return warnings


def _counts(reply: StatisticsReply) -> npt.NDArray[np.int64]:
    """Return patients [2, cells]: censored, with the event."""
    return np.stack([reply.events["censored"], reply.events["event"]]).astype(np.int64)


def _looks_swapped(own: npt.NDArray[np.int64], rest: npt.NDArray[np.int64]) -> bool:
    """Decide whether swapping events and censored patients would make a site ordinary."""
    num, others = own.sum(), rest.sum()
    share, ordinary = own[1].sum() / num, rest[1].sum() / others
    standard_error = np.sqrt(max(ordinary * (1 - ordinary), 1e-3) * (1 / num + 1 / others))
    difference, swapped = abs(share - ordinary), abs(1 - share - ordinary)
    ratio = _mean_follow_up(own) / _mean_follow_up(rest)
    return bool(
        difference > _STANDARD_ERRORS * standard_error
        and swapped < difference / _SWAP_GAIN
        and 1 / _FOLLOW_UP_FACTOR < ratio < _FOLLOW_UP_FACTOR
    )


def _mean_follow_up(counts: npt.NDArray[np.int64]) -> float:
    """Return the mean follow-up in cells of the time grid, each at its middle."""
    return float(counts.sum(axis=0) @ (np.arange(counts.shape[1]) + 0.5) / counts.sum())


def _quantile_cell(counts: npt.NDArray[np.int64], share: float) -> int:
    """Return the cell of the time grid up to which a share of the patients is followed up."""
    cumulative = np.cumsum(counts.sum(axis=0))
    return int(np.searchsorted(cumulative, cumulative[-1] * share))
