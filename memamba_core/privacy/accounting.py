"""Account for noisy steps in (epsilon, delta), and calibrate the noise for a given epsilon.

The mechanism is the Poisson-subsampled Gaussian (Abadi et al. 2016; Mironov et al. 2019): each patient is drawn
independently with probability q, and the sum of clipped gradients gets normal noise of standard deviation sigma C.
Neighbouring data sets differ by one patient, added or removed. Epsilon is the upper bound of Opacus' PRV accountant
(Gopi et al. 2021); the RDP accountant of Opacus, also an upper bound, is the fast check before it. The central limit of
Gaussian DP reports too small an epsilon and is not offered.
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from memamba_core.errors import ConfigError

__all__ = ["NOISE_RANGE", "NoisyStep", "calibrate_noise", "epsilon_of"]

NOISE_RANGE: Final = (0.3, 1000.0)
"""Accepted noise multipliers. Below this range an accountant takes very long to find that nothing is private."""
_MOST_STEPS: Final = 100_000
_HOPELESS: Final = 50.0
"""Epsilon by RDP above which PRV is not computed: such an epsilon supports no claim, and PRV would take minutes."""
_RDP_ORDERS: Final = (1.25, 1.5, 1.75, *range(2, 65))
"""Orders of divergence of the fast check. Every order gives a bound; the hundred fractional orders of Opacus are slow
if q is large."""
_PRV_ERROR: Final = 0.01
"""Accuracy of the numerical composition, in epsilon; the error is on the safe side."""
_Spent = tuple[tuple["NoisyStep", int], ...]


@dataclass(frozen=True, order=True)
class NoisyStep:
    """One step of DP-SGD, in the terms of an accountant.

    Attributes:
        noise_multiplier: sigma, standard deviation of the noise over the clipping norm.
        sampling_rate: q, probability with which each patient takes part.
    """

    noise_multiplier: float
    sampling_rate: float

    def __post_init__(self) -> None:
        low, high = NOISE_RANGE
        if not low <= self.noise_multiplier <= high:
            raise ConfigError(f"noise_multiplier must be in [{low}, {high}], got {self.noise_multiplier}")
        if not 0.0 < self.sampling_rate < 1.0:
            raise ConfigError(f"sampling_rate must be in (0, 1), got {self.sampling_rate}")


def epsilon_of(spent: Iterable[tuple[NoisyStep, int]], delta: float) -> float:
    """Compute the epsilon of all these steps together.

    Args:
        spent: kinds of steps with how many of each; equal kinds are added up.
        delta: delta of the guarantee.

    Returns:
        The lower of the upper bounds by PRV and RDP; the bound by RDP alone if it is above 50.

    Raises:
        ConfigError: delta or a number of steps is out of range.
        MissingBackendError: Opacus is not installed.
    """
    _check_delta(delta)
    total: Counter[NoisyStep] = Counter()
    for step, count in spent:
        if count < 0:
            raise ConfigError(f"a number of steps cannot be negative, got {count}")
        total[step] += count
    if sum(total.values()) > _MOST_STEPS:
        raise ConfigError(f"{sum(total.values())} noisy steps; at most {_MOST_STEPS} are accounted for")
    return _epsilon(tuple(sorted((step, count) for step, count in total.items() if count)), delta)


@lru_cache(maxsize=4096)
def _epsilon(spent: _Spent, delta: float) -> float:
    if not spent:
        return 0.0
    by_rdp = _by_rdp(spent, delta)
    if not by_rdp <= _HOPELESS:
        return by_rdp
    return min(_by_accountant("prv", spent, delta=delta, eps_error=_PRV_ERROR), by_rdp)


@lru_cache(maxsize=4096)
def _by_rdp(spent: _Spent, delta: float) -> float:
    return _by_accountant("rdp", spent, delta=delta, alphas=list(_RDP_ORDERS))


def _by_accountant(mechanism: str, spent: _Spent, **options: Any) -> float:
    from memamba_core.privacy.opacus_imports import create_accountant

    accountant = create_accountant(mechanism)
    accountant.history = [(step.noise_multiplier, step.sampling_rate, count) for step, count in spent]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the warning suggests orders of divergence with a tighter bound
        return float(accountant.get_epsilon(**options))


def calibrate_noise(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    """Find the smallest noise multiplier (to 0.001) with which `steps` steps cost at most `epsilon`.

    `steps` are those of a whole run: calibrated per round, an epsilon of 8 becomes 26 after 20 rounds. The result is
    deterministic, so that sites and coordinator compute the same.

    Raises:
        ConfigError: no noise multiplier in `NOISE_RANGE` reaches it, or an argument is out of range.
        MissingBackendError: Opacus is not installed.
    """
    _check_delta(delta)
    if not 0.0 < epsilon < math.inf:
        raise ConfigError(f"epsilon must be positive and finite, got {epsilon}")
    if not 1 <= steps <= _MOST_STEPS:
        raise ConfigError(f"the run has {steps} noisy steps; expected 1 to {_MOST_STEPS}")
    return _calibrate(epsilon, delta, sampling_rate, steps)


@lru_cache(maxsize=256)
def _calibrate(epsilon: float, delta: float, sampling_rate: float, steps: int) -> float:
    def suffices(thousandths: int) -> bool:
        spent = ((NoisyStep(thousandths / 1000, sampling_rate), steps),)
        return _by_rdp(spent, delta) <= epsilon or _epsilon(spent, delta) <= epsilon  # PRV only if RDP does not decide

    low, high = (round(1000 * bound) for bound in NOISE_RANGE)
    if suffices(low):
        return low / 1000
    top = 2 * low
    while not suffices(top):  # in steps and not to the end at once: accountants are slow for much noise
        low, top = top, 2 * top
        if top > high:
            raise ConfigError(
                f"epsilon {epsilon} at delta {delta} in {steps} steps of sampling rate {sampling_rate} needs a noise "
                f"multiplier above {NOISE_RANGE[1]}. Take fewer steps or a larger epsilon"
            )
    while top - low > 1:
        middle = (low + top) // 2
        low, top = (low, middle) if suffices(middle) else (middle, top)
    return top / 1000


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta must be in (0, 1), got {delta}")
