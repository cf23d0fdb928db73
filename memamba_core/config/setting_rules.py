"""`limits.settings` of a `site.yaml`: in which settings a run may differ from the site's installed defaults.

Without such a list, a run may choose any setting, with one exception: settings that make a round reveal more of single
patients (learning rate, gradient clip, dropout, size of the model) may move away from the installed default in the
harmless direction only.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from memamba_core.config.base import setting_names
from memamba_core.config.experiment import Experiment

__all__ = ["GUARDED", "SettingRule", "check_differences"]

_NAME = r"\*|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*"
_RULE = re.compile(rf"(?P<name>{_NAME})\s*(?:(?P<relation><=|>=)\s*(?P<bound>[-+0-9.eE]+))?")

GUARDED: Mapping[str, str] = {
    "federation.optimizer.learning_rate": "<=",
    "training.gradient_clip": "<=",
    "model.dropout": ">=",
    "model.d_model": "<=",
    "model.num_layers": "<=",
    "model.num_backbone_layers": "<=",
    "model.d_state": "<=",
    "model.expand": "<=",
    "model.group_hidden": "<=",
}
"""Setting -> direction in which it may leave the installed default where a site has no `limits.settings`. Crafted
weights read single patients through a round with a raised learning rate and clip and without dropout."""


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
        return f"{self.name}{self.relation}{self.bound:g}" if self.relation else self.name


def check_differences(experiment: Experiment, installed: Experiment, rules: Sequence[SettingRule] | None) -> list[str]:
    """Return one sentence for each setting in which a run may not differ from the installed defaults.

    Every difference counts, whichever way it was written: one setting, or the file of a group.

    Args:
        experiment: of the run.
        installed: what this site composes without overrides.
        rules: the site's `limits.settings`; None applies `GUARDED`.
    """
    changed = experiment.differences(installed)
    if rules is None:
        return list(_check_guarded(changed, installed))
    return list(_check_rules(changed, rules))


def _check_rules(changed: Mapping[str, Any], rules: Sequence[SettingRule]) -> Iterator[str]:
    for setting, value in changed.items():
        own = [rule for rule in rules if rule.covers(setting)]
        if not own:
            yield f"{setting}={_show(value)} differs from the installed default and is not in limits.settings"
        for rule in own:
            if not rule.allows(value):
                yield f"{setting}={_show(value)} is outside {rule} of limits.settings"


def _check_guarded(changed: Mapping[str, Any], installed: Experiment) -> Iterator[str]:
    defaults = installed.flat()
    for setting, relation in GUARDED.items():
        if setting in changed and not SettingRule(setting, relation, defaults[setting]).allows(changed[setting]):
            yield (
                f"{setting}={_show(changed[setting])}; without limits.settings it must be {relation} "
                f"{defaults[setting]:g}, the installed default"
            )


def _show(value: Any) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
