"""No setting without effect: each of model, training and agreement changes what is agreed on or what is learned.

Where a setting changes the speed alone, or only refuses, it stands in `ELSEWHERE` with the test that holds it.
"""

import dataclasses
import functools
import operator

import numpy as np
import pytest
import torch
import yaml
from fixtures.federation import Federation, tiny

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.base import Settings
from memamba_core.config.experiment import Experiment
from memamba_core.config.model import ModelConfig
from memamba_core.config.training import AdamWConfig, LossConfig, SGDConfig, TrainingConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.training.trainer import Span, train
from server.federation.handshake import perform_handshake

BASE = (
    "data.synthetic.missing_genes=0",
    "data.synthetic.missing_slides=0",
    "data.synthetic.patches=[5,5]",
    "partition.num_sites=2",
    "training.batch_size=4",
    "training.max_patches=null",
    "training.optimizer.learning_rate=0.01",
)
AGREEMENT = {
    "time_bins": ("public",),
    "public_edges": ("[6,12,24]", "agreement.time_bins=public"),
    "grid_step_months": ("2",),
    "grid_num_cells": ("8",),
    "gene_groups": ("kind",),
    "gene_transform": ("none",),
    "gene_statistics_clip": ("0.5",),
    "gene_scaling": ("public",),
    "gene_scale_floor": ("2",),
    "scaled_clip": ("0.5",),
    "feature_scaling": ("zscore",),
}
MODEL = {
    "experts": ("[pathology,genomics]",),
    "d_model": ("8",),
    "num_layers": ("2",),
    "num_backbone_layers": ("2",),
    "scans": ("[conventional]",),
    "attention_order": ("descending",),
    "d_state": ("3",),
    "d_conv": ("2",),
    "expand": ("1",),
    "group_hidden": ("5",),
    "gene_activation": ("elu",),
    "gene_dropout": ("alpha",),
    "dropout": ("0.1",),
    "linear_skip": ("false",),
    "transport": ("sinkhorn",),
    "transport_epsilon": ("1",),
    "transport_marginal": ("5", "model.transport=unbalanced"),
    "anchor": ("patches",),
    "mmd_tokens": ("plan", "model.mmd_max_tokens=2"),
    "mmd_max_tokens": ("2",),
    "hazard_bias": ("0",),
}
TRAINING = {
    "batch_size": ("5",),
    "schedule": ("constant",),
    "warmup_fraction": ("0.9",),
    "gradient_clip": ("0.01", "training.optimizer.name=sgd"),
    "precision": ("bfloat16",),
    "max_patches": ("2",),
    "loss.alpha": ("0.5",),
    "loss.censored_bin": ("before",),
    "loss.mmd_weight": ("1",),
    "loss.transport_weight": ("1",),
    "loss.expert_weight": ("1",),
    "optimizer.name": ("sgd",),
    "optimizer.learning_rate": ("0.02",),
    "optimizer.weight_decay": ("1",),
    "optimizer.skip_weight_decay": ("2",),
    "optimizer.momentum": ("0.9", "training.optimizer.name=sgd"),
}
ELSEWHERE = {
    "num_bins": "test_config_settings.py: goes with public_edges",
    "scan_backend": "test_model_scan_choice.py: the same results",
    "recompute": "test_model_experts.py: the same results",
    "slide_skip": "test_model_build.py: for tables with families",
    "transport_exact_limit": "test_model_transport.py: a refusal",
    "matmul_precision": "test_model_precision.py: some processors round nothing",
}


def fields(cls: type[Settings], prefix: str = "") -> set[str]:
    return {prefix + name for name in cls.model_fields}


def test_every_setting_is_tried():
    training = fields(TrainingConfig) - {"loss", "optimizer"}
    training |= fields(LossConfig, "loss.") | fields(AdamWConfig, "optimizer.") | fields(SGDConfig, "optimizer.")
    tried = set(AGREEMENT) | set(MODEL) | set(TRAINING)
    assert not tried & set(ELSEWHERE)
    assert tried | set(ELSEWHERE) == fields(AgreementConfig) | fields(ModelConfig) | training


@pytest.fixture(scope="module")
def plain():
    """Experiment and data of a federation as it is without a change."""
    return agreed()


def agreed(*overrides):
    federation = Federation(tiny(*BASE, *overrides))
    experiment = federation.config.experiment
    agreement = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement
    return experiment, PatientDataset(federation.cohort.cohort, agreement, experiment.agreement)


@pytest.mark.ci_slow
@pytest.mark.parametrize(("name", "value", "context"), [(n, v, tuple(c)) for n, (v, *c) in AGREEMENT.items()])
def test_a_setting_changes_what_is_agreed_on_or_what_the_model_sees(plain, name, value, context):
    (_, before), (_, after) = agreed(*context) if context else plain, agreed(*context, f"agreement.{name}={value}")
    genes, scaled = (torch.stack([data.load(i).genes_C for i in range(8)]) for data in (before, after))
    assert before.agreement.digest() != after.agreement.digest() or not torch.equal(genes, scaled)


def learned(experiment: Experiment, dataset: PatientDataset) -> dict[str, np.ndarray]:
    """Weights after three steps on ten patients, and the loss on the way."""
    few = dataclasses.replace(dataset.cohort, records=dataset.records[:10])
    model, config = initial_model(experiment, dataset.agreement), experiment.training
    done = train(
        model,
        PatientDataset(few, dataset.agreement, experiment.agreement),
        config=config,
        optimizer=config.optimizer,
        span=Span(0, 1, 2),
        seed=1,
        device=torch.device("cpu"),
    )
    return {**weights_of(model), "loss": np.array(done.mean_loss)}


def changed(experiment: Experiment, *overrides: str) -> Experiment:
    values = experiment.model_dump()
    for override in overrides:
        key, _, value = override.partition("=")
        *path, last = key.split(".")
        group = functools.reduce(operator.getitem, path, values)
        group[last] = yaml.safe_load(value)
    return Experiment.parse(values, "test")


@pytest.fixture(scope="module")
def learned_before(plain):
    """Train without the change, once for each context."""
    experiment, dataset = plain
    return functools.cache(lambda context: learned(changed(experiment, *context), dataset))


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    ("key", "value", "context"),
    [
        (f"{g}.{n}", v, tuple(c))
        for g, group in (("model", MODEL), ("training", TRAINING))
        for n, (v, *c) in group.items()
    ],
)
def test_a_setting_changes_what_is_learned(plain, learned_before, key, value, context):
    experiment, dataset = plain
    before = learned_before(context)
    after = learned(changed(experiment, *context, f"{key}={value}"), dataset)
    same = before.keys() == after.keys() and all(np.array_equal(before[name], after[name]) for name in before)
    assert not same
