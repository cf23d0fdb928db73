"""Floors: a number about fewer people than the site allows does not leave it.

A site of one patient makes every sum that patient's own value, and a concordance over two pairs says who died first.
Eleven patients and eleven events say of each of them that it died: so the floor of events is one of patients without
the event, too, as is usual for both cells of a table. The floors are the site's own (`site.yaml: disclosure`), strict
by default; only the simulation, where nothing leaves the machine, loosens them.
"""

import numpy as np
import numpy.typing as npt

from memamba_core.config.site import DisclosureConfig
from memamba_core.survival.concordance import PairCounts
from memamba_core.wire.protocol import Metrics

__all__ = ["disclose_metrics", "may_disclose_outcomes", "suppress_below"]


def suppress_below(count: int, floor: int) -> int | None:
    """`count` if it reaches the floor, else None."""
    return count if count >= floor else None


def may_disclose_outcomes(thresholds: DisclosureConfig, num_patients: int, num_events: int) -> bool:
    """Whether numbers that are made of who had the event may leave.

    Args:
        thresholds: the site's own.
        num_patients: distinct patients in the set.
        num_events: how many of them had the event.
    """
    fewer = min(num_events, num_patients - num_events)
    return num_patients >= thresholds.min_patients and fewer >= thresholds.min_events


def disclose_metrics(
    thresholds: DisclosureConfig,
    *,
    num_patients: int,
    num_events: int,
    loss_sum: float,
    pairs: PairCounts,
    histogram: npt.NDArray[np.int64],
) -> Metrics:
    """The aggregates of one set of patients with everything under the floors left out.

    Args:
        thresholds: the site's own.
        num_patients: distinct patients in the set.
        num_events: how many of them had the event.
        loss_sum: negative log-likelihood summed over them.
        pairs: comparable pairs inside the site.
        histogram: [2, R, T] counts by event, risk and time.
    """
    if num_patients < thresholds.min_patients:
        return Metrics(counts={})
    if not may_disclose_outcomes(thresholds, num_patients, num_events):
        return Metrics(num_patients=num_patients, loss_sum=loss_sum, counts={})
    enough_pairs = pairs.num_pairs >= thresholds.min_pairs
    return Metrics(
        num_patients=num_patients,
        num_events=num_events,
        loss_sum=loss_sum,
        concordant=pairs.concordant if enough_pairs else None,
        discordant=pairs.discordant if enough_pairs else None,
        tied_risk=pairs.tied_risk if enough_pairs else None,
        counts={"histogram": histogram},
    )
