"""`limits.settings` of a `site.yaml`: in which settings a run may differ from the site's installed defaults.

Without such a list, settings that could make a run reveal more of single patients stay at the installed default, or
move away from it in the harmless direction only (`guarded_settings`).
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from memamba_core.config.base import setting_names
from memamba_core.config.experiment import Experiment
from memamba_core.config.guarded_settings import check_guarded, is_guarded, show

__all__ = ["SettingRule", "check_differences", "opened_settings"]

_NAME = r"\*|[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*"
_RULE = re.compile(rf"(?P<name>{_NAME})\s*(?:(?P<relation><=|>=)\s*(?P<bound>[-+0-9.eE]+))?")


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
        rules: the site's `limits.settings`; None applies the tables of `guarded_settings`.
    """
    if rules is None:
        return list(check_guarded(experiment, installed))
    changed = experiment.differences(installed)
    return [*_check_allowed(changed, rules), *_check_bounds(experiment.flat(), rules)]


def opened_settings(rules: Sequence[SettingRule] | None) -> list[str]:
    """Return the guarded settings that a list opens without a bound: a coordinator may then choose any value.

    Args:
        rules: the site's `limits.settings`; None opens nothing.
    """
    bounded = {rule.name for rule in rules or () if rule.relation}
    return [
        setting
        for setting in setting_names(Experiment)
        if is_guarded(setting)
        and setting not in bounded
        and any(rule.covers(setting) and not rule.relation for rule in rules or ())
    ]


def _check_allowed(changed: Mapping[str, Any], rules: Sequence[SettingRule]) -> Iterator[str]:
    for setting, value in changed.items():
        if not any(rule.covers(setting) for rule in rules):
            yield f"{setting}={show(value)} differs from the installed default and is not in limits.settings"


def _check_bounds(values: Mapping[str, Any], rules: Sequence[SettingRule]) -> Iterator[str]:
    for rule in rules:
        if rule.relation and rule.name in values and not rule.allows(values[rule.name]):
            yield f"{rule.name}={show(values[rule.name])} is outside {rule} of limits.settings"
