"""Training loop over patients: a batch is a list of patients; gradients accumulate over its parts (`batches`).

Pooled training, a site alone and a site of a federation all call `train`; they differ in the part of the run that
they cover (`Span`) and in the proximal term. Only differential privacy has a separate loop (`dp_training`).
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.training import LossConfig, OptimizerConfig, TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError
from memamba_core.model import MEMamba
from memamba_core.model.precision import matmul_precision
from memamba_core.patient import PatientInputs
from memamba_core.survival.hazards import hazards_from_logits, risk_from_logits, survival_from_logits
from memamba_core.survival.losses import nll_loss
from memamba_core.training.batches import batches_of, num_batches, parts_of_batch, parts_of_stream
from memamba_core.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from memamba_core.training.seeding import derive_seed, seeded

__all__ = ["Predictions", "Span", "TrainResult", "predict", "resolve_device", "train", "training_loss"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """Part of a run that one call trains: epochs `first`...`first + num - 1` of `total`.

    Attributes:
        first: number of epochs already trained in the run.
        num: number of epochs to train now.
        total: number of epochs of the whole run; the learning-rate schedule covers them.
    """

    first: int
    num: int
    total: int


@dataclass(frozen=True)
class TrainResult:
    """Result of one call of `train`.

    Attributes:
        trained: number of distinct patients whose gradient moved a parameter group, by group; only steps taken count.
        mean_loss: likelihood term per patient, averaged over the epochs of the span, skipped steps included. It is not
            finite if the likelihood of a patient was not.
        steps: number of optimizer steps taken.
        skipped_steps: number of steps skipped because a gradient was not finite.
    """

    trained: Mapping[str, int]
    mean_loss: float
    steps: int
    skipped_steps: int = 0


@dataclass(frozen=True)
class Predictions:
    """Predictions for each patient of a data set, with the outcomes.

    Attributes:
        risk: [N], in [-K, 0], higher is worse.
        hazards_NK: P(event in bin k | alive at its start).
        survival_NK: probability of surviving bins 0...k.
        loss: [N], negative log-likelihood.
        time_months, event: the outcome; `event=True` means that the event happened.
        groups: parameter groups that took part; they show which data of a patient were read.
        case_ids: local identifiers, in the same order. They never leave the machine.
    """

    risk: npt.NDArray[np.float64]
    hazards_NK: npt.NDArray[np.float64]
    survival_NK: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    time_months: npt.NDArray[np.float64]
    event: npt.NDArray[np.bool_]
    groups: tuple[frozenset[str], ...]
    case_ids: tuple[str, ...] = field(repr=False)


def resolve_device(name: str) -> torch.device:
    """Resolve a device name; `auto` is CUDA if present, else the CPU.

    Raises:
        ConfigError: the name is a GPU that torch does not find.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(("cuda" if num_gpus else "cpu") if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= num_gpus:
        found = f"finds {num_gpus} GPUs here, counted from 0" if num_gpus else "finds no GPU here"
        raise ConfigError(f"device is {name!r}, and torch {torch.__version__} {found}. Choose auto or cpu.")
    return device


def train(
    model: MEMamba,
    dataset: PatientDataset,
    *,
    config: TrainingConfig,
    optimizer: OptimizerConfig,
    span: Span,
    seed: int,
    device: torch.device | None = None,
    proximal_mu: float = 0.0,
    smallest_batch: int = 1,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainResult:
    """Train a model in place.

    Args:
        model: trained in place and left in training mode.
        dataset: patients; at least one.
        config: batch size, schedule, clipping, precision, loss.
        optimizer: settings of the optimizer, which is built for this call.
        span: part of the run to train.
        seed: seed of the order of patients, dropout and patch sampling.
        device: where to compute; None leaves the model where it is.
        proximal_mu: weight of FedProx's (mu/2) ||w - w_incoming||^2 (Li et al. 2020, eq. 2).
        smallest_batch: fewest patients of a step, of a site whose weights must not show single patients.
        on_epoch: called after each epoch with the number of the epoch in the run (from 1) and its mean loss.

    Raises:
        ValueError: the data set is empty.
    """
    if not len(dataset):
        raise ValueError("the data set is empty; expected at least one patient to train on")
    if device is not None:
        model.to(device)
    model.train()
    step = _Step(model, config, optimizer, proximal_mu)
    trained: dict[str, set[int]] = {}
    losses: list[float] = []
    steps_per_epoch = num_batches(len(dataset), config.batch_size, smallest_batch)
    for epoch in range(span.first, span.first + span.num):
        epoch_loss = 0.0
        with seeded(derive_seed(seed, epoch, "dropout")), matmul_precision(config.matmul_precision):
            for number, indices in enumerate(
                batches_of(len(dataset), config.batch_size, derive_seed(seed, epoch, "order"), smallest_batch)
            ):
                progress = (epoch + number / steps_per_epoch) / span.total
                set_learning_rate(step.optimizer, optimizer.learning_rate * learning_rate_factor(config, progress))
                patients = [
                    dataset.load(i, max_patches=config.max_patches, rng=_patch_rng(seed, epoch, i, config))
                    for i in indices
                ]
                likelihood_sum, is_taken = step(patients)
                epoch_loss += likelihood_sum
                for index, patient in zip(indices, patients, strict=True) if is_taken else ():
                    for group in model.groups_of(patient):
                        trained.setdefault(group, set()).add(index)
        losses.append(epoch_loss / len(dataset))
        if on_epoch is not None:
            on_epoch(epoch + 1, losses[-1])
    if step.skipped:
        _log.warning("%d of %d steps were skipped: a gradient was not finite", step.skipped, step.skipped + step.taken)
    return TrainResult(
        trained={group: len(members) for group, members in sorted(trained.items())},
        mean_loss=float(np.mean(losses)),
        steps=step.taken,
        skipped_steps=step.skipped,
    )


def predict(
    model: MEMamba,
    dataset: PatientDataset,
    *,
    device: torch.device | None = None,
    loss: LossConfig | None = None,
    on_patients: Callable[[int], None] | None = None,
) -> Predictions:
    """Predict every patient of a data set, in evaluation mode and without gradients.

    Args:
        model: left in evaluation mode.
        dataset: patients; may be empty.
        device: where to compute; None leaves the model where it is.
        loss: conventions of the likelihood in `Predictions.loss`; None takes the defaults.
        on_patients: called with the number of patients predicted since the last call.
    """
    if device is not None:
        model.to(device)
    model.eval()
    num_bins = len(dataset.agreement.time_bin_edges) + 1
    risk, losses = np.zeros(len(dataset)), np.zeros(len(dataset))
    hazards, survival = np.zeros((len(dataset), num_bins)), np.zeros((len(dataset), num_bins))
    groups: list[frozenset[str]] = []
    patients = ((i, dataset.load(i)) for i in range(len(dataset)))
    with torch.inference_mode():
        for part in parts_of_stream(patients):
            indices = [index for index, _ in part]
            inputs = [_to_device(patient, _device_of(model)) for _, patient in part]
            logits_BK = model(inputs).logits_BK.float()
            risk[indices] = risk_from_logits(logits_BK).double().cpu().numpy()
            hazards[indices] = hazards_from_logits(logits_BK).double().cpu().numpy()
            survival[indices] = survival_from_logits(logits_BK).double().cpu().numpy()
            losses[indices] = _likelihood(logits_BK, inputs, loss or LossConfig()).double().cpu().numpy()
            groups += [model.groups_of(patient) for patient in inputs]
            if on_patients is not None:
                on_patients(len(part))
    case_ids = tuple(r.case_id for r in dataset.records)
    return Predictions(risk, hazards, survival, losses, dataset.times, dataset.events, tuple(groups), case_ids)


class _Step:
    """Optimizer step on a list of patients."""

    def __init__(self, model: MEMamba, config: TrainingConfig, optimizer: OptimizerConfig, proximal_mu: float) -> None:
        self.model = model
        self.config = config
        self.optimizer = build_optimizer(model, optimizer)
        self.proximal_mu = proximal_mu
        self.anchor = [p.detach().clone() for p in model.parameters()] if proximal_mu else []
        self.taken = 0
        self.skipped = 0

    def __call__(self, patients: Sequence[PatientInputs]) -> tuple[float, bool]:
        """Take a step; return the summed likelihood term of the patients, and whether the step was taken."""
        self.optimizer.zero_grad(set_to_none=True)
        likelihood_sum = 0.0
        for part in parts_of_batch(patients):
            loss, likelihood = training_loss(self.model, part, self.config)
            (loss * (len(part) / len(patients))).backward()  # type: ignore[no-untyped-call]
            likelihood_sum += float(likelihood) * len(part)
        self._add_proximal_gradient()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        if not torch.isfinite(norm):
            self.skipped += 1
            return likelihood_sum, False
        self.optimizer.step()
        self.taken += 1
        return likelihood_sum, True

    def _add_proximal_gradient(self) -> None:
        if not self.proximal_mu:
            return
        for parameter, anchor in zip(self.model.parameters(), self.anchor, strict=True):
            if parameter.grad is not None:  # a group without data in this batch keeps its weights
                parameter.grad.add_(parameter.detach() - anchor, alpha=self.proximal_mu)


def training_loss(
    model: MEMamba, patients: Sequence[PatientInputs], config: TrainingConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the mean loss of some patients, and its likelihood term (detached). No term compares patients."""
    weights, device = config.loss, _device_of(model)
    inputs = [_to_device(patient, device) for patient in patients]
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        output = model(inputs)
    likelihood = _likelihood(output.logits_BK.float(), inputs, weights).mean()
    loss = likelihood + weights.mmd_weight * output.mmd + weights.transport_weight * output.transport_cost
    if weights.expert_weight:
        for indices, logits_bK in output.expert_logits.values():
            chosen = [inputs[i] for i in indices.tolist()]
            # the sum over patients with the modality, divided by all: a patient weighs the same in any batch
            loss = loss + weights.expert_weight * _likelihood(logits_bK.float(), chosen, weights).sum() / len(inputs)
    return loss, likelihood.detach()


def _likelihood(logits_BK: torch.Tensor, patients: Sequence[PatientInputs], config: LossConfig) -> torch.Tensor:
    """Compute the negative log-likelihood of each patient, [B]."""
    time_bins = torch.tensor([p.target.time_bin for p in patients], device=logits_BK.device)
    events = torch.tensor([p.target.event for p in patients], device=logits_BK.device)
    return nll_loss(
        logits_BK, time_bins, events, alpha=config.alpha, censored_bin=config.censored_bin, reduction="none"
    )


def _patch_rng(seed: int, epoch: int, index: int, config: TrainingConfig) -> np.random.Generator | None:
    """Return the generator that samples patches in an epoch; without one, a limit takes patches evenly spaced."""
    return np.random.default_rng(derive_seed(seed, epoch, index, "patches")) if config.max_patches else None


def _device_of(model: MEMamba) -> torch.device:
    return next(model.parameters()).device


def _to_device(patient: PatientInputs, device: torch.device) -> PatientInputs:
    return patient if device.type == "cpu" else patient.to(device)
