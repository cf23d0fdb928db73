"""Likelihood-ratio attack on canaries over all rounds, and the epsilon that its success corresponds to.

The attacker knows the directions, the noise multiplier and the sampling rate, and scores each canary by the likelihood
ratio "among the patients" to "not among them" of all sums that left (the best attack there is, Neyman & Pearson 1933).
The success is the AUC of the scores. For each noise multiplier the AUC that it allows is known by simulation of the
mechanism; the one that allows the observed AUC is the noise that the code really has, and the accountant turns it into
epsilon (as Nasr et al. 2023, arXiv 2302.07956, do with Gaussian differential privacy).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp
from scipy.stats import binom, norm, rankdata

from memamba_core.privacy.accounting import NOISE_RANGE, NoisyStep, epsilon_of

from .gradient_canaries import Directions
from .observed_rounds import ObservedRounds

__all__ = ["Area", "NoiseByArea", "area", "score_canaries", "simulate_delta"]

_NUM_SIMULATED = 20_000
_FACTORS = (0.2, 0.3, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15, 1.4, 2.0, 4.0)
"""Noise multipliers that are simulated, as multiples of the claimed one."""
_SEED = 0


@dataclass(frozen=True)
class Area:
    """Area under the ROC curve.

    Attributes:
        value: chance that a canary among the patients scores higher than one that is not; ties count half.
        error: standard error (DeLong et al. 1988).
    """

    value: float
    error: float


def area(inside: npt.NDArray[np.float64], outside: npt.NDArray[np.float64]) -> Area:
    """Compute the area under the ROC curve of scores, with its standard error."""
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[: len(inside)] - rankdata(inside)) / len(outside)  # share of the outsiders below each insider
    below = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)
    error = (above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside)) ** 0.5
    return Area(float(above.mean()), float(error))


def score_canaries(
    rounds: ObservedRounds, directions: Directions, step: NoisyStep
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the log-likelihood ratios of all canaries that were among the patients, and of all that were not.

    A canary has one score for each repetition: the rounds with the same coins.
    """
    observed = zip(rounds.sum_RP, rounds.spread_RP, rounds.steps_R, strict=True)
    ratio_RN = np.stack(
        [
            _log_ratio(directions.project(np.nan_to_num(sum_P)), steps, directions.spread(spread_P), step)
            for sum_P, spread_P, steps in observed
        ]
    )
    kinds_KN, which_R = np.unique(rounds.inside_RN, axis=0, return_inverse=True)
    score_KN = np.stack([ratio_RN[which_R.ravel() == kind].sum(0) for kind in range(len(kinds_KN))])
    return score_KN[kinds_KN], score_KN[~kinds_KN]


def _log_ratio(
    seen: npt.NDArray[np.float64], steps: int, spread: npt.NDArray[np.float64] | float, step: NoisyStep
) -> npt.NDArray[np.float64]:
    """Return the log-likelihood ratio of sums of `steps` steps along a canary's direction, in clipping norms.

    A canary that is among the patients is drawn k times with the binomial probability, and adds k to the sum. The noise
    of the sum has a standard deviation of `spread` times the noise multiplier.
    """
    times = np.arange(steps + 1)
    variance = np.square(step.noise_multiplier * np.asarray(spread))[..., None]
    exponent = (times * seen[..., None] - times**2 / 2) / variance
    return np.asarray(logsumexp(exponent + binom.logpmf(times, steps, step.sampling_rate), axis=-1))


class NoiseByArea:
    """The AUC of the attack for each noise that the code might have, by simulation of the mechanism.

    Args:
        step: claimed step; the attacker computes ratios with its numbers.
        steps_of_rounds: number of steps of each round of a repetition.
        spread_of_rounds: standard deviation of each round's noise over the noise multiplier, in clipping norms.
    """

    def __init__(self, step: NoisyStep, steps_of_rounds: Sequence[int], spread_of_rounds: Sequence[float]) -> None:
        self._step = step
        self._steps_of_rounds, self._spread_of_rounds = tuple(steps_of_rounds), tuple(spread_of_rounds)
        self._areas = [self._simulate(factor) for factor in _FACTORS]
        self.claimed = self._areas[_FACTORS.index(1.0)]

    def p_value(self, found: Area, num_inside: int, num_outside: int) -> float:
        """Return the probability of an AUC at least as far from the claimed one, if the code is right."""
        error = self.claimed.error * (_NUM_SIMULATED * (1 / num_inside + 1 / num_outside) / 2 + 1) ** 0.5
        return 2 * float(norm.sf(abs(found.value - self.claimed.value) / error))

    def epsilon(self, area: float, delta: float) -> float:
        """Return the epsilon of the noise with which the attack has this AUC."""
        areas = np.minimum.accumulate([0.5 + max(0.0, a.value - 0.5) for a in self._areas])
        if area <= areas[-1]:
            return 0.0
        factor = float(np.exp(np.interp(-area, -areas, np.log(_FACTORS))))
        noise = round(max(NOISE_RANGE[0], factor * self._step.noise_multiplier), 3)
        return epsilon_of([(NoisyStep(noise, self._step.sampling_rate), sum(self._steps_of_rounds))], delta)

    def _simulate(self, factor: float) -> Area:
        return area(*_simulated_scores(self._step, self._steps_of_rounds, self._spread_of_rounds, factor))


def simulate_delta(step: NoisyStep, num_steps: int, epsilon: float) -> tuple[float, float]:
    """Return the delta that belongs to an epsilon, by simulation of the mechanism, and its standard error.

    No accountant takes part. Delta is the expectation of max(0, 1 - exp(epsilon - log-likelihood ratio)) over patients
    who are there, or the same with patients who are not; the larger of the two.
    """
    inside, outside = _simulated_scores(step, [1] * num_steps, [1.0] * num_steps)
    samples = [np.maximum(0.0, -np.expm1(epsilon - ratio)) for ratio in (inside, -outside)]
    worst = max(samples, key=lambda values: float(values.mean()))
    return float(worst.mean()), float(worst.std(ddof=1) / len(worst) ** 0.5)


def _simulated_scores(
    step: NoisyStep, steps_of_rounds: Sequence[int], spread_of_rounds: Sequence[float], factor: float = 1.0
) -> npt.NDArray[np.float64]:
    """Return simulated scores, [2, S]: of canaries that are there and that are not, with `factor` times the noise."""
    rng = np.random.default_rng(_SEED)  # the same numbers for every factor: the curve is smooth
    scores = np.zeros((2, _NUM_SIMULATED))
    for steps, spread in zip(steps_of_rounds, spread_of_rounds, strict=True):
        sums = rng.standard_normal((2, _NUM_SIMULATED)) * factor * step.noise_multiplier * spread
        sums[0] += rng.binomial(steps, step.sampling_rate, _NUM_SIMULATED)
        scores += _log_ratio(sums, steps, spread, step)
    return scores
