"""Answers of a strict site to rounds and to the evaluation: what is withheld of a training round, and of its loss.

An answer may not depend on whether a single patient's data can be read or give finite numbers. Trouble in a round is
therefore answered by the received weights with no patient counted, and trouble in the evaluation by no number; the
reason stands in the site's own log.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch

from memamba_core.config.training import LossConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.model import MEMamba, parameter_group
from memamba_core.training.trainer import predict
from memamba_core.wire.protocol import Metrics, TrainReply, TrainRequest

from .site import Site

__all__ = ["DECIMALS", "answer_round", "rounded_loss"]

_log = logging.getLogger(__name__)
DECIMALS = 3
"""Decimals of a loss that leaves a strict site."""


def answer_round(site: Site, request: TrainRequest, model: MEMamba, train: Callable[[], TrainReply]) -> TrainReply:
    """Train, and withhold what tells of fewer patients than a block holds.

    A parameter group that fewer patients of a block train than the threshold keeps the received weights and counts no
    patient: its update would be a sum over these few.

    Args:
        site: a strict site.
        request: of the round.
        model: of the run; it says which groups a patient trains.
        train: trains and returns the reply of a permissive site.
    """
    try:
        reply = train()
    except Exception:
        _log.exception("round %d was answered without training", request.server_round)
        return TrainReply(weights=dict(request.weights), trained={}, counts={})
    assert site.registry is not None
    fewest = _fewest_contributions(site, request.fold, model)
    trained = {g: n for g, n in reply.trained.items() if fewest.get(g, 0) >= site.registry.smallest.patients}
    weights = {
        name: array if parameter_group(name) in trained else request.weights[name]
        for name, array in reply.weights.items()
    }
    loss = None if reply.train_loss is None else round(reply.train_loss, DECIMALS)
    return TrainReply(weights=weights, trained=trained, train_loss=loss, counts={})


def rounded_loss(
    model: MEMamba, dataset: Callable[[], PatientDataset], device: torch.device, loss: LossConfig
) -> Metrics:
    """Return the mean loss over the test blocks, rounded: all that a strict site discloses of an evaluation.

    Args:
        model: with the weights to evaluate.
        dataset: returns the patients of the test blocks.
        device: where to compute.
        loss: terms of the loss.
    """
    try:
        patients = dataset()
        losses = predict(model, patients, device=device, loss=loss).loss if len(patients) else np.zeros(0)
    except Exception:
        _log.exception("the evaluation was answered without a number")
        return Metrics(counts={})
    if not len(losses):
        return Metrics(counts={})
    if not np.isfinite(losses).all():
        _log.error("the evaluation was answered without a number: a loss is not finite")
        return Metrics(counts={})
    mean = round(float(losses.mean()), DECIMALS)
    return Metrics(num_patients=len(losses), loss_sum=mean * len(losses), counts={})


def _fewest_contributions(site: Site, fold: int, model: MEMamba) -> dict[str, int]:
    """Return for each parameter group the fewest patients of a block that train it, among the blocks with any."""
    fewest: dict[str, int] = {}
    for block in site.training_blocks(fold):
        cohort, counts = site.cohort.subset(block.case_ids), dict[str, int]()
        for record in cohort.records:
            for group in model.groups_with(patches=cohort.has_slides(record), genes=cohort.has_genes(record)):
                counts[group] = counts.get(group, 0) + 1
        fewest |= {group: min(count, fewest.get(group, count)) for group, count in counts.items()}
    return fewest
