"""Training at a site under differential privacy: noisy steps on patients drawn at random (`privacy.dp_sgd`).

This loop shares nothing with `trainer.train`: it has no epochs, no order and no batch size, and its results depend on
a patient only through the noisy weights. Trouble with one patient (a file that cannot be read, too little memory, an
error in the model, too much time) counts as a gradient of zero of this patient, and all other patients count as if it
had not happened.
"""

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch

from memamba_core.config.experiment import Experiment
from memamba_core.config.training import TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.model import MEMamba
from memamba_core.model.precision import matmul_precision
from memamba_core.privacy.dp_sgd import PatientOptimizer
from memamba_core.privacy.plan import PrivacyPlan
from memamba_core.privacy.secure_random import SecureRandom
from memamba_core.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from memamba_core.training.seeding import seeded
from memamba_core.training.time_limit import TimeLimit, TimeUp
from memamba_core.training.trainer import training_loss

__all__ = ["SECONDS_PER_PATIENT", "DPRoundReport", "train_dp_round"]

_log = logging.getLogger(__name__)
SECONDS_PER_PATIENT: Final = 60.0
"""Most seconds for one patient in one step. The largest bag takes a few seconds; this stops what never ends."""


@dataclass(frozen=True)
class DPRoundReport:
    """Report of a round for the site itself: none of it may leave the site.

    Attributes:
        drawn: patients drawn in each step.
        num_not_finite: gradients that counted as zero because they were not finite.
        num_left_out: gradients that counted as zero because they could not be computed.
    """

    drawn: tuple[int, ...]
    num_not_finite: int
    num_left_out: int = 0


def train_dp_round(
    model: MEMamba,
    dataset: PatientDataset,
    *,
    experiment: Experiment,
    plan: PrivacyPlan,
    size_band: int,
    server_round: int,
    device: torch.device | None = None,
    proximal_mu: float = 0.0,
    random: SecureRandom | None = None,
    seconds_per_patient: float = SECONDS_PER_PATIENT,
) -> DPRoundReport:
    """Take the noisy steps of one round. Only the resulting weights may leave the site.

    Two calls differ: all random numbers come from the operating system in each call, and for each patient separately.
    That includes dropout and sampled patches. If they came from one stream, or depended on a patient's position, one
    additional patient would change the gradients of all later patients, and the sum by more than C.

    Args:
        model: trained in place and left in training mode.
        dataset: patients of the site.
        experiment: loss, schedule and learning rate.
        plan: privacy plan of the run; the caller has charged this round to the ledger.
        size_band: lower end of the site's declared size band.
        server_round: number of the round, from 1; sets the position in the learning-rate schedule.
        device: where to compute; None leaves the model where it is.
        proximal_mu: weight of FedProx's term, added after the noise.
        random: source of all random numbers. Only tests pass one.
        seconds_per_patient: most seconds for one patient in one step; above, the patient's gradient counts as zero. The
            round as a whole has no limit: where it is cut off depends on the patients before, and one slow patient
            would take all later ones out of the sum.
    """
    if device is not None:
        model.to(device)
    model.train()
    random = random or SecureRandom()
    settings, config = experiment.federation.optimizer, experiment.training
    learners = {id(parameter) for parameter in model.last_layers()} if plan.only_last_layers else None
    for parameter in model.parameters():
        parameter.requires_grad_(learners is None or id(parameter) in learners)
    steps = build_optimizer(model, settings)
    optimizer = PatientOptimizer(
        steps,
        noise_multiplier=plan.step.noise_multiplier,
        max_norm=plan.max_norm,
        divisor=plan.divisor(size_band),
        random=random,
    )
    if proximal_mu:
        anchors = [parameter.detach().clone() for parameter in optimizer.params]
        optimizer.attach_step_hook(lambda _: _add_proximal_gradient(optimizer, anchors, proximal_mu))
    first, total = (server_round - 1) * plan.steps_per_round, plan.num_rounds * plan.steps_per_round
    patients = _Patients(model, dataset, config, random, optimizer)
    drawn: list[int] = []
    limit = TimeLimit(seconds_per_patient)
    with matmul_precision(config.matmul_precision), limit.installed():
        for number in range(first, first + plan.steps_per_round):
            set_learning_rate(steps, settings.learning_rate * learning_rate_factor(config, number / total))
            indices = np.flatnonzero(random.bernoulli(len(dataset), plan.step.sampling_rate)).tolist()
            for index in indices:
                patients.add(index, limit)
            optimizer.noisy_step()
            drawn.append(len(indices))
    model.requires_grad_(True)
    if optimizer.num_not_finite:
        _log.warning("%d gradients were not finite and counted as zero", optimizer.num_not_finite)
    return DPRoundReport(tuple(drawn), optimizer.num_not_finite, patients.num_left_out)


@dataclass
class _Patients:
    """Patients whose gradients are summed, one at a time."""

    model: MEMamba
    dataset: PatientDataset
    config: TrainingConfig
    random: SecureRandom
    optimizer: PatientOptimizer
    num_left_out: int = 0

    def add(self, index: int, limit: TimeLimit) -> None:
        """Add the clipped gradient of one patient to the sum, or zero if it cannot be computed."""
        # Drawn for every patient, so that trouble with one changes no random number of another.
        rng = np.random.default_rng(self.random.seed()) if self.config.max_patches else None
        seed = self.random.seed()
        try:
            with limit.one_patient():
                patient = self.dataset.load(index, max_patches=self.config.max_patches, rng=rng)
                with seeded(seed):
                    loss, _ = training_loss(self.model, [patient], self.config)
                loss.backward()  # type: ignore[no-untyped-call]
        except (Exception, TimeUp) as error:
            self.optimizer.leave_out()
            self.num_left_out += 1
            _log.error(
                "patient %s counted as a gradient of zero: %s: %s",
                self.dataset.records[index].case_id,
                type(error).__name__,
                error or "took too long",
            )
        else:
            self.optimizer.add_patient()


def _add_proximal_gradient(optimizer: PatientOptimizer, anchors: list[torch.Tensor], proximal_mu: float) -> None:
    """Add FedProx's pull towards the incoming weights. It depends on public weights only, so it needs no noise."""
    for parameter, anchor in zip(optimizer.params, anchors, strict=True):
        assert parameter.grad is not None
        parameter.grad.add_(parameter.detach() - anchor, alpha=proximal_mu)
