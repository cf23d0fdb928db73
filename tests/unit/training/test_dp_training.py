"""Round of private training: one additional patient moves its sum by at most C, dropout and patches included."""

import dataclasses
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from fixtures.dp_training import BAND, ONE_SITE, StillChance
from fixtures.federation import Federation, tiny

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.training import TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.privacy.plan import plan_of
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.checkpoint import initial_model
from memamba_core.training.dp_training import train_dp_round
from memamba_core.training.optim import learning_rate_factor
from memamba_core.training.seeding import seeded
from server.federation.handshake import perform_handshake

NUM_PATIENTS = 6


@pytest.fixture(scope="module")
def federation():
    return Federation(
        tiny(
            *ONE_SITE,
            "privacy=dp_sgd",
            "privacy.trained=all",
            "privacy.max_norm=0.1",
            "model.experts=[pathology,genomics,synergistic]",
            "model.dropout=0.5",
            "training.max_patches=2",
        )
    )


@pytest.fixture(scope="module")
def agreement():
    plain = Federation(tiny(*ONE_SITE, "agreement.gene_scaling=public"))
    return perform_handshake(plain.grid(), plain.run(), plain.cohort.signatures).agreement


def moved(federation, agreement, chosen, random):
    """Measure the move of the weights in one step, in units of C: times the divisor, over the rate."""
    experiment = federation.config.experiment
    plan = plan_of(experiment)
    (site,) = federation.cohort.sites.values()
    cohort = site.cohort.subset([r.case_id for r in site.cohort.records[:NUM_PATIENTS]])
    cohort = cohort.subset([r.case_id for i, r in enumerate(cohort.records) if i in chosen])
    model = initial_model(experiment, agreement)
    before = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    dataset = PatientDataset(cohort, agreement, experiment.agreement)
    train_dp_round(model, dataset, experiment=experiment, plan=plan, size_band=BAND, server_round=1, random=random)
    after = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    rate = experiment.federation.optimizer.learning_rate
    return (before - after) * plan.divisor(BAND) / rate / plan.max_norm


def check_one_patient_more(federation, agreement):
    everybody = set(range(NUM_PATIENTS))
    whole = moved(federation, agreement, everybody, StillChance())
    for left_out in (0, NUM_PATIENTS - 1):
        others = moved(federation, agreement, everybody - {left_out}, StillChance())
        assert 0.5 < float((whole - others).norm()) < 1.001


def test_one_patient_more_moves_the_sum_by_at_most_the_norm(federation, agreement):
    check_one_patient_more(federation, agreement)


def test_dropout_of_one_stream_for_all_is_noticed(federation, agreement, monkeypatch):
    """Otherwise all patients after an additional one would get another mask."""
    monkeypatch.setattr("memamba_core.training.dp_training.seeded", lambda _: nullcontext())
    with seeded(3), pytest.raises(AssertionError):
        check_one_patient_more(federation, agreement)


def test_patches_named_by_a_patients_place_are_noticed(federation, agreement, monkeypatch):
    load = PatientDataset.load
    monkeypatch.setattr(
        PatientDataset,
        "load",
        lambda self, index, *, max_patches, rng: load(
            self, index, max_patches=max_patches, rng=np.random.default_rng(index)
        ),
    )
    with pytest.raises(AssertionError):
        check_one_patient_more(federation, agreement)


def test_dropout_and_patches_are_drawn_anew_for_each_patient(federation, agreement, monkeypatch):
    random, used = StillChance(), []

    @contextmanager
    def noted(seed):
        used.append(seed)
        with seeded(seed):
            yield

    monkeypatch.setattr("memamba_core.training.dp_training.seeded", noted)
    moved(federation, agreement, {1, 2, 3}, random)
    assert random.num_seeds == 6
    assert used == [7] * 3
    assert len({SecureRandom().seed() for _ in range(100)}) == 100


class OnesForNoise(StillChance):
    """Draw no patient, with noise of 1 on every parameter."""

    def bernoulli(self, num, probability):
        return np.zeros(num, dtype=bool)

    def normal(self, num):
        return np.ones(num)


def noise_alone(federation, agreement, *, training=None, proximal_mu=0.0, server_round=1, **changes):
    """Run a round of noise only; return the model after it and the weights before it."""
    experiment = federation.config.experiment
    if training is not None:
        experiment = experiment.model_copy(update={"training": experiment.training.model_copy(update=training)})
    (site,) = federation.cohort.sites.values()
    model = initial_model(experiment, agreement)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train_dp_round(
        model,
        PatientDataset(site.cohort, agreement, experiment.agreement),
        experiment=experiment,
        plan=dataclasses.replace(plan_of(experiment), **changes),
        size_band=BAND,
        server_round=server_round,
        proximal_mu=proximal_mu,
        random=OnesForNoise(),
    )
    return model, before


@pytest.mark.parametrize("mu", [0.0, 3.0])
def test_the_proximal_term_is_added_to_the_noise(federation, agreement, mu):
    """Expect no pull in the first step, and in the second a pull of mu times the move of the first."""
    model, before = noise_alone(federation, agreement, steps_per_round=2, proximal_mu=mu)
    plan, rate = plan_of(federation.config.experiment), federation.config.experiment.federation.optimizer.learning_rate
    step = rate * plan.step.noise_multiplier * plan.max_norm / plan.divisor(BAND)
    for name, parameter in model.named_parameters():
        wanted = torch.full_like(parameter, -step * (2 - mu * rate))
        torch.testing.assert_close(parameter - before[name], wanted, rtol=1e-3, atol=1e-6)


def test_only_the_last_layers_move_and_all_can_learn_afterwards(federation, agreement):
    model, before = noise_alone(federation, agreement, only_last_layers=True)
    last = {id(parameter) for parameter in model.last_layers()}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in last), name
        assert parameter.requires_grad, name


def test_a_round_goes_on_with_the_schedule(federation, agreement, monkeypatch):
    rates = []
    monkeypatch.setattr("memamba_core.training.dp_training.set_learning_rate", lambda _, rate: rates.append(rate))
    settings = {"schedule": "cosine", "warmup_fraction": 0.25}
    for server_round in (1, 2):
        noise_alone(
            federation, agreement, training=settings, server_round=server_round, steps_per_round=2, num_rounds=2
        )
    peak, config = federation.config.experiment.federation.optimizer.learning_rate, TrainingConfig(**settings)
    assert rates == pytest.approx([peak * learning_rate_factor(config, number / 4) for number in range(4)])
