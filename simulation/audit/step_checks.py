"""Compare what leaves a site with the noisy step that the accountant was given: noise, clipping, sampling.

Each check is a test of the hypothesis that the code is right, two-sided: noise that is too large is an error, too. The
chance that one check fails for right code is one in a million. Noise is judged where no drawn canary adds to it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, chi2, norm

from memamba_core.privacy.accounting import NoisyStep

from .gradient_canaries import Directions
from .observed_rounds import ObservedRounds
from .records import CanaryCheck

__all__ = ["check_steps"]

_Array = npt.NDArray[np.float64]


def check_steps(
    rounds: ObservedRounds, quiet: ObservedRounds, directions: Directions, step: NoisyStep, tensor_sizes: list[int]
) -> Iterator[CanaryCheck]:
    """Check noise, clipping and sampling of some rounds.

    Args:
        rounds: what left the site.
        quiet: what left it in rounds in which most steps, or all, had no patient.
        directions: of the canaries.
        step: the step that the accountant was given.
        tensor_sizes: number of coordinates of each trained tensor.
    """
    every = rounds + quiet
    if not np.isfinite(every.sum_RP).all():
        yield CanaryCheck(name="finite", measured=float(np.isfinite(every.sum_RP).mean()), expected=1.0, p_value=0.0)
        return
    free_RP = (every.draws_RN == 0)[:, directions.owner_P]
    noise_RP = np.where(free_RP, every.sum_RP / (step.noise_multiplier * every.spread_RP), 0.0)
    yield from _check_size(noise_RP, free_RP, every.steps_R, tensor_sizes)
    yield _check_empty_rounds(noise_RP, every.draws_RN)
    if every.frozen_moved_R is not None:
        moved = float(every.frozen_moved_R.max())
        yield CanaryCheck(name="frozen parameters", measured=moved, expected=0.0, p_value=float(moved == 0))
    yield _check_shape(noise_RP, free_RP)
    yield _check_repeats_between_rounds(noise_RP, free_RP)
    yield _check_repeats_within_rounds(noise_RP, free_RP)
    yield from _check_clipping(rounds, directions, step)
    yield from _check_sampling(rounds, step.sampling_rate)


def _check_size(
    noise_RP: _Array, free_RP: npt.NDArray[np.bool_], steps_R: npt.NDArray[np.int64], tensor_sizes: list[int]
) -> Iterator[CanaryCheck]:
    """Compare the standard deviation of the noise with the claim: of all, of several steps at once, of each tensor."""
    for name, chosen_R in (("noise of a step", steps_R == 1), ("noise of several steps", steps_R > 1)):
        squares, num = float((noise_RP[chosen_R] ** 2).sum()), int(free_RP[chosen_R].sum())
        yield CanaryCheck(
            name=name, measured=(squares / num) ** 0.5, expected=1.0, p_value=_two_sided(chi2(num), squares)
        )
    starts = np.concatenate([[0], np.cumsum(tensor_sizes)[:-1]])
    squares_T = np.add.reduceat((noise_RP**2).sum(0), starts)
    num_T = np.add.reduceat(free_RP.sum(0), starts)
    yield _worst("noise of each tensor", np.sqrt(squares_T / num_T), 1.0, _two_sided_each(chi2(num_T), squares_T))
    squares_R, num_R = (noise_RP**2).sum(1), free_RP.sum(1)
    yield _worst("noise of each round", np.sqrt(squares_R / num_R), 1.0, _two_sided_each(chi2(num_R), squares_R))


def _check_empty_rounds(noise_RP: _Array, draws_RN: npt.NDArray[np.int64]) -> CanaryCheck:
    """Compare the standard deviation of the noise with the claim in each round that drew no patient."""
    squares_R, num = (noise_RP[draws_RN.sum(1) == 0] ** 2).sum(1), noise_RP.shape[1]
    return _worst("noise without patients", np.sqrt(squares_R / num), 1.0, _two_sided_each(chi2(num), squares_R))


def _check_shape(noise_RP: _Array, free_RP: npt.NDArray[np.bool_]) -> CanaryCheck:
    """Compare the fourth moment of the noise with that of a normal distribution."""
    values = noise_RP[free_RP]
    kurtosis = float((values**4).mean() / _positive((values**2).mean() ** 2))
    return CanaryCheck(
        name="shape of the noise",
        measured=kurtosis,
        expected=3.0,
        p_value=2 * float(norm.sf(abs(kurtosis - 3) / (24 / len(values)) ** 0.5)),
    )


def _check_repeats_between_rounds(noise_RP: _Array, free_RP: npt.NDArray[np.bool_]) -> CanaryCheck:
    """Correlate the noise of each two rounds, those of two repetitions included."""
    first, second = np.triu_indices(len(noise_RP), 1)
    sums = (noise_RP @ noise_RP.T)[first, second]
    scale = np.sqrt(np.outer((noise_RP**2).sum(1), (noise_RP**2).sum(1)))[first, second]
    return _most_correlated("noise repeated in another round", sums / _positive(scale), free_RP.sum(1).min())


def _check_repeats_within_rounds(noise_RP: _Array, free_RP: npt.NDArray[np.bool_]) -> CanaryCheck:
    """Correlate the noise of a round with itself at each distance of parameters, over all rounds together."""
    half = noise_RP.shape[1] // 2

    def autocorrelate(values_RP: npt.NDArray[np.floating]) -> _Array:
        power_RF = np.abs(np.fft.rfft(values_RP, axis=1)) ** 2
        return np.asarray(np.fft.irfft(power_RF.sum(0), n=values_RP.shape[1]))[: half + 1]

    sums, num = autocorrelate(noise_RP), autocorrelate(free_RP.astype(np.float64))
    return _most_correlated("noise repeated in a round", sums[1:] / _positive(sums[:1]), num[1:].min())


def _check_clipping(rounds: ObservedRounds, directions: Directions, step: NoisyStep) -> Iterator[CanaryCheck]:
    """Estimate what each draw of a canary adds to the sum, by least squares: at most one clipping norm."""
    seen_RN = np.stack([directions.project(sum_P) for sum_P in rounds.sum_RP])
    spread_RN = np.stack([directions.spread(spread_P) for spread_P in rounds.spread_RP])
    weight_RN = rounds.draws_RN / spread_RN**2  # noise grows with the steps of a round
    top_N, bottom_N = (weight_RN * seen_RN).sum(0), (weight_RN * rounds.draws_RN).sum(0)
    sigma = step.noise_multiplier
    total = float(top_N.sum() / bottom_N.sum())
    yield CanaryCheck(
        name="clipped norm",
        measured=total,
        expected=1.0,
        p_value=2 * float(norm.sf(abs(total - 1) * bottom_N.sum() ** 0.5 / sigma)),
    )
    drawn = bottom_N > 0
    each = top_N[drawn] / bottom_N[drawn]
    yield _worst("clipped norm of each", each, 1.0, 2 * norm.sf(abs(each - 1) * np.sqrt(bottom_N[drawn]) / sigma))


def _check_sampling(rounds: ObservedRounds, rate: float) -> Iterator[CanaryCheck]:
    """Test that each patient is drawn in each step with the rate, independently of steps and of other patients."""
    inside_RN, draws_RN, steps_R = rounds.inside_RN, rounds.draws_RN, rounds.steps_R
    chances = int((inside_RN * steps_R[:, None]).sum())
    drawn = int(draws_RN.sum())
    p_value = 0.0 if drawn > chances else float(binomtest(drawn, chances, rate).pvalue)
    yield CanaryCheck(name="sampling rate", measured=drawn / chances, expected=rate, p_value=p_value)
    single = steps_R == 1
    yield _dispersion("draws of a step", draws_RN[single].sum(1), inside_RN[single].sum(1), rate)
    kinds_RN, which_R = np.unique(inside_RN, axis=0, return_inverse=True)  # a repetition has coins of its own
    counts, trials = [], []
    for kind, inside_N in enumerate(kinds_RN):
        rows = which_R.ravel() == kind
        counts.append(draws_RN[rows].sum(0)[inside_N])
        trials.append(np.full(int(inside_N.sum()), steps_R[rows].sum()))
    yield _dispersion("draws of a patient", np.concatenate(counts), np.concatenate(trials), rate)


def _dispersion(name: str, counts: npt.NDArray[np.int64], trials: npt.NDArray[np.int64], rate: float) -> CanaryCheck:
    """Compare the variance of counts with that of independent draws."""
    statistic = float(((counts - trials * rate) ** 2 / (trials * rate * (1 - rate))).sum())
    p_value = _two_sided(chi2(len(counts)), statistic)
    return CanaryCheck(name=f"variance of {name}", measured=statistic / len(counts), expected=1.0, p_value=p_value)


def _most_correlated(name: str, correlations: _Array, num: float) -> CanaryCheck:
    largest = float(correlations[np.abs(correlations).argmax()])
    p_value = min(1.0, 2 * float(norm.sf(abs(largest) * num**0.5)) * len(correlations))
    return CanaryCheck(name=name, measured=largest, expected=0.0, p_value=p_value)


def _worst(name: str, measured: _Array, expected: float, p_values: _Array) -> CanaryCheck:
    """Report the least likely of several measurements; its probability is multiplied by their number."""
    worst = int(p_values.argmin())
    p_value = min(1.0, float(p_values[worst]) * len(p_values))
    return CanaryCheck(name=name, measured=float(measured[worst]), expected=expected, p_value=p_value)


def _two_sided(distribution: Any, value: float) -> float:
    return float(_two_sided_each(distribution, value))


def _two_sided_each(distribution: Any, values: Any) -> _Array:
    return np.asarray(np.minimum(1.0, 2 * np.minimum(distribution.cdf(values), distribution.sf(values))))


def _positive(values: Any) -> _Array:
    """Replace zeros by a tiny number: code without noise is measured, too."""
    return np.asarray(np.maximum(values, np.finfo(np.float64).tiny))
