"""How well risks rank patients: comparable pairs, which sites can count and add up, and Harrell's index of them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from memamba_core.errors import NoComparablePairError
from memamba_core.survival.outcomes import check_patients

__all__ = ["PairCounts", "concordance_index", "count_pairs"]


@dataclass(frozen=True)
class PairCounts:
    """Comparable pairs of patients, by whether their risks are in the right order; `PairCounts()` is none.

    Counts of disjoint sets of patients add up to the pairs *inside* the sets; pairs across sets are not in
    the sum.

    Attributes:
        concordant: who had the event first had the higher risk.
        discordant: who had the event first had the lower risk.
        tied_risk: both had the same risk.
    """

    concordant: int = 0
    discordant: int = 0
    tied_risk: int = 0

    def __post_init__(self) -> None:
        if min(self.concordant, self.discordant, self.tied_risk) < 0:
            raise ValueError(f"counts of pairs cannot be negative, got {self}")

    def __add__(self, other: "PairCounts") -> "PairCounts":
        if not isinstance(other, PairCounts):
            return NotImplemented
        return PairCounts(
            self.concordant + other.concordant,
            self.discordant + other.discordant,
            self.tied_risk + other.tied_risk,
        )

    @property
    def num_pairs(self) -> int:
        """Number of comparable pairs."""
        return self.concordant + self.discordant + self.tied_risk

    @property
    def c_index(self) -> float:
        """Share of comparable pairs in the right order, ties in risk counted half (Harrell et al. 1996).

        1 is a perfect order, 0.5 what guessing gives, 0 the perfect order upside down.

        Raises:
            NoComparablePairError: there is no comparable pair; an index of 0.5 would claim knowledge.
        """
        if not self.num_pairs:
            raise NoComparablePairError(
                "no comparable pair of patients: nobody had an event before another one's last visit. "
                "Add up the pairs of more patients before asking for an index"
            )
        return (self.concordant + 0.5 * self.tied_risk) / self.num_pairs


def count_pairs(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> PairCounts:
    """Count the comparable pairs of a set of patients (Harrell et al. 1996).

    A pair is comparable if the one with the shorter time had the event. At equal times a patient with the
    event is comparable with a censored one (who was alive then), two events are not. So do lifelines and
    scikit-survival; but ties in risk are exact here, as in lifelines, where scikit-survival takes risks
    within 1e-8 for equal.

    Takes one comparison of each event with all who lived longer: 0.1 s for 10,000 patients, linear memory.

    Args:
        risk: higher is worse. lifelines' `concordance_index` wants the opposite sign, scikit-survival's the
            same.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: it happened at that time. False: censored then.

    Returns:
        The counts; all zero with no event, no patient, or nobody who outlived an event.

    Raises:
        ValueError: arrays of different lengths, `event` not boolean, or a value that is not finite.
    """
    check_patients(time_months, event, risk=risk)
    # At equal times events come before censored patients; then all who are comparable with an event stand
    # behind the last event of its time, without a gap.
    order = np.lexsort((~event, time_months))
    risk, time_months, event = risk[order], time_months[order], event[order]
    events = np.flatnonzero(event)
    event_times = time_months[events]
    events_until = np.searchsorted(event_times, event_times, side="right")  # of the events alone
    starts = events[events_until - 1] + 1

    num_pairs = concordant = discordant = 0
    for start, event_risk in zip(starts.tolist(), risk[events], strict=True):
        later_risk = risk[start:]
        num_pairs += len(later_risk)
        concordant += int(np.count_nonzero(later_risk < event_risk))
        discordant += int(np.count_nonzero(later_risk > event_risk))
    return PairCounts(concordant, discordant, num_pairs - concordant - discordant)


def concordance_index(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> float:
    """Harrell's concordance index of a set of patients, all pairs in it: `count_pairs(...).c_index`.

    Args:
        risk: higher is worse.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: it happened at that time. False: censored then.

    Returns:
        A value in [0, 1]; 0.5 is guessing.

    Raises:
        NoComparablePairError: no event, or nobody who outlived one.
        ValueError: as `count_pairs`.
    """
    return count_pairs(risk, time_months, event).c_index
