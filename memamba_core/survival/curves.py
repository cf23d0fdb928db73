"""Fit of survival curves, and the log-rank test between groups of patients.

These measures need the outcomes of single patients: they are for simulation and for a site's own use. They come from
lifelines and torchsurv, which are imported where they are used, because importing them takes seconds.

Both weighted measures give the numbers of scikit-survival. Three of torchsurv's conventions would break that, and each
has its remedy here:

* torchsurv rounds times to float32, so a time next to an edge may change sides, and an edge at the end of follow-up is
  refused. It gets time bins instead, and bin boundaries for edges: only the order of times and edges matters.
* torchsurv's `get_ipcw` computes the censoring distribution in float32, with an error up to 1e-6 for hundreds of
  patients. `_censoring_survival` computes it in float64.
* torchsurv weighs every patient 0 after the end of the censoring distribution. `_weighted_scope` cuts the follow-up
  there instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int

from memamba_core.survival.outcomes import check_patients
from memamba_core.survival.time_bins import assign_time_bins

__all__ = ["integrated_brier_score", "log_rank_p", "time_dependent_auc"]


def log_rank_p(
    time_months: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    group: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
) -> float | None:
    """Compute the p-value of the log-rank test that groups of patients have the same survival.

    Args:
        time_months: months from diagnosis to the event or to the last visit.
        event: True: the event happened at that time. False: the patient was censored then.
        group: label of each patient's group, two groups or more; labels have no order.

    Returns:
        The p-value (chi-squared, groups - 1 degrees of freedom). None if there is nothing to test: fewer than two
        groups, no event, or no event time at which two groups were still under observation.

    Raises:
        ValueError: the arrays differ in length, `event` is not boolean, or a time is not finite.
    """
    check_patients(time_months, event)
    if len(group) != len(event):
        raise ValueError(f"group has {len(group)} entries; expected {len(event)}. Give each patient one label.")
    if not event.any():
        return None
    # A patient censored before the first event is in no risk set, and a group of such patients would make the
    # covariance of the statistic singular. If all remaining patients have the event at once, no group can differ.
    first = time_months[event].min()
    remains = time_months >= first
    if len(np.unique(group[remains])) < 2 or np.all(event[remains] & (time_months[remains] == first)):
        return None
    from lifelines.statistics import multivariate_logrank_test

    return float(multivariate_logrank_test(time_months[remains], group[remains], event[remains]).p_value)


def time_dependent_auc(
    survival_BK: Float[np.ndarray, "B K"],
    time_months: Float[np.ndarray, " B"],
    event: Bool[np.ndarray, " B"],
    edges: Sequence[float],
    train_time_months: Float[np.ndarray, " n"],
    train_event: Bool[np.ndarray, " n"],
) -> tuple[float | None, ...]:
    """Compute the cumulative/dynamic AUC at each agreed edge (Uno et al. 2007).

    The AUC compares patients with the event before the edge with patients without it. It ranks them by 1 - survival at
    the edge, higher is worse. Weights from the censoring distribution of the *training* patients account for patients
    censored before the edge.

    Args:
        survival_BK: predicted P(no event up to the end of bin k); column k is survival at `edges[k]`.
        time_months: months to the event or to the last visit, of the patients predicted for.
        event: True: the event happened at that time. False: the patient was censored then.
        edges: the K-1 agreed interior edges in months, ascending.
        train_time_months: the same of the training patients.
        train_event: the same of the training patients.

    Returns:
        One value per edge in [0, 1]; 0.5 is guessing. None at an edge before the first event or after the end of
        follow-up of the test or the training patients, and at every edge if either set has no event.

    Raises:
        ValueError: the arrays do not fit each other, `event` is not boolean, a value is not finite, or a survival lies
            outside [0, 1].
    """
    scope = _weighted_scope(survival_BK, time_months, event, edges, train_time_months, train_event)
    values: list[float | None] = [None] * len(edges)
    if scope is None:
        return tuple(values)
    columns = [k for k in scope.columns if np.any(scope.event & (scope.time_bin <= k))]  # no curve without a case
    if columns:
        from torchsurv.metrics.auc import Auc

        scores = Auc()(
            torch.from_numpy(1.0 - survival_BK[:, columns]).double(),
            torch.from_numpy(scope.event),
            torch.from_numpy(scope.time_bin).double(),
            weight=torch.from_numpy(scope.weight),
            new_time=_ends_of_bins(columns),
            weight_new_time=torch.from_numpy(scope.weight_at_edge[columns]),
        )
        for k, score in zip(columns, scores.tolist(), strict=True):
            values[k] = score
    return tuple(values)


def integrated_brier_score(
    survival_BK: Float[np.ndarray, "B K"],
    time_months: Float[np.ndarray, " B"],
    event: Bool[np.ndarray, " B"],
    edges: Sequence[float],
    train_time_months: Float[np.ndarray, " n"],
    train_event: Bool[np.ndarray, " n"],
) -> float | None:
    """Compute the Brier score of the survival curve, averaged over time (Graf et al. 1999); lower is better.

    The score at an edge is the mean squared difference between predicted survival and outcome, weighted for censoring
    by the *training* patients. The trapezoidal rule integrates it between the first and the last agreed edge within
    follow-up. Scores over different edges are not comparable.

    Args:
        survival_BK: predicted P(no event up to the end of bin k); column k is survival at `edges[k]`.
        time_months: months to the event or to the last visit, of the patients predicted for.
        event: True: the event happened at that time. False: the patient was censored then.
        edges: the K-1 agreed interior edges in months, ascending.
        train_time_months: the same of the training patients.
        train_event: the same of the training patients.

    Returns:
        A score of zero or more; predicting 0.5 for all patients gives about 0.25. None with no event among the test or
        the training patients, or with fewer than two edges within the follow-up of both.

    Raises:
        ValueError: as `time_dependent_auc`.
    """
    scope = _weighted_scope(survival_BK, time_months, event, edges, train_time_months, train_event)
    if scope is None or len(scope.columns) < 2:
        return None
    from torchsurv.metrics.brier_score import BrierScore

    scores = BrierScore()(
        torch.from_numpy(survival_BK[:, scope.columns]).double(),
        torch.from_numpy(scope.event),
        torch.from_numpy(scope.time_bin).double(),
        new_time=_ends_of_bins(scope.columns),
        weight=torch.from_numpy(scope.weight),
        weight_new_time=torch.from_numpy(scope.weight_at_edge[scope.columns]),
    )
    months = np.array([edges[k] for k in scope.columns], dtype=np.float64)
    return float(np.trapezoid(scores.numpy(), months) / (months[-1] - months[0]))


@dataclass(frozen=True)
class _WeightedScope:
    """Test outcomes within the follow-up of the training patients, with censoring weights and usable edges.

    Attributes:
        time_bin: bin of each test patient's time; a time on an edge belongs to the later bin.
        event: True: the event happened in that bin, within follow-up.
        weight: inverse probability of being uncensored at the patient's time; 0 where that probability is 0.
        weight_at_edge: the same just before each edge, one value per edge.
        columns: indices of the usable edges.
    """

    time_bin: npt.NDArray[np.int64]
    event: npt.NDArray[np.bool_]
    weight: npt.NDArray[np.float64]
    weight_at_edge: npt.NDArray[np.float64]
    columns: list[int]


def _weighted_scope(
    survival_BK: Float[np.ndarray, "B K"],
    time_months: Float[np.ndarray, " B"],
    event: Bool[np.ndarray, " B"],
    edges: Sequence[float],
    train_time_months: Float[np.ndarray, " n"],
    train_event: Bool[np.ndarray, " n"],
) -> _WeightedScope | None:
    """Cut the follow-up to the part that can be weighted for censoring; None if nothing is left.

    After the end of the training patients' censoring distribution the weights are not defined. So the follow-up of the
    test patients ends there: a patient observed longer is censored at that time, and an edge outside the follow-up is
    left out. At an edge that stays nothing changes: a patient alive after the cut was alive at the edge.
    """
    check_patients(time_months, event, survival=survival_BK)
    check_patients(train_time_months, train_event)
    if survival_BK.shape[1] != len(edges) + 1:
        raise ValueError(
            f"survival has {survival_BK.shape[1]} columns and there are {len(edges)} interior edges; "
            f"expected {len(edges) + 1} columns. Give one column per time bin."
        )
    if survival_BK.size and not 0 <= survival_BK.min() <= survival_BK.max() <= 1:
        raise ValueError(
            f"survival lies in [{survival_BK.min():.4g}, {survival_BK.max():.4g}]; expected [0, 1]. "
            "Give probabilities, not logits or risks."
        )
    if not event.any() or not train_event.any():
        return None
    times, censoring_survival = _censoring_survival(train_time_months, train_event)
    horizon = times[censoring_survival > 0][-1]
    event = event & (time_months <= horizon)
    if not event.any():
        return None
    time_months = np.minimum(time_months, horizon).astype(np.float64)
    first, last = time_months.min(), time_months.max()
    return _WeightedScope(
        time_bin=assign_time_bins(time_months, edges),
        event=event,
        weight=_inverse(censoring_survival[np.searchsorted(times, time_months, side="right") - 1]),
        # Just before the edge, because bins are [a, b): a patient censored exactly at an edge was observed up to it.
        weight_at_edge=_inverse(censoring_survival[np.searchsorted(times, edges, side="left") - 1]),
        columns=[k for k, edge in enumerate(edges) if first < edge <= last],
    )


def _censoring_survival(
    time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Estimate P(not censored up to and including t) by Kaplan-Meier with the roles of event and censoring exchanged.

    At equal times events come before censored patients, so a patient with the event is not at risk of censoring then.

    Returns:
        The times at which the step function takes a value, ascending from minus infinity, and its values there.
    """
    times, index, num_patients = np.unique(time_months, return_inverse=True, return_counts=True)
    num_events = np.bincount(index, weights=event, minlength=len(times))
    at_risk = num_patients[::-1].cumsum()[::-1] - num_events
    num_censored = num_patients - num_events
    hazard = np.divide(num_censored, at_risk, out=np.zeros(len(times)), where=num_censored > 0)
    return np.append(-np.inf, times), np.append(1.0, np.cumprod(1.0 - hazard))


def _inverse(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return 1 / probability, and 0 where the probability is 0."""
    return np.divide(1.0, probability, out=np.zeros_like(probability), where=probability > 0)


def _ends_of_bins(columns: list[int]) -> torch.Tensor:
    """Return a number between bin k and bin k + 1 for each edge k: bins 0...k lie before the edge."""
    return torch.tensor(columns, dtype=torch.float64) + 0.5
