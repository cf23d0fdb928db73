"""How well survival curves fit, and whether those of groups differ.

These need the patients themselves: they are for simulation and for a site's own eyes. They come from lifelines and
scikit-survival, imported where they are used, because importing them takes seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

from memamba_core.survival.outcomes import check_patients

__all__ = ["integrated_brier_score", "log_rank_p", "time_dependent_auc"]


def log_rank_p(
    time_months: Float[np.ndarray, " n"],
    event: Bool[np.ndarray, " n"],
    group: Bool[np.ndarray, " n"] | Int[np.ndarray, " n"],
) -> float | None:
    """P-value of the log-rank test that groups of patients have the same survival.

    Args:
        time_months: months from diagnosis to the event or to the last visit.
        event: True: it happened at that time. False: censored then.
        group: label of each patient's group, two groups or more; labels have no order.

    Returns:
        The p-value (chi-squared, groups - 1 degrees of freedom), or None where there is nothing to test:
        fewer than two groups, no event, or no time of an event at which two groups were still under
        observation.

    Raises:
        ValueError: arrays of different lengths, `event` not boolean, or a time that is not finite.
    """
    check_patients(time_months, event)
    if len(group) != len(event):
        raise ValueError(f"group has {len(group)} entries for {len(event)} patients; give each patient one")
    if not event.any():
        return None
    # Who was censored before the first event is in no risk set; a group of such patients would only make the
    # statistic's covariance singular. And where all that remain have the event at once, nothing can differ.
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
    """Cumulative/dynamic AUC at each agreed edge (Uno et al. 2007).

    Those who had the event before the edge against those who had not. Patients are ranked by 1 - survival at
    the edge, higher is worse; who was censored before it is accounted for by weights from the censoring
    distribution of the *training* patients.

    Args:
        survival_BK: predicted P(no event up to the end of bin k); column k is survival at `edges[k]`.
        time_months: months to the event or to the last visit, of the patients predicted for.
        event: True: it happened at that time. False: censored then.
        edges: the K-1 agreed interior edges in months, ascending.
        train_time_months: the same of the patients trained on.
        train_event: likewise.

    Returns:
        One value per edge in [0, 1], 0.5 is guessing; None at an edge before the first event, after the end
        of follow-up of the test or the training patients, or everywhere with no event in either set.

    Raises:
        ValueError: arrays that do not fit each other, `event` not boolean, or a value that is not finite.
    """
    scope = _weighted_scope(survival_BK, time_months, event, edges, train_time_months, train_event)
    values: list[float | None] = [None] * len(edges)
    if scope is None:
        return tuple(values)
    from sksurv.metrics import cumulative_dynamic_auc

    time, happened, columns = scope.time_months, scope.event, scope.columns
    columns = [k for k in columns if np.any(happened & (time < edges[k]))]  # without a case there is no curve
    if columns:
        scores, _ = cumulative_dynamic_auc(
            scope.train,
            _outcomes(time, happened),
            1.0 - survival_BK[:, columns],
            _just_before(edges, columns),
        )
        for k, score in zip(columns, scores, strict=True):
            values[k] = float(score)
    return tuple(values)


def integrated_brier_score(
    survival_BK: Float[np.ndarray, "B K"],
    time_months: Float[np.ndarray, " B"],
    event: Bool[np.ndarray, " B"],
    edges: Sequence[float],
    train_time_months: Float[np.ndarray, " n"],
    train_event: Bool[np.ndarray, " n"],
) -> float | None:
    """Brier score of the survival curve, averaged over time (Graf et al. 1999); lower is better.

    The mean squared difference between predicted survival and what happened, weighted for censoring by the
    *training* patients, at each agreed edge within follow-up, and integrated between the first and the last
    of these by the trapezoidal rule. Scores over different edges are not comparable.

    Args:
        survival_BK: predicted P(no event up to the end of bin k); column k is survival at `edges[k]`.
        time_months: months to the event or to the last visit, of the patients predicted for.
        event: True: it happened at that time. False: censored then.
        edges: the K-1 agreed interior edges in months, ascending.
        train_time_months: the same of the patients trained on.
        train_event: likewise.

    Returns:
        A score of zero or more (predicting 0.5 for all gives about 0.25), or None with no event among the
        test or the training patients, or with fewer than two edges within the follow-up of both.

    Raises:
        ValueError: arrays that do not fit each other, `event` not boolean, or a value that is not finite.
    """
    scope = _weighted_scope(survival_BK, time_months, event, edges, train_time_months, train_event)
    if scope is None or len(scope.columns) < 2:
        return None
    from sksurv.metrics import integrated_brier_score as sksurv_integrated_brier_score

    return float(
        sksurv_integrated_brier_score(
            scope.train,
            _outcomes(scope.time_months, scope.event),
            survival_BK[:, scope.columns],
            _just_before(edges, scope.columns),
        )
    )


@dataclass(frozen=True)
class _WeightedScope:
    """What can be weighted for censoring: training outcomes, test outcomes within them, and usable edges."""

    train: npt.NDArray[Any]
    time_months: npt.NDArray[np.floating[Any]]
    event: npt.NDArray[np.bool_]
    columns: list[int]


def _weighted_scope(
    survival_BK: Float[np.ndarray, "B K"],
    time_months: Float[np.ndarray, " B"],
    event: Bool[np.ndarray, " B"],
    edges: Sequence[float],
    train_time_months: Float[np.ndarray, " n"],
    train_event: Bool[np.ndarray, " n"],
) -> _WeightedScope | None:
    """Cut the follow-up to where scikit-survival can weight it; None if nothing is left.

    Its estimators fail, or divide by zero, where the training patients' censoring distribution has run out,
    and refuse times outside the test patients' follow-up. So the test patients' follow-up ends where that
    distribution does (who is seen longer is censored there), and edges not inside it are left out. At an edge
    that stays nothing changes: who was alive after the cut was alive at the edge.
    """
    check_patients(time_months, event, survival=survival_BK)
    check_patients(train_time_months, train_event)
    if survival_BK.shape[1] != len(edges) + 1:
        raise ValueError(
            f"survival has {survival_BK.shape[1]} columns and there are {len(edges)} interior edges; "
            f"{len(edges)} edges make {len(edges) + 1} bins"
        )
    if not event.any() or not train_event.any():
        return None
    from sksurv.nonparametric import CensoringDistributionEstimator

    train = _outcomes(train_time_months, train_event)
    censoring = CensoringDistributionEstimator().fit(train)
    horizon = censoring.unique_time_[censoring.prob_ > 0][-1]
    event = event & (time_months <= horizon)
    if not event.any():
        return None
    time_months = np.minimum(time_months, horizon).astype(np.float64)
    first, last = time_months.min(), time_months.max()
    columns = [k for k, edge in enumerate(edges) if first < edge <= last]
    return _WeightedScope(train, time_months, event, columns)


def _just_before(edges: Sequence[float], columns: list[int]) -> npt.NDArray[np.float64]:
    """The last representable moment before each edge.

    Bins are [a, b): an event exactly at an edge is survived by the bin that ends there. scikit-survival
    counts it as happened at that time; a moment earlier both agree.
    """
    return np.nextafter(np.array([edges[k] for k in columns], dtype=np.float64), 0.0)


def _outcomes(time_months: Float[np.ndarray, " n"], event: Bool[np.ndarray, " n"]) -> npt.NDArray[Any]:
    """Times and events as the structured array that scikit-survival wants."""
    outcomes = np.empty(len(event), dtype=[("event", np.bool_), ("time", np.float64)])
    outcomes["event"], outcomes["time"] = event, time_months
    return outcomes
