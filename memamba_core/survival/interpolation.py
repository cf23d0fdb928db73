"""Survival at any month, from the survival of discrete time bins."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

__all__ = ["survival_at"]


def survival_at(
    survival_BK: Float[np.ndarray, "B K"], edges: Sequence[float], months: float | Sequence[float | int]
) -> Float[np.ndarray, "*B"]:
    """Interpolate survival between the inner edges of the time bins.

    Between two edges the hazard rate is taken as constant, so that log survival is linear in time (and survival never
    rises). At an edge the result is the survival of the model, at month 0 it is 1. After the last edge it is NaN: the
    last bin is open, and the model does not say when in this bin an event happens.

    Args:
        survival_BK: P(no event up to the end of bin k), one row per patient, one column per bin.
        edges: the K-1 inner edges in months, ascending.
        months: one time, or several; not negative.

    Returns:
        Probabilities [B] for one time, [B, M] for M times.

    Raises:
        ValueError: a time is negative or not finite, or the number of edges does not fit.
    """
    times = np.atleast_1d(np.asarray(months, dtype=np.float64))
    if not (np.isfinite(times) & (times >= 0)).all():
        raise ValueError(f"months is {months}; expected finite times of 0 or more")
    if survival_BK.shape[1] != len(edges) + 1:
        raise ValueError(f"survival has {survival_BK.shape[1]} columns; expected {len(edges) + 1}, one more than edges")
    at_edges = np.concatenate([np.ones((len(survival_BK), 1)), survival_BK[:, :-1]], axis=1)
    knots = np.array([0.0, *edges])
    after = np.clip(np.searchsorted(knots, times, side="left"), 1, len(edges))
    share = (times - knots[after - 1]) / (knots[after] - knots[after - 1])
    inside = times <= knots[-1]
    share = np.where(inside, share, 0.0)
    values = at_edges[:, after - 1] ** (1 - share) * at_edges[:, after] ** share
    values = np.where(inside, values, np.nan)
    return values if np.ndim(months) else values[:, 0]
