"""The generated pages are those of the code, and every setting, error and command is on them with its meaning."""

import json
import re
import typing
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from fixtures.pages import REPOSITORY
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import client.exit_codes
import server.exit_codes
import simulation.exit_codes
from memamba_core import errors
from memamba_core.config.compose import config_groups
from memamba_core.config.coordinator import CoordinatorConfig, RunSettings
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import SimulationConfig
from memamba_core.config.site import SiteConfig
from memamba_core.wire.protocol import Refusal

REFERENCE = REPOSITORY / "docs" / "reference"
ROW = re.compile(r"^\| `([a-z_.0-9]+)` \| ((?:[^|]|\\\|)*) \| ((?:[^|]|\\\|)*) \| ((?:[^|]|\\\|)*) \|$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def classes_in(annotation):
    """The settings classes of a field, in order; several for a choice of kinds."""
    if typing.get_origin(annotation) is tuple:  # a list of groups is one setting
        return []
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for part in get_args(annotation) for cls in classes_in(part)]


def kind_of(cls):
    """The field by which a choice of kinds knows this one, and its value; None for settings without kinds."""
    for name, field in cls.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return name, field.default
    return None


def settings(cls, prefix="", given=None):
    """Every setting below a class as (kind, dotted name, default); kind: "" or as in `strategy=fedprox`."""
    for name, field in cls.model_fields.items():
        default = field.get_default(call_default_factory=True) if given is None else getattr(given, name)
        classes = classes_in(field.annotation)
        for inner in classes:
            own = default if isinstance(default, inner) else None
            chosen = kind_of(inner) if len(classes) > 1 else None
            for kind, key, value in settings(inner, f"{prefix}{name}.", own):
                if chosen is None or key != f"{prefix}{name}.{chosen[0]}":
                    yield kind or (f"{prefix}{name}={chosen[1]}" if chosen else ""), key, value
        if not classes:
            yield "", prefix + name, default


def rows(page):
    """Every row of the settings tables of a page: (kind, dotted name) -> default, allowed values, meaning."""
    text = (REFERENCE / page).read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^(?=#)", text, flags=re.MULTILINE):
        heading = HEADING.match(part)
        kind = heading[1] if heading and "=" in heading[1] and "FILE" not in heading[1] else ""
        found.update({(kind, row[1]): row.groups()[1:] for row in ROW.finditer(part)})
    return found


PAGES = {"settings.md": (Experiment, SimulationConfig), "site_yaml.md": (SiteConfig,)}
PAGES["coordinator_yaml.md"] = (CoordinatorConfig, RunSettings)
SETTINGS = [
    (page, kind, key.removeprefix("experiment."), default)
    for page, classes in PAGES.items()
    for cls in classes
    for kind, key, default in settings(cls)
    if not (cls is SimulationConfig and key.startswith("experiment."))
]


def test_the_committed_pages_are_those_of_the_code(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "docs" / "generator")
    import runpy

    stale = runpy.run_path(str(REPOSITORY / "docs" / "generator" / "__main__.py"))["find_stale_pages"]()
    assert stale == [], "run `make reference`"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_is_listed_and_nothing_else(page):
    assert set(rows(page)) == {(kind, key) for where, kind, key, _ in SETTINGS if where == page}


@pytest.mark.parametrize(("page", "kind", "key", "default"), SETTINGS, ids=lambda value: str(value)[:40])
def test_a_setting_has_its_default_and_a_meaning(page, kind, key, default):
    shown, allowed, meaning = rows(page)[kind, key]
    assert allowed
    assert len(meaning) > 3, f"{key} has no docstring"
    shown = shown.strip("`").replace("\\|", "|")
    if default is PydanticUndefined:
        assert shown == "required"
    elif isinstance(default, tuple):
        assert [word for word in shown.strip("[]").split(", ") if word] == [str(item) for item in default]
    elif isinstance(default, str | Path):
        assert shown == str(default)
    else:
        assert json.loads(shown) == default


def test_every_file_of_every_group_is_listed():
    text = (REFERENCE / "settings.md").read_text(encoding="utf-8")
    for group, files in config_groups().items():
        table = text[text.index(f"### {group}=FILE") :].split("\n\n")[1]
        assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(files)


@pytest.mark.parametrize("side", [server, client, simulation])
def test_exit_codes_are_listed_with_their_meanings(side):
    text = (REFERENCE / "commands.md").read_text(encoding="utf-8")
    command = {"server": "flower-server", "client": "flower-client", "simulation": "flower-simulate"}[side.__name__]
    part = text[text.index(f"### Exit codes of {command}") :].split("\n\n")[1]
    listed = re.findall(r"^\| (\d+) \| (.+) \|$", part, re.MULTILINE)
    assert [(int(code), meaning) for code, meaning in listed] == [
        (c.value, c.meaning) for c in side.exit_codes.ExitCode
    ]


def test_the_contract_has_the_text_of_every_refusal():
    text = (REPOSITORY / "docs" / "explanation" / "contract.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (1\d\d) \| (.+) \|$", text, re.MULTILINE))
    assert listed.pop("101") == "the site runs version V of this software, protocol P"
    assert listed == {str(refusal.code): refusal.text for refusal in Refusal if refusal is not Refusal.VERSION}


def test_every_error_and_refusal_is_listed():
    text = (REFERENCE / "errors.md").read_text(encoding="utf-8")
    assert {name for name in errors.__all__ if f"| `{name}` |" not in text} == set()
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == [r.code for r in Refusal]


@pytest.mark.parametrize("schema", sorted((REFERENCE / "schemas").glob("*.json")), ids=lambda path: path.name)
def test_every_schema_is_described(schema):
    text = (REFERENCE / "schemas.md").read_text(encoding="utf-8")
    assert f"(schemas/{schema.name})" in text
    for field in json.loads(schema.read_text(encoding="utf-8")).get("properties", {}):
        assert f"| `{field}`" in text
