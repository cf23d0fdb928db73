"""Concordance of risks with outcomes: counts of comparable pairs, which sites can add up, and Harrell's index."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from memamba_core.errors import NoComparablePairError
from memamba_core.survival.outcomes import check_patients

__all__ = ["FEWEST_PAIRS", "PairCounts", "concordance_index", "concordance_interval", "count_pairs"]

FEWEST_PAIRS = 20
"""Fewest comparable pairs behind a C-index that a result shows: one more pair in order changes it by 0.05."""


@dataclass(frozen=True)
class PairCounts:
    """Counts of comparable pairs of patients, by the order of their risks; `PairCounts()` is none.

    Counts of disjoint sets of patients add up to the pairs *inside* the sets; pairs across sets are not in
    the sum.

    Attributes:
        concordant: the patient who had the event first had the higher risk.
        discordant: the patient who had the event first had the lower risk.
        tied_risk: both patients had the same risk.
    """

    concordant: int = 0
    discordant: int = 0
    tied_risk: int = 0

    def __post_init__(self) -> None:
        if min(self.concordant, self.discordant, self.tied_risk) < 0:
            raise ValueError(f"counts of pairs are {self}; expected none below zero. Pass counts, not differences.")

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

        1 is a perfect order, 0.5 is guessing, 0 is the perfect order reversed.

        Raises:
            NoComparablePairError: there is no comparable pair; an index of 0.5 would claim knowledge.
        """
        if not self.num_pairs:
            raise NoComparablePairError(
                "no comparable pair of patients: no patient had an event before another patient's last visit. "
                "Add up the pairs of more patients before you compute an index."
            )
        return (self.concordant + 0.5 * self.tied_risk) / self.num_pairs


def count_pairs(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> PairCounts:
    """Count the comparable pairs of a set of patients (Harrell et al. 1996).

    A pair is comparable if the patient with the shorter time had the event. At equal times a patient with the
    event is comparable with a censored patient (who was alive then); two patients with events are not comparable.
    lifelines and scikit-survival do the same. Ties in risk are exact here, as in lifelines; scikit-survival and
    torchsurv treat risks within 1e-8 as equal.

    The function compares each event with all patients who lived longer: 0.1 s for 10,000 patients, linear memory.

    Args:
        risk: higher is worse. lifelines' `concordance_index` expects the opposite sign, scikit-survival's the
            same.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: the event happened at that time. False: the patient was censored then.

    Returns:
        The counts; all zero if there is no event, no patient, or no patient who outlived an event.

    Raises:
        ValueError: the arrays differ in length, `event` is not boolean, or a value is not finite.
    """
    check_patients(time_months, event, risk=risk)
    num_pairs = concordant = discordant = 0
    for event_risk, later_risk, _, _ in _comparable(risk, time_months, event):
        num_pairs += len(later_risk)
        concordant += int(np.count_nonzero(later_risk < event_risk))
        discordant += int(np.count_nonzero(later_risk > event_risk))
    return PairCounts(concordant, discordant, num_pairs - concordant - discordant)


def concordance_index(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> float:
    """Compute Harrell's concordance index of a set of patients over all its pairs: `count_pairs(...).c_index`.

    Args:
        risk: higher is worse.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: the event happened at that time. False: the patient was censored then.

    Returns:
        A value in [0, 1]; 0.5 is guessing.

    Raises:
        NoComparablePairError: there is no event, or no patient outlived an event.
        ValueError: as `count_pairs`.
    """
    return count_pairs(risk, time_months, event).c_index


def concordance_interval(
    risk: Float[np.ndarray, " n"],
    time_months: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    confidence: float = 0.95,
) -> tuple[float, float] | None:
    """Estimate a confidence interval of Harrell's concordance index (Pencina & D'Agostino 2004).

    The interval is normal with Noether's standard error, cut to [0, 1]. It describes one set of patients and one
    fixed model: it leaves out the variation that another training run or another split would bring.

    torchsurv has the same formula but counts each pair for the patient with the event only, where the source counts
    it for both patients; torchsurv's standard error is therefore about twice the standard deviation of the index.
    Given the counts of both patients, torchsurv's interval is this one.

    Args:
        risk: higher is worse. A tie in risk counts as half a concordant and half a discordant pair, so that the
            interval lies around `concordance_index`.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: the event happened at that time. False: the patient was censored then.
        confidence: probability that the interval holds the index of the population, between 0 and 1.

    Returns:
        Lower and upper bound, or None if the standard error is not defined or zero: fewer than three patients, no
        comparable pair, or all pairs in the same order.

    Raises:
        ValueError: as `count_pairs`, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; expected a value between 0 and 1, for example 0.95")
    counts = count_pairs(risk, time_months, event)
    num = len(event)
    if num < 3 or not counts.num_pairs:
        return None
    concordant, discordant = _pairs_of_each_patient(risk, time_months, event)
    pairs, triples = num * (num - 1), num * (num - 1) * (num - 2)
    p_c, p_d = concordant.sum() / pairs, discordant.sum() / pairs
    p_cc = (concordant * (concordant - 1)).sum() / triples
    p_dd = (discordant * (discordant - 1)).sum() / triples
    p_cd = (concordant * discordant).sum() / triples
    variance = 4 / (p_c + p_d) ** 4 * (p_d**2 * p_cc - 2 * p_c * p_d * p_cd + p_c**2 * p_dd)
    if variance <= 0:
        return None
    half = NormalDist().inv_cdf((1 + confidence) / 2) * float(np.sqrt(variance / num))
    return max(0.0, counts.c_index - half), min(1.0, counts.c_index + half)


def _comparable(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> Iterator[tuple[float, npt.NDArray[np.floating], int, npt.NDArray[np.intp]]]:
    """Yield each event's risk, the risks of all patients comparable with it, and the indices of both."""
    # At equal times events come before censored patients. So all patients comparable with an event stand behind the
    # last event of its time, without a gap.
    order = np.lexsort((~event, time_months))
    risk, time_months, event = risk[order], time_months[order], event[order]
    events = np.flatnonzero(event)
    event_times = time_months[events]
    events_until = np.searchsorted(event_times, event_times, side="right")  # counts events only
    starts = events[events_until - 1] + 1
    for start, index in zip(starts.tolist(), events.tolist(), strict=True):
        yield risk[index], risk[start:], int(order[index]), order[start:]


def _pairs_of_each_patient(
    risk: Float[np.ndarray, " n"], time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Count the concordant and the discordant pairs that each patient is part of; a tie in risk is half of each."""
    concordant, discordant = np.zeros(len(event)), np.zeros(len(event))
    for event_risk, later_risk, index, later in _comparable(risk, time_months, event):
        share = (1 + np.sign(event_risk - later_risk)) / 2
        concordant[later] += share
        discordant[later] += 1 - share
        concordant[index] += share.sum()
        discordant[index] += (1 - share).sum()
    return concordant, discordant
