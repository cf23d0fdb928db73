"""docs/reference/simulation.md lists every setting of a simulation with its default: here it is held to that."""

import json
import re
import shlex
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from memamba_core.config.base import settings_in
from memamba_core.config.compose import compose_audit, compose_simulation, config_groups
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import AttacksConfig, CohortConfig, SimulationConfig, SyntheticConfig
from memamba_core.config.training import TrainingConfig

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "simulation.md"
ROW = re.compile(r"^\| `(?P<key>[a-z_.*0-9]+)` \| (?P<default>[^|]*) \| [^|]*\| [^|]+\|$", re.MULTILINE)


def defaults(annotation: object, prefix: str = "") -> dict[str, object]:
    """Dotted keys of settings with their defaults; a setting that only some kinds of a choice have is null."""
    kinds = settings_in(annotation)
    found: dict[str, object] = {}
    for name in dict.fromkeys(name for kind in kinds for name in kind.model_fields):
        field = kinds[0].model_fields.get(name)
        shared = field is not None and (name == "name" or all(name in kind.model_fields for kind in kinds))
        default = field.get_default(call_default_factory=True) if shared else None
        found[prefix + name] = "required" if default is PydanticUndefined else default
    return found


def documented() -> dict[str, str]:
    return {match["key"]: match["default"].strip() for match in ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def settings() -> dict[str, object]:
    known = {
        **defaults(SimulationConfig),
        **defaults(CohortConfig, "data."),
        **defaults(SyntheticConfig, "data.synthetic."),
        **defaults(SimulationConfig.model_fields["partition"].annotation, "partition."),
        **defaults(AttacksConfig, "attacks."),
        **defaults(TrainingConfig.model_fields["optimizer"].annotation, "*.optimizer."),
        "*.optimizer.momentum": 0.0,
        "seed": 0,
    }
    for group in ("agreement", "model", "training", "federation", "strategy", "privacy"):
        known.update(defaults(Experiment.model_fields[group].annotation, f"{group}."))
    known.update(defaults(Experiment().training.loss.__class__, "training.loss."))
    for elsewhere in (
        "experiment",
        "data",
        "partition",
        "attacks",
        "training.optimizer",
        "training.loss",
        "federation.optimizer",
    ):
        known.pop(elsewhere)
    return known


def commands() -> list[str]:
    """The `flower-simulate` of every page and of the README, in consoles and in sentences; a choice is its first."""
    shown = []
    for page in (PAGE.parents[2] / "README.md", *sorted(PAGE.parents[1].rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        blocks = "".join(re.findall(r"```(?:console|bash)\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
        shown += re.findall(r"^(?:\$ )?(flower-simulate .*?)(?:\s\s+#.*)?$", blocks, re.MULTILINE)
        shown += re.findall(r"`(flower-simulate [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    own = [command for command in shown if "--config-dir" in command]  # a folder of the reader's own
    return sorted({re.sub(r"\s+", " ", re.sub(r"\|[a-z|]+", "", command)) for command in shown if command not in own})


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_pages_is_understood(command, monkeypatch):
    monkeypatch.setenv("MEMAMBA_DATA", "data")
    settings = [word for word in shlex.split(command) if "=" in word]
    if "--multirun" in command:
        settings = [word if "[" in word else word.partition(",")[0] for word in settings]
    if not any(word.startswith("resume=") for word in settings):
        (compose_audit if shlex.split(command)[1] == "audit" else compose_simulation)(settings)


def test_every_file_of_every_group_is_listed():
    rows = re.findall(r"^\| (`[a-z]+`(?:, `[a-z]+`)*) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = {
        group: set(re.findall(r"`([a-z_]+)`", files))
        for groups, files in rows
        for group in re.findall(r"[a-z]+", groups)
    }
    for group, files in config_groups().items():
        assert listed[group] == set(files), group


def test_every_setting_is_listed_and_nothing_else():
    assert set(documented()) == set(settings())


@pytest.mark.parametrize("key", sorted(set(settings()) - {"disclosure"}))
def test_the_default_is_the_one_that_the_code_has(key):
    text, value = documented()[key], settings()[key]
    if isinstance(value, tuple):
        words = [word for word in (part.strip() for part in text.strip("[]").split(",")) if word]
        assert words == [str(item) for item in value]
    elif isinstance(value, str):
        assert text == value
    else:
        assert json.loads(text) == value
