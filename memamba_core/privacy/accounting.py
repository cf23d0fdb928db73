"""Account for a fixed list of noisy steps in (epsilon, delta), and calibrate the noise for a given epsilon.

The mechanism is the Poisson-subsampled Gaussian (Abadi et al. 2016; Mironov et al. 2019): each patient is drawn
independently with probability q, and the sum of clipped gradients gets normal noise of standard deviation sigma C.
Neighbouring data sets differ by one patient, added or removed. Epsilon is the upper bound of Opacus' PRV accountant
(Gopi et al. 2021), or of Renyi divergences (`renyi`) where PRV would take seconds; both are upper bounds. The central
limit of Gaussian DP reports too small an epsilon and is not offered.

PRV holds for steps whose noise and sampling rate are fixed beforehand; the weights at which they are taken may depend
on earlier steps. For noise that is chosen after looking at results, see `renyi`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

from memamba_core.errors import ConfigError
from memamba_core.privacy.noisy_step import NOISE_RANGE, NoisyStep
from memamba_core.privacy.renyi import epsilon_by_renyi

__all__ = ["NOISE_RANGE", "NoisyStep", "add_up", "calibrate_noise", "epsilon_of"]

_MOST_STEPS: Final = 100_000
_HOPELESS: Final = 50.0
"""Epsilon by Renyi divergences above which PRV is not computed: such an epsilon supports no claim."""
_PRV_ERROR: Final = 0.01
"""Accuracy of the numerical composition, in epsilon; the error is on the safe side."""
_PRV_DELTA: Final = 1e-9
"""Smallest delta for PRV, whose sums are in float64."""
_PRV_POINTS: Final = 600_000
"""Most points of PRV's grid. More take seconds and gigabytes; the Renyi bound applies instead."""
_PRV_KINDS: Final = 8
_Spent = tuple[tuple[NoisyStep, int], ...]


def epsilon_of(spent: Iterable[tuple[NoisyStep, int]], delta: float) -> float:
    """Compute the epsilon of all these steps together, as if all had been fixed beforehand.

    Args:
        spent: kinds of steps with how many of each; equal kinds are added up.
        delta: delta of the guarantee.

    Returns:
        The lower of the upper bounds by PRV and Renyi divergences; the latter alone where PRV would be slow.

    Raises:
        ConfigError: delta or a number of steps is out of range.
        MissingBackendError: Opacus is not installed.
    """
    _check_delta(delta)
    return _epsilon(add_up(spent), delta)


def add_up(spent: Iterable[tuple[NoisyStep, int]]) -> tuple[tuple[NoisyStep, int], ...]:
    """Add up the steps of each kind.

    Raises:
        ConfigError: a number of steps is negative, or all together are more than the accountants take.
    """
    total: Counter[NoisyStep] = Counter()
    for step, count in spent:
        if count < 0:
            raise ConfigError(f"a number of steps cannot be negative, got {count}")
        total[step] += count
    if sum(total.values()) > _MOST_STEPS:
        raise ConfigError(f"{sum(total.values())} noisy steps; at most {_MOST_STEPS} are accounted for")
    return tuple(sorted((step, count) for step, count in total.items() if count))


@lru_cache(maxsize=4096)
def _epsilon(spent: _Spent, delta: float) -> float:
    if not spent:
        return 0.0
    by_renyi = epsilon_by_renyi(spent, delta)
    if by_renyi > _HOPELESS or delta < _PRV_DELTA or len(spent) > _PRV_KINDS:
        return by_renyi
    if (half_width := _domain(spent, delta)) / _mesh(spent, delta) > _PRV_POINTS / 2:
        return by_renyi
    try:
        return min(_by_prv(spent, delta, half_width), by_renyi)
    except (ArithmeticError, ValueError, RuntimeError):  # numerical trouble of PRV; the other bound holds as well
        return by_renyi


def _domain(spent: _Spent, delta: float) -> float:
    """Return the half width of PRV's grid: outside lies less than the error of delta (Gopi et al. 2021, remark 5.6).

    Opacus computes it from a hundred fractional orders, which takes a second. Fewer orders make it wider, never wrong.
    """
    steps, error = sum(count for _, count in spent), _delta_error(delta)
    whole = epsilon_by_renyi(spent, error / 4)
    single = max(epsilon_by_renyi([(step, 1)], error / (8 * steps)) for step, _ in spent)
    return max(whole, single, _PRV_ERROR) + 3


def _mesh(spent: _Spent, delta: float) -> float:
    steps = sum(count for _, count in spent)
    return _PRV_ERROR / math.sqrt(steps * math.log(12 / _delta_error(delta)) / 2)


def _delta_error(delta: float) -> float:
    return delta / 1000


def _by_prv(spent: _Spent, delta: float, half_width: float) -> float:
    from memamba_core.privacy.opacus_imports import Domain, PRVAccountant

    domain = Domain.create_aligned(-half_width, half_width, _mesh(spent, delta))

    class Accountant(PRVAccountant):  # type: ignore[misc]  # Opacus has no types
        def _get_domain(self, **_options: Any) -> Any:
            return domain

    accountant = Accountant()
    accountant.history = [(step.noise_multiplier, step.sampling_rate, count) for step, count in spent]
    epsilon = float(accountant.get_epsilon(delta, eps_error=_PRV_ERROR, delta_error=_delta_error(delta)))
    return epsilon if math.isfinite(epsilon) else math.inf


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
    def spent(thousandths: int) -> _Spent:
        return ((NoisyStep(thousandths / 1000, sampling_rate), steps),)

    low, high = (round(1000 * bound) for bound in NOISE_RANGE)
    if epsilon_by_renyi(spent(high), delta) > epsilon:
        raise ConfigError(
            f"epsilon {epsilon} at delta {delta} in {steps} steps of sampling rate {sampling_rate} needs a noise "
            f"multiplier above {NOISE_RANGE[1]}. Take fewer steps or a larger epsilon"
        )
    enough = _smallest(lambda n: epsilon_by_renyi(spent(n), delta) <= epsilon, low - 1, high)
    return _lower(lambda n: _epsilon(spent(n), delta), epsilon, low, enough) / 1000


def _smallest(suffices: Callable[[int], bool], low: int, high: int) -> int:
    """Return the smallest number above `low` that suffices; `high` does, and `low` counts as one that does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def _lower(cost: Callable[[int], float], epsilon: float, low: int, high: int) -> int:
    """Return the smallest noise, in thousandths, whose cost is at most epsilon; that of `high` is, below `low` none is.

    A cost by PRV takes a quarter of a second. The logarithm of the cost is nearly linear in a short interval, so that
    interpolation asks for four costs, where halving asks for twelve.
    """
    low, at_high, at_low = low - 1, cost(high), math.inf
    guess = math.ceil(high * (at_high / epsilon) ** 0.85)
    for asked in range(64):
        if high - low <= 1:
            break
        guess = min(max(guess, low + 1), high - 1)
        if (at_guess := cost(guess)) <= epsilon:
            high, at_high = guess, at_guess
        else:
            low, at_low = guess, at_guess
        guess = (low + high) // 2
        if asked < 8 and at_low == math.inf:
            guess = math.ceil(high * (at_high / epsilon) ** 0.85)
        elif asked < 8:
            share = math.log(at_low / epsilon) / math.log(at_low / at_high)
            guess = low + math.ceil(share * (high - low))
    return high


def _check_delta(delta: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"delta must be in (0, 1), got {delta}")
