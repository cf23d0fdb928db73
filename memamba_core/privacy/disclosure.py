"""Suppress numbers about fewer patients than the thresholds of the site.

In a site of one patient every sum is the value of this patient, and a concordance over two pairs reveals who died
first. Eleven events among eleven patients reveal that each of them died: the threshold of events therefore also applies
to the patients without the event, as is usual for both cells of a table. The thresholds are those of the site
(`site.yaml: disclosure`) and strict by default; only the simulation, where no number leaves the machine, lowers them.
"""

import numpy as np
import numpy.typing as npt

from memamba_core.config.site import DisclosureConfig
from memamba_core.survival.concordance import PairCounts
from memamba_core.wire.protocol import Metrics

__all__ = ["disclose_metrics", "may_disclose_outcomes", "suppress_below"]


def suppress_below(count: int, threshold: int) -> int | None:
    """Return `count` if it reaches the threshold, else None."""
    return count if count >= threshold else None


def may_disclose_outcomes(thresholds: DisclosureConfig, num_patients: int, num_events: int) -> bool:
    """Return True if numbers that depend on who had the event may leave the site.

    Args:
        thresholds: thresholds of the site.
        num_patients: distinct patients in the set.
        num_events: patients in the set who had the event.
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
    """Build the aggregates of one set of patients without the numbers below the thresholds.

    Args:
        thresholds: thresholds of the site.
        num_patients: distinct patients in the set.
        num_events: patients in the set who had the event.
        loss_sum: negative log-likelihood summed over the patients.
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
