"""L2 norm of an update (weights after training minus weights before), and the bound that a site keeps.

A site scales its update down to `federation.update_norm` before the update leaves, so that one site's data, or one
hostile site, can move the model by a known distance at most. Sites derive from the same bound how far the weights can
move from one round to the next (`client.step_bounds`).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ROUNDING", "bound_update", "update_norm"]

Weights = Mapping[str, npt.NDArray[Any]]
ROUNDING = 1 + 2.0**-7
"""Factor by which the norm of a received update may exceed the bound: `federation.wire=bfloat16_delta` rounds each
change by up to 2^-9 of itself, and float32 weights round by less."""


def update_norm(weights: Weights, base: Weights) -> float:
    """Return the L2 norm of `weights - base` over all parameters, computed in float64.

    Args:
        weights: float arrays by parameter name.
        base: arrays of the same names and shapes.
    """
    return math.sqrt(sum(float(np.square(_change(weights[name], base[name])).sum()) for name in base))


def bound_update(weights: Weights, base: Weights, limit: float | None) -> dict[str, npt.NDArray[Any]]:
    """Return the weights with their distance from `base` scaled down to a limit.

    An update within the limit is returned unchanged, bit by bit.

    Args:
        weights: float32 arrays by parameter name, after training.
        base: arrays of the same names and shapes, before training.
        limit: largest L2 norm of the update over all parameters; None sets no bound.
    """
    norm = update_norm(weights, base) if limit is not None else 0.0
    if limit is None or norm <= limit:
        return dict(weights)
    factor = limit / norm
    return {name: (base[name] + factor * _change(weights[name], base[name])).astype(np.float32) for name in base}


def _change(array: npt.NDArray[Any], base: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    change: npt.NDArray[np.float64] = np.subtract(array, base, dtype=np.float64)
    return change
