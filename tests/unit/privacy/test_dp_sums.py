"""Sums of thousands of clipped gradients: one patient moves the sum by at most C, whatever the gradients are."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.secure_random import SecureRandom


class NoNoise(SecureRandom):
    def normal(self, num):
        return np.zeros(num)


class Sum(PatientOptimizer):
    """Keeps the sum of a step as it is before the noise."""

    def add_noise(self):
        self.sums = [parameter.summed_grad.double().clone() for parameter in self.params]
        super().add_noise()


def sum_of(gradients, max_norm=1.0, width=1):
    """Return the sum of clipped gradients, each given by the value of all its coordinates times sqrt(width)."""
    parameter = torch.nn.Parameter(torch.zeros(width))
    optimizer = Sum(
        torch.optim.SGD([parameter], lr=1.0), noise_multiplier=1.0, max_norm=max_norm, divisor=1.0, random=NoNoise()
    )
    for gradient in gradients:
        parameter.grad = torch.full((width,), float(gradient) / math.sqrt(width))
        optimizer.add_patient()
    optimizer.noisy_step()
    return optimizer.sums[0]


@pytest.mark.parametrize(("power", "tail"), [(11, 2000), pytest.param(11, 4000, marks=pytest.mark.ci_slow)])
def test_an_adversary_cannot_make_one_patient_count_for_more(power, tail):
    """Full gradients bring the sum just below a power of two; gradients of half a float32 step follow.

    Below the power, float32 adds each of them (nearly) exactly; above, rounds each up to twice its size. One patient
    more at the start carries the sum above: in float32 it counts 1.015 C to 1.24 C.
    """
    clip, step = 1 - 1e-4, 2.0 ** (power - 23)
    full = [1.0] * int(2.0**power // clip)
    gap = 2.0**power - float(sum_of(full)[0])
    others = [*full, gap * (1 - 1e-3), *[0.51 * step] * tail]
    moved = float((sum_of([1.0, *others]) - sum_of(others)).norm())
    assert 0.999 < moved <= 1.0


@pytest.mark.parametrize("seed", range(3))
def test_any_patient_of_a_thousand_moves_the_sum_by_at_most_the_norm(seed):
    rng = np.random.default_rng(seed)
    gradients = rng.choice([1e30, 1.0, 1e-3, 1e-7, -1.0, -1e30, 0.999999], size=1000)
    whole = sum_of(gradients, max_norm=0.7, width=5)
    for left_out in rng.choice(1000, size=5):
        others = np.delete(gradients, left_out)
        assert float((whole - sum_of(others, max_norm=0.7, width=5)).norm()) <= 0.7


@pytest.mark.parametrize("norm", [1e-30, 1.0, 1 + 1e-7, 3.0, 1e18])
def test_a_clipped_gradient_is_never_longer_than_the_norm(norm):
    """Measured in float64: norms that float32 rounds to C must not pass for C."""
    clipped = float(sum_of([norm], width=7).norm())
    assert clipped <= 1.0
    assert clipped == pytest.approx(min(norm, 1.0), rel=1e-5)


def test_what_is_left_out_counts_as_zero():
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = Sum(
        torch.optim.SGD([parameter], lr=1.0), noise_multiplier=1.0, max_norm=1.0, divisor=1.0, random=NoNoise()
    )
    parameter.grad = torch.ones(3)
    optimizer.add_patient()
    parameter.grad = torch.full((3,), 5.0)
    optimizer.leave_out()
    optimizer.noisy_step()
    assert float(optimizer.sums[0].norm()) == pytest.approx(1.0, rel=1e-5)
