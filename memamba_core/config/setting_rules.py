"""`limits.settings` of a `site.yaml`: in which settings a run may differ from the site's installed defaults.

Without such a list, a run may choose any setting, with one exception: settings that make a run reveal more of single
patients (`GUARDED`) may move away from the installed default in the harmless direction only.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from memamba_core.config.base import setting_names
from memamba_core.config.experiment import Experiment

__all__ = ["GUARDED", "LARGEST_RATE", "SettingRule", "check_differences"]

_NAME = r"\*|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*"
_RULE = re.compile(rf"(?P<name>{_NAME})\s*(?:(?P<relation><=|>=)\s*(?P<bound>[-+0-9.eE]+))?")

GUARDED: Mapping[str, str] = {
    "federation.optimizer.learning_rate": "<=",
    "federation.optimizer.momentum": "<=",
    "training.gradient_clip": "<=",
    "training.batch_size": ">=",
    "training.loss.alpha": "<=",
    "training.loss.censored_bin": "==",
    "model.dropout": ">=",
    "model.d_model": "<=",
    "model.num_layers": "<=",
    "model.num_backbone_layers": "<=",
    "model.d_state": "<=",
    "model.expand": "<=",
    "model.group_hidden": "<=",
    "model.mmd_max_tokens": "<=",
    "model.transport_exact_limit": "<=",
    "agreement.num_bins": "<=",
    "agreement.grid_step_months": ">=",
    "agreement.grid_num_cells": "<=",
    "agreement.gene_statistics_clip": "<=",
    "agreement.gene_scale_floor": ">=",
    "agreement.scaled_clip": "<=",
}
"""Setting -> direction in which it may leave the installed default where a site has no `limits.settings`; `==`: none.

Crafted weights read single patients through a round with a raised learning rate and clip and without dropout. Momentum,
and more steps from smaller batches, have the effect of a raised learning rate. `loss.alpha` and `loss.censored_bin`
leave patients without the event out of the gradient. A finer time grid counts single patients; looser clips and a lower
`gene_scale_floor` let one patient with extreme values dominate a sum. `mmd_max_tokens` and `transport_exact_limit`
bound memory and time at the site."""

LARGEST_RATE: Mapping[str, float] = {"adamw": 3e-3}
"""Optimizer -> largest learning rate where a site has no `limits.settings`, of an optimizer that is not the installed
default: the rate in its file of the group `federation`. AdamW moves each weight by the rate, whatever the gradient
clip is."""


@dataclass(frozen=True)
class SettingRule:
    """One entry of `limits.settings`: `NAME`, `NAME<=NUMBER` or `NAME>=NUMBER`.

    Attributes:
        name: a setting of the experiment, a group (`model` allows every setting of the model), or `*` for all.
        relation: `<=`, `>=`, or "" without a bound.
        bound: largest or smallest value; 0 without a bound.
    """

    name: str
    relation: str = ""
    bound: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an entry.

        Raises:
            ValueError: the entry has another form, or names no setting of an experiment.
        """
        match = _RULE.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not a rule; expected NAME, NAME<=NUMBER or NAME>=NUMBER")
        name, relation = match["name"], match["relation"] or ""
        known = set(setting_names(Experiment))
        if name != "*" and name not in known and not any(setting.startswith(f"{name}.") for setting in known):
            raise ValueError(f"{name!r} is no setting of an experiment")
        if relation and name not in known:
            raise ValueError(f"{text!r} bounds a group; expected a bound on a single setting")
        try:
            bound = float(match["bound"]) if relation else 0.0
        except ValueError:
            raise ValueError(f"{text!r} has no number as its bound") from None
        if not math.isfinite(bound):
            raise ValueError(f"{text!r} has no finite bound")
        return cls(name, relation, bound)

    def covers(self, setting: str) -> bool:
        """Return True if the rule is about a setting."""
        return self.name == "*" or setting == self.name or setting.startswith(f"{self.name}.")

    def allows(self, value: Any) -> bool:
        """Return True if a value lies within the bound: always without a bound, never if it is not a number."""
        if not self.relation:
            return True
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return value <= self.bound if self.relation == "<=" else value >= self.bound

    def __str__(self) -> str:
        return f"{self.name}{self.relation}{self.bound!r}" if self.relation else self.name


def check_differences(experiment: Experiment, installed: Experiment, rules: Sequence[SettingRule] | None) -> list[str]:
    """Return one sentence for each setting in which a run may not differ from the installed defaults.

    Every difference counts, whichever way it was written: one setting, or the file of a group. A bound also holds for a
    setting that does not differ: the bound can be tighter than the installed default.

    Args:
        experiment: of the run.
        installed: what this site composes without overrides.
        rules: the site's `limits.settings`; None applies `GUARDED` and `LARGEST_RATE`.
    """
    changed = experiment.differences(installed)
    if rules is None:
        return list(_check_guarded(changed, installed))
    return [*_check_allowed(changed, rules), *_check_bounds(experiment.flat(), rules)]


def _check_allowed(changed: Mapping[str, Any], rules: Sequence[SettingRule]) -> Iterator[str]:
    for setting, value in changed.items():
        if not any(rule.covers(setting) for rule in rules):
            yield f"{setting}={_show(value)} differs from the installed default and is not in limits.settings"


def _check_bounds(values: Mapping[str, Any], rules: Sequence[SettingRule]) -> Iterator[str]:
    for rule in rules:
        if rule.relation and rule.name in values and not rule.allows(values[rule.name]):
            yield f"{rule.name}={_show(values[rule.name])} is outside {rule} of limits.settings"


def _check_guarded(changed: Mapping[str, Any], installed: Experiment) -> Iterator[str]:
    limits, rate = installed.flat(), "federation.optimizer.learning_rate"
    optimizer = str(changed.get("federation.optimizer.name"))
    if optimizer in LARGEST_RATE:
        changed = {rate: limits[rate], **changed}  # even the installed rate has another effect with another optimizer
        limits[rate] = LARGEST_RATE[optimizer]
    for setting, relation in GUARDED.items():
        if setting not in changed or setting not in limits:
            continue
        value, limit = changed[setting], limits[setting]
        whose = (
            f"the largest for {optimizer}" if setting == rate and optimizer in LARGEST_RATE else "the installed default"
        )
        if relation == "==":
            yield f"{setting}={_show(value)}; without limits.settings it must be {limit}, {whose}"
        elif not SettingRule(setting, relation, limit).allows(value):
            yield f"{setting}={_show(value)}; without limits.settings it must be {relation} {limit:g}, {whose}"


def _show(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
