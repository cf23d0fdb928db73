"""Renyi divergence of noisy steps, and the filter that holds adaptively chosen steps under a cap.

The divergence of a Poisson-subsampled Gaussian step is that of Mironov, Talwar & Zhang 2019, at whole orders, where it
is a finite sum. A divergence at one order converts to (epsilon, delta) by Balle et al. 2020, theorem 21.

A filter decides, before each charge, whether it still fits. The noise of a later run may be chosen after looking at the
results of earlier ones, and an accountant for a fixed list of steps proves nothing then. Feldman & Zrnic 2021 (arXiv
2008.11193) proved for one fixed order: if the divergences of all steps, however they are chosen, never add up to more
than a budget, then the whole sequence has at most this divergence. The order must not depend on the data; this project
fixes it with the first charge of a ledger.
"""

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import gammaln, logsumexp

from memamba_core.privacy.noisy_step import NoisyStep

__all__ = ["ORDERS", "best_order", "epsilon_by_renyi", "renyi_budget", "renyi_cost"]

ORDERS: Final = tuple(range(2, 65))
"""Orders of divergence. Each gives a bound; a fractional order would be a series that converges slowly."""
_SMALLEST_COST: Final = 1e-300
"""Cost of a step whose divergence is zero in float64, for a choice by ratios."""
_ORDERS_A1: Final = np.array(ORDERS)[:, None]
_TERMS_I: Final = np.arange(ORDERS[-1] + 1)
_IN_SUM_AI: Final = _TERMS_I <= _ORDERS_A1
_REST_AI: Final = np.maximum(_ORDERS_A1 - _TERMS_I, 0)
_LOG_BINOMIALS_AI: Final = gammaln(_ORDERS_A1 + 1) - gammaln(_TERMS_I + 1) - gammaln(_REST_AI + 1)
Spent = Iterable[tuple[NoisyStep, int]]


def renyi_cost(spent: Spent, order: int) -> float:
    """Return the divergence of these steps at an order; divergences of steps add up."""
    return sum(count * _divergences(step)[ORDERS.index(order)] for step, count in spent)


def renyi_budget(order: int, epsilon: float, delta: float) -> float:
    """Return the largest divergence at an order that implies (epsilon, delta); below zero: none does."""
    return epsilon - _conversion(order, delta)


def epsilon_by_renyi(spent: Spent, delta: float) -> float:
    """Return the smallest epsilon that the divergences of a fixed list of steps imply."""
    steps = list(spent)
    return min(renyi_cost(steps, order) + _conversion(order, delta) for order in ORDERS)


def best_order(step: NoisyStep, epsilon: float, delta: float) -> int:
    """Return the order at which the most steps of this kind fit under a cap."""
    costs = {order: max(renyi_cost([(step, 1)], order), _SMALLEST_COST) for order in ORDERS}
    return max(ORDERS, key=lambda order: renyi_budget(order, epsilon, delta) / costs[order])


def _conversion(order: int, delta: float) -> float:
    return math.log((order - 1) / order) - (math.log(delta) + math.log(order)) / (order - 1)


@lru_cache(maxsize=4096)
def _divergences(step: NoisyStep) -> tuple[float, ...]:
    """Return the divergence of one step at each order: log of a binomial sum (Mironov et al. 2019, section 3.3)."""
    q, sigma = step.sampling_rate, step.noise_multiplier
    terms_AI = (
        _LOG_BINOMIALS_AI
        + _TERMS_I * math.log(q)
        + _REST_AI * math.log1p(-q)
        + (_TERMS_I**2 - _TERMS_I) / (2 * sigma**2)
    )
    logs_A = logsumexp(np.where(_IN_SUM_AI, terms_AI, -np.inf), axis=1)
    return tuple(np.maximum(0.0, logs_A / (_ORDERS_A1[:, 0] - 1)).tolist())
