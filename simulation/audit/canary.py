"""Canary audit of the noisy step in one run (Steinke, Nasr & Jagielski 2023, arXiv 2305.08846).

Made-up patients are put into the training data or left out by the toss of a coin. The gradient of each lies in one
coordinate and is ten times as long as allowed. The attacker knows the coordinates, looks at how far each moved, and
guesses which patients were in. If more guesses are right than the claimed epsilon allows, the code is wrong, whatever
the accountant says. The audited step is the one that sites take (`privacy.dp_sgd`), with its own noise and sampling, on
the real model's parameters.

The audit has its own plan with a small epsilon: 250 right guesses of 250 prove an epsilon of 4.4 at most, so a run's
own epsilon of 8 could not be contradicted.
"""

import math

import numpy as np
import torch
from scipy.stats import binom

from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.optim import SGD

from .records import CanaryReport

__all__ = ["audit_canaries", "largest_epsilon_disproved"]

PLAN = NoisyStep(2.0, 0.1)
STEPS = 100
DELTA = 1e-5
CONFIDENCE = 0.95
_MAX_NORM = 1.0
_TOO_LONG = 10.0
_DIVISOR = 20.0


def audit_canaries(
    model: torch.nn.Module, num_canaries: int, optimizer_class: type[PatientOptimizer] = PatientOptimizer
) -> CanaryReport:
    """Run the canary audit.

    Args:
        model: its parameters are moved, mostly by noise.
        num_canaries: number of made-up patients; at most the number of the model's parameters.
        optimizer_class: takes the steps. Tests pass broken ones.
    """
    parameters = list(model.parameters())
    random = SecureRandom()
    optimizer = optimizer_class(
        SGD(parameters, lr=1.0),
        noise_multiplier=PLAN.noise_multiplier,
        max_norm=_MAX_NORM,
        divisor=_DIVISOR,
        random=random,
    )
    places = _places(parameters, num_canaries)
    inside = random.bernoulli(num_canaries, 0.5)
    before = _values(parameters, places)
    for _ in range(STEPS):
        for canary in np.flatnonzero(inside & random.bernoulli(num_canaries, PLAN.sampling_rate)):
            for parameter in parameters:
                parameter.grad = torch.zeros_like(parameter)
            number, offset = places[canary]
            gradient = parameters[number].grad
            assert gradient is not None
            gradient.view(-1)[offset] = _TOO_LONG * _MAX_NORM
            optimizer.add_patient()
        optimizer.noisy_step()
    order = np.argsort(_values(parameters, places) - before)  # the more a canary was trained on, the lower it went
    sure = num_canaries // 4
    guesses = np.concatenate([order[:sure], order[-sure:]])
    right = int(inside[order[:sure]].sum() + (~inside[order[-sure:]]).sum())
    return CanaryReport(
        claimed_epsilon=epsilon_of([(PLAN, STEPS)], DELTA),
        lower_bound=largest_epsilon_disproved(num_canaries, len(guesses), right, DELTA),
        num_right=right,
        num_guesses=len(guesses),
    )


def largest_epsilon_disproved(num_canaries: int, num_guesses: int, num_right: int, delta: float) -> float:
    """Return the largest epsilon under which so many right guesses have a probability below 5 %; 0 if there is none."""
    low, high = 0.0, 20.0
    if _probability(num_canaries, num_guesses, num_right, low, delta) > 1 - CONFIDENCE:
        return 0.0
    while high - low > 1e-3:
        middle = (low + high) / 2
        disproved = _probability(num_canaries, num_guesses, num_right, middle, delta) < 1 - CONFIDENCE
        low, high = (middle, high) if disproved else (low, middle)
    return low


def _probability(num_canaries: int, num_guesses: int, num_right: int, epsilon: float, delta: float) -> float:
    """Bound the probability of at least `num_right` right guesses (Steinke et al. 2023, theorem 5.2)."""
    chance = 1 / (1 + math.exp(-epsilon))
    beta = float(binom.sf(num_right - 1, num_guesses, chance))
    below = np.cumsum(binom.pmf(num_right - np.arange(1, num_right + 1), num_guesses, chance))
    alpha = float((below / np.arange(1, num_right + 1)).max(initial=0.0))
    return min(1.0, beta + alpha * delta * 2 * num_canaries)


def _places(parameters: list[torch.nn.Parameter], num: int) -> list[tuple[int, int]]:
    """Return parameter and offset of `num` coordinates, spread over the whole model."""
    ends = np.cumsum([p.numel() for p in parameters])
    if num > ends[-1]:
        raise ValueError(f"num_canaries is {num}; expected at most the {ends[-1]} parameters of the model")
    flat = np.linspace(0, ends[-1] - 1, num).astype(int)
    numbers = np.searchsorted(ends, flat, side="right")
    return [(int(n), int(f - (ends[n - 1] if n else 0))) for n, f in zip(numbers, flat, strict=True)]


def _values(parameters: list[torch.nn.Parameter], places: list[tuple[int, int]]) -> np.ndarray:
    return np.array([float(parameters[number].detach().view(-1)[offset]) for number, offset in places])
