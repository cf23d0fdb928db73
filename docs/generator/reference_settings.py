"""Reference of the settings, from the pydantic models of `memamba_core.config` and the files of `configs/`."""

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from page_text import GENERATED, first_paragraph, prose, table
from pydantic import AfterValidator, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from memamba_core.config.compose import config_folder, config_groups
from memamba_core.config.coordinator import CoordinatorConfig, RunSettings
from memamba_core.config.experiment import Experiment
from memamba_core.config.simulation import SimulationConfig
from memamba_core.config.site import SiteConfig

HEAD = ("setting", "default", "allowed", "meaning")
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
_KINDS = {int: "whole number", float: "number", str: "text", Path: "path", bool: "true, false"}


def render_settings() -> str:
    """Render the settings of experiments and simulations, with the files that choose several at once."""
    return (
        f"{GENERATED}# Settings\n\n"
        "Settings of an experiment (`flower-simulate`, `flower-server run`) and of a simulation (`flower-simulate` "
        "alone). `key=value` changes one setting, `group=file` takes a file of a group; later ones win. Every setting "
        "can be given, also one that no YAML file shows. Quote lists: `'model.scans=[conventional]'`. `null` means not "
        "set. [simulation.md](simulation.md) describes a run and its results, "
        "[coordinator.md](../how_to/coordinator.md) a federation over a network.\n\n"
        "## Groups and files\n\n"
        f"{_render_groups()}"
        "## Experiment\n\n"
        f"{first_paragraph(Experiment.__doc__)} These settings are the same at every site and at the coordinator.\n\n"
        f"{_render_model(Experiment, '', None, level=3)}"
        "## Simulation\n\n"
        f"{first_paragraph(SimulationConfig.__doc__)} These settings belong to `flower-simulate`.\n\n"
        f"{_render_model(SimulationConfig, '', None, level=3, without=('experiment',))}"
    ).rstrip() + "\n"


def render_site_yaml() -> str:
    """Render every field of `site.yaml`."""
    return (
        f"{GENERATED}# site.yaml\n\n"
        "Settings of one site: where its tables lie, what the coordinator may ask, what may leave. They outrank the "
        "coordinator's. Unknown keys are errors. Table and feature paths are relative to `data.root`; `data.root`, "
        "`state`, `coordinator.ca` and `coordinator.keys` are relative to the file. A section whose default is `null` "
        "may be left out as a whole. [data.md](data.md) describes the tables, [site.md](../how_to/site.md) the way "
        "from a kit to a run.\n\n"
        f"{_render_model(SiteConfig, '', None, level=2)}"
    ).rstrip() + "\n"


def render_coordinator_yaml() -> str:
    """Render every field of `coordinator.yaml`, and the settings of one run."""
    return (
        f"{GENERATED}# coordinator.yaml and run settings\n\n"
        "`flower-server init` writes `coordinator.yaml` into the federation's folder. "
        "[coordinator.md](../how_to/coordinator.md) goes through a federation step by step.\n\n"
        f"## coordinator.yaml\n\n{first_paragraph(CoordinatorConfig.__doc__)}\n\n"
        f"{_render_model(CoordinatorConfig, '', None, level=3)}"
        f"## Settings of one run\n\n{first_paragraph(RunSettings.__doc__)} The experiment's own are in "
        "[settings.md](settings.md#experiment).\n\n"
        f"{_render_model(RunSettings, '', None, level=3)}"
    ).rstrip() + "\n"


def walk_fields(cls: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel], str]]:
    """Yield every setting below `cls`, those of all members of a union included.

    Yields:
        The dotted name, and the class and field that define the setting.
    """
    for name, field in cls.model_fields.items():
        members = _settings_classes(field.annotation)
        for member in members:
            yield from walk_fields(member, f"{prefix}{name}.")
        if not members:
            yield prefix + name, cls, name


@cache
def field_meanings(cls: type[BaseModel]) -> dict[str, str]:
    """Return the docstring of every field of a settings class, those of its bases included."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not (isinstance(base, type) and issubclass(base, BaseModel)) or base is BaseModel:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                found[field.target.id] = str(after.value.value)
    return found


def _render_model(
    cls: type[BaseModel], prefix: str, defaults: BaseModel | None, level: int, without: tuple[str, ...] = ()
) -> str:
    """Render the plain settings of a class as one table, then its sections, each under a heading of its own."""
    rows, sections = [], []
    for name, field in cls.model_fields.items():
        if name in without:
            continue
        default = getattr(defaults, name) if defaults is not None else field.get_default(call_default_factory=True)
        if members := _settings_classes(field.annotation):
            sections.append(_render_section(prefix + name, members, default, field_meanings(cls).get(name, ""), level))
        else:
            meaning = field_meanings(cls).get(name) or field.description or ""
            rows.append((f"`{prefix}{name}`", _format_default(default), _format_allowed(field), prose(meaning)))
    return (table(HEAD, rows) if rows else "") + "".join(sections)


def _render_section(name: str, members: list[type[BaseModel]], default: Any, meaning: str, level: int) -> str:
    """Render one section: a group of settings, or a union whose members are chosen by a discriminator."""
    text = f"{'#' * level} {name}\n\n"
    if default is None:
        meaning = f"{meaning} Default: `null`."
    if len(members) == 1:
        (cls,) = members
        text += f"{first_paragraph(cls.__doc__)} {prose(meaning)}".strip() + "\n\n"
        return text + _render_model(cls, f"{name}.", _instance_of(cls, default), level + 1)
    key = _discriminator(members)
    kinds = {str(get_args(member.model_fields[key].annotation)[0]): member for member in members}
    chosen = getattr(default, key, None)
    listed = ", ".join(f"`{kind}`" + (" (default)" if kind == chosen else "") for kind in kinds)
    text += f"{prose(meaning)} `{name}.{key}` is one of {listed}.".strip() + "\n\n"
    for kind, cls in kinds.items():
        text += f"{'#' * (level + 1)} {name}={kind}\n\n{first_paragraph(cls.__doc__)}\n\n"
        text += _render_model(cls, f"{name}.", _instance_of(cls, default), level + 2, without=(key,))
    return text


def _settings_classes(annotation: Any) -> list[type[BaseModel]]:
    """Return the settings classes in an annotation: none for a plain value, several for a union of kinds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is Annotated:
        return _settings_classes(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [cls for part in get_args(annotation) for cls in _settings_classes(part)]
    return []


def _discriminator(members: list[type[BaseModel]]) -> str:
    """Return the field that distinguishes the members of a union: the one that is a Literal in all of them."""
    (key,) = (
        name
        for name in members[0].model_fields
        if all(get_origin(member.model_fields[name].annotation) is Literal for member in members)
    )
    return key


def _instance_of(cls: type[BaseModel], default: Any) -> BaseModel | None:
    return default if isinstance(default, cls) else None


def _format_default(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, tuple):
        return "[" + ", ".join(str(item) for item in default) + "]"
    if isinstance(default, str | Path):
        return f"`{default}`"
    return json.dumps(default)


def _format_allowed(field: FieldInfo) -> str:
    """Return what a field accepts: its kind, then its bounds."""
    bounds = [
        f"{sign} {getattr(entry, name)}"
        for entry in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(entry, name, None) is not None
    ]
    return ", ".join([_format_kind(field.annotation), *bounds])


def _format_kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _format_kind(parts[0]) if not any(isinstance(part, AfterValidator) for part in parts) else "name"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(_format_kind(part) for part in parts if part is not type(None))
    if origin is tuple:
        inner = _format_kind(parts[0])
        return f"list of {inner}" if parts[-1] is Ellipsis else f"list of {len(parts)}: {inner}"
    return _KINDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _render_groups() -> str:
    """Render a table for each folder of `configs/`: its files, what each is for and what it sets."""
    text = ""
    chosen = _default_files()
    for group, files in config_groups().items():
        rows = []
        for name in files:
            path = config_folder() / group / f"{name}.yaml"
            source = path.read_text(encoding="utf-8")
            comments = [line.removeprefix("#").strip() for line in source.splitlines() if line.startswith("#")]
            about = next(comment for comment in comments if not comment.startswith("@package"))
            sets = "" if group == "data" else ", ".join(f"`{entry}`" for entry in _flatten(yaml.safe_load(source)))
            rows.append((f"`{name}`" + (" (default)" if chosen.get(group) == name else ""), prose(about), sets))
        head = ("file", "for", "sets") if group != "data" else ("file", "for")
        text += f"### {group}=FILE\n\n" + table(head, [row[: len(head)] for row in rows])
    return text


def _default_files() -> dict[str, str]:
    """Return the file of each group that is taken where none is named."""
    chosen: dict[str, str] = {}
    for path in sorted(config_folder().glob("*.yaml")):
        for entry in yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", ()):
            if isinstance(entry, dict):
                chosen.update({str(group): str(name) for group, name in entry.items()})
    return chosen


def _flatten(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            shown = f"[{', '.join(str(item) for item in value)}]" if isinstance(value, list) else json.dumps(value)
            yield f"{prefix}{key}={shown.strip(chr(34))}"
