"""Settings that a coordinator may choose at a site without `limits.settings`, and constants of a deployment.

A setting of the groups `agreement`, `model` and `training` must equal the site's installed default unless a table
below says otherwise, so that a new setting is closed until somebody judges it. The groups `federation`, `strategy` and
`privacy` are for the larger part the coordinator's own business (waits, numbers of sites); there, the tables name what
is guarded.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from memamba_core.config.experiment import Experiment

__all__ = ["ALSO_ALLOWED", "CONSTANTS", "FREE", "GUARDED", "LARGEST", "check_constants", "check_guarded", "is_guarded"]

GUARDED: Mapping[str, str] = {
    "federation.optimizer.learning_rate": "<=",
    "federation.optimizer.momentum": "<=",
    "federation.update_norm": "<=",
    "training.gradient_clip": "<=",
    "training.batch_size": ">=",
    "training.loss.alpha": "<=",
    "training.loss.mmd_weight": "<=",
    "training.loss.transport_weight": "<=",
    "training.loss.expert_weight": "<=",
    "model.dropout": ">=",
    "model.d_model": "<=",
    "model.num_layers": "<=",
    "model.num_backbone_layers": "<=",
    "model.d_state": "<=",
    "model.d_conv": "<=",
    "model.expand": "<=",
    "model.group_hidden": "<=",
    "model.transport_epsilon": ">=",
    "model.transport_exact_limit": "<=",
    "model.mmd_max_tokens": "<=",
    "agreement.num_bins": "<=",
    "agreement.grid_step_months": ">=",
    "agreement.grid_num_cells": "<=",
    "agreement.gene_statistics_clip": "<=",
    "agreement.gene_scale_floor": ">=",
    "agreement.scaled_clip": "<=",
}
"""Setting -> direction in which it may leave the installed default.

Crafted weights read single patients through a round with a raised learning rate and clip and without dropout. Momentum,
and more steps from smaller batches, have the effect of a raised learning rate. A longer `update_norm` lets weights move
further between rounds. `loss.alpha` leaves patients without the event out of the gradient; the fusion losses leave out
patients without both modalities; `expert_weight` builds heads that no dropout protects. A finer time grid counts single
patients; looser clips and a lower `gene_scale_floor` let one patient with extreme values dominate a sum. The limits of
the transport and of `mmd_max_tokens` bound memory and time at the site, and a small `transport_epsilon` gives values
that are not finite."""

ALSO_ALLOWED: Mapping[str, tuple[Any, ...]] = {
    "agreement.time_bins": ("public",),
    "agreement.gene_groups": ("kind",),
    "agreement.gene_scaling": ("public",),
    "agreement.feature_scaling": ("auto", "zscore", "public"),
    "model.transport": ("sinkhorn",),
    "model.linear_skip": (False,),
    "model.slide_skip": (False,),
}
"""Setting -> values allowed as well as the installed default. The plans `exact` and `unbalanced` can fail for one
patient and not for another: with `exact`, runs with other limits or numbers of gene groups read the size of the largest
bag from answers without training. Unscaled slide-level features are not among them: nothing
clips them, and one patient with extreme values would dominate every gradient. `slide_skip=true` is a second path from
the values to the logits without dropout."""

FREE: tuple[str, ...] = (
    "seed",
    "training.optimizer",  # of pooled and single-site training, not of a federation
    "training.schedule",  # the factor of the learning rate is at most 1
    "training.warmup_fraction",
    "training.precision",
    "training.matmul_precision",
    "training.max_patches",
    "model.experts",
    "model.scans",
    "model.attention_order",
    "model.scan_backend",
    "model.recompute",
    "model.gene_activation",
    "model.gene_dropout",
    "model.mmd_tokens",
    "model.anchor",
)
"""Settings, and groups of settings, with any value."""

LARGEST: Mapping[str, Mapping[str, float]] = {
    "adamw": {"federation.optimizer.learning_rate": 3e-3, "federation.update_norm": 10.0},
}
"""Optimizer of a federation that is not the installed default -> largest values, those of its file in the group
`federation`. AdamW moves each weight by the rate, whatever the gradient clip is, and its updates are longer."""

LARGEST_NUMBER: Mapping[str, float] = {"federation.num_rounds": 100, "federation.local_epochs": 2}
"""Setting -> largest value, whatever the installed default. Each round is one more answer about the same patients, and
one more step of the weights. More passes over few patients have the effect of a raised learning rate; 2 are those of
`federation=adamw`. `limits.local_epochs` bounds them as well, also where a list allows the setting."""

_EQUAL = ("strategy.server_learning_rate", "strategy.server_momentum", "strategy.beta_1", "strategy.beta_2")
_LARGER = ("strategy.tau",)
"""Settings of a strategy, which must equal (or reach) the default of that strategy: the step that a site accepts
between two rounds is derived from them (`client.step_bounds`)."""

_CLOSED = ("agreement", "model", "training")

CONSTANTS: tuple[str, ...] = (
    "agreement.gene_transform",
    "agreement.gene_statistics_clip",
    "agreement.grid_step_months",
    "agreement.grid_num_cells",
    "federation.curve_holdout",
    "federation.curve_on_test_fold",
)
"""Settings that are constants in a deployment, also where `limits.settings` names them: sums with another transform or
clip, counts on another grid, or metrics of other subsets can be subtracted from each other."""


def check_constants(experiment: Experiment, installed: Experiment) -> list[str]:
    """Return one sentence for each constant of a deployment that a run changes.

    Args:
        experiment: of the run.
        installed: what this site composes without overrides.
    """
    changed = experiment.differences(installed)
    defaults = installed.flat()
    said = [
        f"{setting}={show(changed[setting])}; at a site in a deployment it must be {show(defaults[setting])}"
        for setting in CONSTANTS
        if setting in changed
    ]
    if experiment.federation.update_norm is None and experiment.privacy.name == "none":
        said.append(
            "federation.update_norm is null; a site in a deployment needs a number, from which it derives how far the "
            "weights may move between rounds"
        )
    return said


def check_guarded(experiment: Experiment, installed: Experiment) -> Iterator[str]:
    """Yield one sentence for each difference from the installed defaults that a site without a list refuses."""
    changed = experiment.differences(installed)
    limits, rate = installed.flat(), "federation.optimizer.learning_rate"
    private = experiment.privacy.name != "none"
    optimizer = experiment.federation.optimizer.name
    own = LARGEST.get(optimizer, {}) if optimizer != installed.federation.optimizer.name else {}
    if own:
        changed = {rate: limits[rate], **changed}  # even the installed rate has another effect with another optimizer
        limits.update(own)
    strategy = type(experiment.strategy)().model_dump()
    for setting, value in changed.items():
        if setting in LARGEST_NUMBER:
            if value > LARGEST_NUMBER[setting]:
                yield _sentence(setting, value, f"<= {LARGEST_NUMBER[setting]:g}")
        elif setting in GUARDED:
            if private and setting == "federation.update_norm":
                continue  # the bound of a private update is that of the noise
            relation, limit = GUARDED[setting], limits.get(setting, math.nan)
            if setting in limits and not _within(value, relation, limit):
                whose = f"the largest for {optimizer}" if setting in own else "the installed default"
                yield _sentence(setting, value, f"{relation} {limit:g}", whose)
        elif setting in (*_EQUAL, *_LARGER):
            limit = strategy[setting.partition(".")[2]]
            relation = ">=" if setting in _LARGER else "=="
            if not (value >= limit if relation == ">=" else value == limit):
                wanted = f"{relation} {limit:g}" if relation == ">=" else f"{limit:g}"
                yield _sentence(setting, value, wanted, f"the default of strategy {experiment.strategy.name}")
        elif setting == "agreement.public_edges":
            if (reason := _fine_edges(value, installed)) is not None:
                yield f"{setting}={show(value)}; without limits.settings {reason}"
        elif private and setting == "model.hazard_bias":
            continue  # the noise covers whom the first gradients come from
        elif is_guarded(setting) and value not in ALSO_ALLOWED.get(setting, ()):
            yield _sentence(setting, value, show(limits.get(setting)), "the installed default")


def is_guarded(setting: str) -> bool:
    """Return True if a site without `limits.settings` limits the values of a setting."""
    if any(setting == free or setting.startswith(f"{free}.") for free in FREE):
        return False
    named = (*GUARDED, *ALSO_ALLOWED, *LARGEST_NUMBER, *_EQUAL, *_LARGER)
    return setting in named or setting.partition(".")[0] in _CLOSED


def show(value: Any) -> str:
    """Return a setting's value as it stands in a sentence."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _within(value: Any, relation: str, limit: float) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return value <= limit if relation == "<=" else value >= limit


def _fine_edges(edges: Sequence[float], installed: Experiment) -> str | None:
    """Return why time bins are too fine: a narrow bin, or one late enough, has a row of the head for one patient."""
    step, last = installed.agreement.grid_step_months, installed.agreement.public_edges[-1]
    widths = [later - earlier for earlier, later in zip((0.0, *edges), edges, strict=False)]
    if min(widths) < step:
        return f"a time bin must be at least {step:g} months wide, a cell of the time grid"
    if edges[-1] > last:
        return f"the last edge must be at most {last:g} months, that of the installed default"
    return None


def _sentence(setting: str, value: Any, wanted: str, whose: str = "") -> str:
    return f"{setting}={show(value)}; without limits.settings it must be {wanted}" + (f", {whose}" if whose else "")
