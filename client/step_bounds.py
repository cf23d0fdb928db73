"""Largest step that the coordinator's strategy can take in a round, given that each site bounds its own update.

Each site returns an update (its weights minus the weights that it received) of L2 norm U = `federation.update_norm` at
most, over all parameters. The strategies work on each parameter group separately (krum: on the whole model), with
weights p_i of the sites that sum to 1 in each group. Below, u_i is the part of a site's update in one group, so
||u_i|| <= U, and d the aggregate's step from the weights that were sent.

==============  ===================================================================================================
strategy        bound of ||d|| in round t
==============  ===================================================================================================
fedavg          U, because the norm of a mean is at most the mean of the norms
fedprox         U: the proximal term acts at the sites, before they bound their updates
krum            U: the step is the update of one site
fedmedian       sqrt(2) U. At least half of the n values of a coordinate are as far from zero as their median, on its
                side; so med^2 <= (2/n) sum u_ij^2, and the sum over coordinates is at most (2/n) n U^2
fedtrimmedavg   U sqrt(min(1 / (1 - 2 beta), 1 / beta)). The mean of the n - 2k values that remain has a square of at
                most sum u_ij^2 / (n - 2k), and n - 2k >= (1 - 2 beta) n. Also, k + 1 > beta n values are at least as
                far from zero as that mean, on its side
fedavgm         eta U (1 - b^t) / (1 - b): the momentum b adds up the updates of t rounds at most
fedadam         see `_adaptive`: a bound per coordinate, which does not depend on U, and eta f U / tau
fedyogi         the same with another second moment
==============  ===================================================================================================

A group that no site trained in a round keeps its weights and its moments, which is a step of zero; all bounds grow with
t, so that fewer rounds of a group than of the run are covered.
"""

import math
from dataclasses import dataclass

from memamba_core.config.strategy import (
    FedAdamConfig,
    FedAvgMConfig,
    FedMedianConfig,
    FedTrimmedAvgConfig,
    FedYogiConfig,
    StrategyConfig,
)

__all__ = ["StepBound", "path_bound", "step_bound"]


@dataclass(frozen=True)
class StepBound:
    """Largest change of the weights of a parameter group.

    Attributes:
        norm: L2 norm over the group.
        coordinate: absolute change of one weight; infinite where the strategy bounds the norm alone.
    """

    norm: float
    coordinate: float = math.inf

    def __add__(self, other: "StepBound") -> "StepBound":
        return StepBound(self.norm + other.norm, self.coordinate + other.coordinate)


def step_bound(strategy: StrategyConfig, update_norm: float, server_round: int) -> StepBound:
    """Return the largest step that aggregating a round can take in each parameter group.

    Args:
        strategy: of the run.
        update_norm: U, largest L2 norm of a site's update.
        server_round: the round that is aggregated, from 1.
    """
    match strategy:
        case FedAvgMConfig():
            rounds = _geometric(strategy.server_momentum, server_round)
            return StepBound(strategy.server_learning_rate * rounds * update_norm)
        case FedMedianConfig():
            return StepBound(math.sqrt(2) * update_norm)
        case FedTrimmedAvgConfig():
            beta = strategy.trim_fraction
            return StepBound(math.sqrt(min(1 / (1 - 2 * beta), 1 / beta if beta else math.inf)) * update_norm)
        case FedAdamConfig() | FedYogiConfig():
            return _adaptive(strategy, update_norm, server_round)
        case _:
            return StepBound(update_norm)


def path_bound(strategy: StrategyConfig, update_norm: float, first: int, last: int) -> StepBound:
    """Return the largest distance that the weights can move while rounds `first`...`last` are aggregated.

    The distance is zero where `last` is below `first`.
    """
    total = StepBound(0.0, 0.0)
    for server_round in range(first, last + 1):
        total += step_bound(strategy, update_norm, server_round)
    return total


def _adaptive(strategy: FedAdamConfig | FedYogiConfig, update_norm: float, server_round: int) -> StepBound:
    """Bound a step eta f m / (sqrt(v) + tau), where f is Adam's correction of the start (1 for Yogi).

    m is the sum over the last updates D of a coordinate, (1 - b1) sum b1^i D_i, i = 0 the newest.

    * Adam: v = (1 - b2) sum b2^i D_i^2. By Cauchy-Schwarz |m| <= (1 - b1) sqrt(sum (b1^2 / b2)^i) sqrt(sum b2^i D_i^2),
      so |m| / sqrt(v) <= (1 - b1) / sqrt(1 - b2) sqrt(sum (b1^2 / b2)^i).
    * Yogi: each step leaves v >= b2 v before and v >= min(b2, 1 - b2) D^2, so D_i^2 <= v / (b2^i min(b2, 1 - b2)) and
      |m| / sqrt(v) <= (1 - b1) / sqrt(min(b2, 1 - b2)) sum (b1 / sqrt(b2))^i.

    Both also have |m| / (sqrt(v) + tau) <= |m| / tau, and m as a vector has norm U at most.
    """
    b1, b2, eta = strategy.beta_1, strategy.beta_2, strategy.server_learning_rate
    if isinstance(strategy, FedAdamConfig):
        eta *= math.sqrt(1 - b2 ** (server_round + 1)) / (1 - b1 ** (server_round + 1))
        ratio = (1 - b1) / math.sqrt(1 - b2) * math.sqrt(_geometric(b1**2 / b2 if b2 else math.inf, server_round))
    elif b2:
        ratio = (1 - b1) / math.sqrt(min(b2, 1 - b2)) * _geometric(b1 / math.sqrt(b2), server_round)
    else:
        ratio = math.inf
    return StepBound(norm=eta * update_norm / strategy.tau, coordinate=eta * ratio)


def _geometric(ratio: float, terms: int) -> float:
    """Return 1 + ratio + ... with a number of terms; infinite where it is too large for a float."""
    if math.isinf(ratio):
        return 1.0 if terms <= 1 else math.inf
    total, term = 0.0, 1.0
    for _ in range(terms):
        total, term = total + term, term * ratio
        if term == 0.0 or math.isinf(total):
            break
    return total
