"""The canary audit: passes the code as it is, and finds each way in which it could be broken."""

import math

import pytest
import torch
from scipy.stats import binom

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.model import ModelConfig
from memamba_core.model import build_model
from memamba_core.patient import InputSpec
from memamba_core.privacy.dp_sgd import PatientOptimizer
from simulation.audit.canary import audit_canaries, largest_epsilon_disproved

SPEC = InputSpec(num_bins=3, num_genes=6, gene_groups={"a": (0, 1, 2), "b": (3, 4, 5)}, feature_width=7)


@pytest.fixture
def layer():
    """The mechanism knows parameters alone: the fast tests give it few."""
    return torch.nn.Linear(30, 20)


class WithoutNoise(PatientOptimizer):
    def add_noise(self):
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.clone()


class WithoutClipping(PatientOptimizer):
    def add_patient(self):
        self.max_grad_norm = 1e9
        super().add_patient()


class NoiseOverBatch(PatientOptimizer):
    def add_noise(self):
        self._noise_std /= 20.0
        super().add_noise()
        self._noise_std *= 20.0


class KnownNoise(PatientOptimizer):
    """Noise of a seed that the attacker also has and subtracts, as if the noise were always the same number."""

    def add_noise(self):
        super().add_noise()
        for parameter in self.params:
            parameter.grad = parameter.summed_grad + self._noise_std


MUTANTS = [WithoutNoise, WithoutClipping, NoiseOverBatch, KnownNoise]


def test_the_code_as_it_is_passes(layer):
    report = audit_canaries(layer, 200)
    assert report.passed
    assert report.num_guesses == 100
    assert 1.0 < report.claimed_epsilon < 3.0


@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_is_caught(layer, mutant):
    report = audit_canaries(layer, 200, optimizer_class=mutant)
    assert not report.passed
    assert report.lower_bound > report.claimed_epsilon


@pytest.mark.slow
@pytest.mark.parametrize("optimizer_class", [PatientOptimizer, WithoutNoise])
def test_the_same_on_the_whole_model(optimizer_class):
    model = build_model(ModelConfig(d_model=8, d_state=2, group_hidden=4), SPEC, seed=1)
    assert audit_canaries(model, 300, optimizer_class).passed == (optimizer_class is PatientOptimizer)


def test_all_guesses_right_prove_what_a_coin_says():
    """Without delta: right guesses of chance e^eps / (1 + e^eps) each, all right with probability 5 %."""
    chance = 0.05 ** (1 / 250)
    assert largest_epsilon_disproved(500, 250, 250, delta=0.0) == pytest.approx(
        math.log(chance / (1 - chance)), abs=2e-3
    )


def test_guessing_proves_nothing():
    assert largest_epsilon_disproved(500, 250, 130, delta=1e-5) == 0.0


@pytest.mark.parametrize(("right", "delta"), [(180, 1e-5), (230, 1e-5), (250, 1e-4)])
def test_the_bound_is_that_of_the_papers_own_loop(right, delta):
    def p_value(epsilon, num=500, guesses=250):  # appendix D of Steinke et al. 2023, step by step
        chance = 1 / (1 + math.exp(-epsilon))
        beta, alpha, total = binom.sf(right - 1, guesses, chance), 0.0, 0.0
        for i in range(1, right + 1):
            total += binom.pmf(right - i, guesses, chance)
            alpha = max(alpha, total / i)
        return min(1.0, beta + alpha * delta * 2 * num)

    found = largest_epsilon_disproved(500, 250, right, delta)
    assert p_value(found - 2e-3) < 0.05 < p_value(found + 2e-3)


def test_more_canaries_than_parameters_are_refused(layer):
    with pytest.raises(ValueError, match=r"num_canaries is .*; expected at most the "):
        audit_canaries(layer, 10**6)
