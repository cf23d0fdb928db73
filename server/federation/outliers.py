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
_FEWEST_OF_A_KIND = 3
_STANDARD_ERRORS = 5.0
_SWAP_GAIN = 2.0
_FOLLOW_UP_FACTOR = 1.5
_UNIT_FACTOR = 6.0
_JOINT_STANDARD_ERRORS = 3.0
_ORDER_STANDARD_ERRORS = 2.0
_ORDER_ALONE = 2.5
_SHARE_GAIN = 1.5

Counts = npt.NDArray[np.int64]


def find_outlying_sites(replies: Mapping[str, StatisticsReply], facts: Mapping[str, FactsReply]) -> list[str]:
    """Warn about sites whose event share or follow-up differs from that of the other sites like a mistake.

    Sites of one cohort differ in the share of events, because they recruit at different times and treat different
    patients. So a coding of events is doubted only on one of three grounds:

    * The share of events differs by more than 5 standard errors, by less than half as much with events and censored
      patients exchanged, and the mean follow-up is within a factor of 1.5 of the others', because a share that differs
      with the length of follow-up is ordinary.
    * Events come before censored patients here and after them elsewhere, or the reverse; share and order together
      differ by more than 3 standard errors, and would be ordinary with events and censored patients exchanged.
    * Events come after censored patients here and before them elsewhere, each beyond doubt (2.5 standard errors).

    On the TCGA cohorts no rule warns of a site in any partition by tissue source site; with events
    reversed at one site, 60 % of these sites are noticed. Of generated sites with 30 patients 25 % are noticed, with
    100 patients 85 %.

    A unit of time is doubted if the median follow-up is 6 times that of the others, or if nine tenths of the patients
    are followed up for less than a sixth of the others' median.

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
        opposite = _order_looks_swapped(own, rest)
        if opposite or _share_looks_swapped(own, rest):
            warnings.append(_doubt_coding(site, own, rest, facts[site].event_means, opposite=opposite))
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


def _doubt_coding(site: str, own: Counts, rest: Counts, event_means: str, *, opposite: bool) -> str:
    """Say with the numbers why the coding of events of a site is doubted."""
    (censored, events), (others_censored, others_events) = own.sum(axis=1), rest.sum(axis=1)
    num, others = censored + events, others_censored + others_events
    text = (
        f"{site}: {events} of {num} training patients had the event, {others_events} of {others} elsewhere: the share "
        f"of events differs much between sites ({events / num:.0%} and {others_events / others:.0%})"
    )
    if opposite:
        here, elsewhere = ("after", "before") if _event_first(own)[0] < 0.5 else ("before", "after")
        text += f", and events come {here} censored patients, {elsewhere} them elsewhere"
    return (
        f"{text}. The coding of events may be reversed at one site; this site declares that a 1 means "
        f"{quote(event_means)}. Check clinical.event_means"
    )


def _counts(reply: StatisticsReply) -> Counts:
    """Return patients [2, cells]: censored, with the event."""
    return np.stack([reply.events["censored"], reply.events["event"]]).astype(np.int64)


def _share_looks_swapped(own: Counts, rest: Counts) -> bool:
    """Decide by the share of events alone whether swapping events and censored patients makes a site ordinary."""
    difference, swapped, standard_error = _compare_shares(own, rest)
    ratio = _mean_follow_up(own) / _mean_follow_up(rest)
    return bool(
        difference > _STANDARD_ERRORS * standard_error
        and swapped < difference / _SWAP_GAIN
        and 1 / _FOLLOW_UP_FACTOR < ratio < _FOLLOW_UP_FACTOR
    )


def _order_looks_swapped(own: Counts, rest: Counts) -> bool:
    """Decide by the order of events and censored patients in time whether a site has exchanged them.

    The order is the probability that a random event comes before a random censoring: exchanged, p becomes 1 - p.
    """
    if min(own.sum(axis=1).min(), rest.sum(axis=1).min()) < _FEWEST_OF_A_KIND:
        return False
    (order, error), (usual, usual_error) = _event_first(own), _event_first(rest)
    if (order - 0.5) * (usual - 0.5) >= 0:
        return False
    errors_apart = abs(order - usual) / np.hypot(error, usual_error)
    if order < 0.5 - _ORDER_ALONE * error and errors_apart > _ORDER_ALONE:
        return True
    difference, swapped, standard_error = _compare_shares(own, rest)
    return bool(
        abs(1 - order - usual) < abs(order - usual) / _SWAP_GAIN
        and swapped < difference / _SHARE_GAIN
        and errors_apart > _ORDER_STANDARD_ERRORS
        and np.hypot(errors_apart, difference / standard_error) > _JOINT_STANDARD_ERRORS
    )


def _compare_shares(own: Counts, rest: Counts) -> tuple[float, float, float]:
    """Return how far the share of events lies from the others', as coded and swapped, and its standard error."""
    num, others = own.sum(), rest.sum()
    share, ordinary = own[1].sum() / num, rest[1].sum() / others
    standard_error = np.sqrt(max(ordinary * (1 - ordinary), 1e-3) * (1 / num + 1 / others))
    return float(abs(share - ordinary)), float(abs(1 - share - ordinary)), float(standard_error)


def _event_first(counts: Counts) -> tuple[float, float]:
    """Return the probability that an event comes before a censoring, ties as one half, and its error (Mann-Whitney)."""
    censored, events = counts.astype(np.float64)
    num_censored, num_events = censored.sum(), events.sum()
    later = num_censored - np.cumsum(censored) + 0.5 * censored
    error = np.sqrt((num_events + num_censored + 1) / (12 * num_events * num_censored))
    return float(events @ later / (num_events * num_censored)), float(error)


def _mean_follow_up(counts: Counts) -> float:
    """Return the mean follow-up in cells of the time grid, each at its middle."""
    return float(counts.sum(axis=0) @ (np.arange(counts.shape[1]) + 0.5) / counts.sum())


def _quantile_cell(counts: Counts, share: float) -> int:
    """Return the cell of the time grid up to which a share of the patients is followed up."""
    cumulative = np.cumsum(counts.sum(axis=0))
    return int(np.searchsorted(cumulative, cumulative[-1] * share))
