"""Patient-level DP-SGD on the real model: every claim of `privacy.dp_sgd`, and that its tests can fail."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.model import ModelConfig
from memamba_core.config.training import TrainingConfig
from memamba_core.model import build_model
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.trainer import training_loss

SPEC = InputSpec(num_bins=3, num_genes=6, gene_groups={"a": (0, 1, 2), "b": (2, 3), "c": (4, 5)}, feature_width=7)
MAX_NORM = 0.7
DIVISOR = 6.5
LEARNING_RATE = 2.0


class NoNoise(SecureRandom):
    """Makes the sum visible."""

    def normal(self, num):
        return np.zeros(num)


def patient(number, modalities="patches genes"):
    generator = torch.Generator().manual_seed(number)
    patches_PF = torch.randn(int(3 + number % 9), 7, generator=generator) * (1 + number)
    genes_C = torch.randn(6, generator=generator) * 3
    return PatientInputs(
        SurvivalTarget(10.0, number % 2 == 0, number % 3),
        Bag(patches_PF) if "patches" in modalities else None,
        genes_C if "genes" in modalities else None,
    )


def cohort(num):
    kinds = ("patches genes", "patches genes", "genes", "patches")
    return [patient(i, kinds[i % len(kinds)]) for i in range(num)]


@pytest.fixture
def model():
    return build_model(ModelConfig(d_model=8, d_state=2, group_hidden=4, dropout=0), SPEC, seed=1)


def flat(tensors):
    return torch.cat([t.detach().double().flatten() for t in tensors])


def gradient(model, one):
    """The gradient of one patient, by its plain definition."""
    model.zero_grad(set_to_none=True)
    training_loss(model, [one], TrainingConfig())[0].backward()
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    return flat(pieces)


def step(model, patients, *, noise=1.0, random=None, optimizer_class=PatientOptimizer):
    """Return the change of the weights in one step, divided by minus the learning rate."""
    sgd = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    optimizer = optimizer_class(
        sgd, noise_multiplier=noise, max_norm=MAX_NORM, divisor=DIVISOR, random=random or NoNoise()
    )
    before = [p.detach().clone() for p in model.parameters()]
    for one in patients:
        training_loss(model, [one], TrainingConfig())[0].backward()
        optimizer.add_patient()
    optimizer.noisy_step()
    moved = (flat(before) - flat(model.parameters())) / LEARNING_RATE
    with torch.no_grad():
        for parameter, old in zip(model.parameters(), before, strict=True):
            parameter.copy_(old)
    return moved


@pytest.mark.parametrize("num", [0, 1, 12])
def test_a_step_is_the_sum_of_clipped_gradients_over_the_agreed_divisor(model, num):
    patients = cohort(num)
    wanted = torch.zeros_like(flat(model.parameters()))
    for one in patients:
        own = gradient(model, one)
        wanted += own * min(1.0, MAX_NORM / float(own.norm())) / DIVISOR
    assert torch.allclose(step(model, patients), wanted, atol=2e-4 * max(1.0, num) * MAX_NORM / DIVISOR)


def test_gradients_are_large_enough_for_clipping_to_matter(model):
    norms = [float(gradient(model, one).norm()) for one in cohort(12)]
    assert sum(norm > MAX_NORM for norm in norms) > 3
    assert sum(norm < MAX_NORM for norm in norms) > 0


def test_leaving_a_patient_out_moves_the_sum_by_at_most_the_norm(model):
    patients = cohort(5)
    whole = step(model, patients) * DIVISOR
    for left_out in range(len(patients)):
        others = patients[:left_out] + patients[left_out + 1 :]
        assert float((whole - step(model, others) * DIVISOR).norm()) <= MAX_NORM * (1 + 1e-6)


def test_a_step_without_patients_is_noise_of_the_right_size_everywhere(model):
    samples = torch.stack([step(model, [], noise=3.0, random=SecureRandom()) for _ in range(20)])
    wanted = 3.0 * MAX_NORM / DIVISOR
    assert float(samples.std()) == pytest.approx(wanted, rel=0.02)
    assert abs(float(samples.mean())) < 5 * wanted / math.sqrt(samples.numel())
    for values in samples.split([p.numel() for p in model.parameters()], dim=1):
        assert float(values.std()) == pytest.approx(wanted, rel=6 / math.sqrt(2 * values.numel()))


def test_every_step_draws_new_noise(model):
    random = SecureRandom()
    assert not torch.equal(step(model, [], random=random), step(model, [], random=random))
    assert not torch.equal(step(model, [], random=SecureRandom()), step(model, [], random=SecureRandom()))


class Recorder(SecureRandom):
    """Notes when noise is drawn and when the key is replaced."""

    def __init__(self):
        self.calls = []
        super().__init__()

    def normal(self, num):
        self.calls.append("noise")
        return super().normal(num)

    def rekey(self):
        self.calls.append("new key")
        super().rekey()


def test_the_key_of_the_noise_is_forgotten_after_each_step(model):
    """Otherwise the noise of a step could be computed again from the memory of the process."""
    random, num = Recorder(), len(list(model.parameters()))
    step(model, cohort(2), random=random)
    step(model, [], random=random)
    assert random.calls == ["new key", *["noise"] * num, "new key", *["noise"] * num, "new key"]


def test_a_patient_whose_gradient_is_not_finite_counts_as_zero(model):
    broken = patient(3)
    broken.bag.patches_PF[0, 0] = float("nan")
    assert torch.equal(step(model, [*cohort(4), broken]), step(model, cohort(4)))


def test_what_a_patient_does_not_reach_gets_noise_all_the_same(model):
    moved = step(model, [patient(2, "genes")], random=SecureRandom())
    for values in moved.split([p.numel() for p in model.parameters()]):
        assert float((values != 0).double().mean()) > 0.9  # a tiny noise may round to no change of a weight


def test_auxiliary_losses_do_not_compare_patients(model):
    """The gradient of two patients together is the mean of their own: nothing crosses from one to the other."""
    pair = [patient(1), patient(4)]
    model.zero_grad(set_to_none=True)
    config = TrainingConfig.model_validate({"loss": {"mmd_weight": 0.3, "transport_weight": 0.2}})
    training_loss(model, pair, config)[0].backward()
    together = flat([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()])
    apart = torch.zeros_like(together)
    for one in pair:
        model.zero_grad(set_to_none=True)
        training_loss(model, [one], config)[0].backward()
        apart += flat([torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]) / 2
    assert torch.allclose(together, apart, atol=1e-5)


# The audit: would these checks notice if the mechanism were wrong? --------------------------------------------------


class WithoutNoise(PatientOptimizer):
    def add_noise(self):
        for parameter in self.params:
            parameter.grad = parameter.summed_grad.to(parameter.dtype)


class WithoutClipping(PatientOptimizer):
    def add_patient(self):
        self.max_grad_norm = 1e9
        super().add_patient()


class NoiseOverBatch(PatientOptimizer):
    def add_noise(self):
        self._noise_std /= DIVISOR
        super().add_noise()


class OneSeed(PatientOptimizer):
    def add_noise(self):
        self._random = Replayed()
        super().add_noise()


class Replayed(SecureRandom):
    def normal(self, num):
        return np.random.default_rng(0).normal(size=num)


MUTANTS = {
    WithoutNoise: test_a_step_without_patients_is_noise_of_the_right_size_everywhere,
    NoiseOverBatch: test_a_step_without_patients_is_noise_of_the_right_size_everywhere,
    WithoutClipping: test_leaving_a_patient_out_moves_the_sum_by_at_most_the_norm,
    OneSeed: test_every_step_draws_new_noise,
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_is_caught(mutant, model, monkeypatch):
    monkeypatch.setattr(step, "__kwdefaults__", {**step.__kwdefaults__, "optimizer_class": mutant})
    with pytest.raises(AssertionError):
        MUTANTS[mutant](model)
