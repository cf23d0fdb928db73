"""Base of every settings class, and readable error texts for invalid settings."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self, get_args

import pydantic
import yaml

from memamba_core.errors import ConfigError

__all__ = ["Settings", "read_yaml", "setting_names", "settings_in"]


_RENAMED = {
    "limits.overrides": "limits.settings",  # since version 0.1.0
    "federation.max_update_norm": "federation.update_norm",  # since version 0.2.0
}
_NUMBERS = (int, float, int | None, float | None)


class Settings(pydantic.BaseModel):
    """A frozen group of settings. Unknown keys, wrong types and values out of range raise `ConfigError`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _refuse_booleans_as_numbers(cls, values: Any) -> Any:
        """Turn True and False into text, which is refused, where a number is expected: Python takes True for 1."""
        if not isinstance(values, Mapping):
            return values
        numeric = {name for name, field in cls.model_fields.items() if field.annotation in _NUMBERS}
        return {
            key: str(value) if isinstance(value, bool) and key in numeric else value for key, value in values.items()
        }

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str) -> Self:
        """Check `values` and build the settings from them.

        Args:
            values: nested mapping, as YAML gives it.
            source: where the values were read, for the error text, for example a file name.

        Raises:
            ConfigError: naming every offending key, what it was, and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{source}: " + "; ".join(_explain(cls, e) for e in error.errors())) from None


def read_yaml(path: Path, wanted: str) -> dict[str, Any]:
    """Read a file of settings, still unchecked.

    Args:
        path: of the file.
        wanted: the expected kind of file and its origin, for the error text.

    Raises:
        ConfigError: the file is absent, cannot be read, is not YAML, or holds anything but keys and values.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name the file in it: {wanted}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; wanted {wanted}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable ({error}); wanted {wanted}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got {type(values).__name__}, wanted a mapping: {wanted}")
    return values


def settings_in(annotation: Any) -> tuple[type[Settings], ...]:
    """Return the settings classes of a field: none for a plain value, several for a tagged union of kinds."""
    candidates = (annotation, *get_args(annotation))
    return tuple(c for c in candidates if isinstance(c, type) and issubclass(c, Settings))


def setting_names(cls: type[Settings], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting below `cls` that is not a group of settings itself.

    Where a setting is a choice of kinds, the settings of all kinds are yielded, each name once.
    """
    seen: set[str] = set()
    for name, field in cls.model_fields.items():
        kinds = settings_in(field.annotation)
        names = (n for kind in kinds for n in setting_names(kind, f"{prefix}{name}.")) if kinds else (prefix + name,)
        for found in names:
            if found not in seen:
                seen.add(found)
                yield found


def _explain(cls: type[Settings], error: Any) -> str:
    """Return one sentence for one error of pydantic: the dotted key, the received value, the expected value."""
    key, tag, kinds = _locate(cls, error["loc"])
    group, _, name = key.rpartition(".")
    if error["type"] == "extra_forbidden":
        if tag is None:
            known = sorted(kinds[0].model_fields)
            renamed = _RENAMED.get(key)
            nearest = [renamed] if renamed else get_close_matches(name, known, 1, cutoff=0.8)
            hint = f"; nearest is {nearest[0]}" if nearest else ""
            return f"unknown setting {key!r}{hint}; known here: {', '.join(known)}"
        others = [f"{group}={k.model_fields['name'].default}" for k in kinds if name in k.model_fields]
        return f"{group}={tag} has no setting {name}" + (f"; choose {' or '.join(others)}" if others else "")
    if error["type"] == "missing":
        return f"setting {key!r} is missing" if tag is None else f"{group}={tag} needs {key}"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        tags = ", ".join(error["ctx"].get("expected_tags", "").replace("'", "").split(", ")) or _tags(cls, key)
        got = error["ctx"].get("tag")
        return f"{key}.name is {'missing' if got is None else repr(got)}; expected one of {tags}"
    message = error["msg"].removeprefix("Value error, ")
    got = error["input"]
    if isinstance(got, Mapping | Settings) and error["type"] == "value_error":  # across fields: a complete sentence
        return f"{key}: {message}" if key else message
    shown = f"a mapping of {', '.join(map(str, got))}" if isinstance(got, Mapping) else repr(got)
    if error["type"] == "tuple_type":
        return f"{key}: got {shown}, wanted a list, [a,b] or []"
    if error["type"] == "model_type":
        field = kinds[0].model_fields.get(name)  # without one, the error is in an item of a list of groups
        group_class = kinds[0] if field is None else settings_in(field.annotation)[0]
        return f"{key}: got {shown}, wanted the settings {', '.join(group_class.model_fields)}, as `name: value`"
    return f"{key}: got {shown}. {message}"


def _locate(cls: type[Settings], location: tuple[int | str, ...]) -> tuple[str, str | None, tuple[type[Settings], ...]]:
    """Resolve pydantic's location of an error.

    Returns:
        The dotted key; the kind that was chosen where the key lies inside a choice of kinds; and the settings classes
        that the last part of the key is looked up in.
    """
    parts: list[str] = []
    tag: str | None = None
    kinds: tuple[type[Settings], ...] = (cls,)
    holders = kinds
    for part in location:
        tags = [k.model_fields["name"].default for k in kinds] if len(kinds) > 1 else []
        if part in tags:
            tag = str(part)
            continue
        parts.append(str(part))
        holders = kinds
        field = next((k.model_fields[str(part)] for k in kinds if str(part) in k.model_fields), None)
        inner = settings_in(field.annotation) if field is not None else ()
        if inner:
            kinds, tag = inner, None
    return ".".join(parts), tag, holders


def _tags(cls: type[Settings], key: str) -> str:
    """Return the kinds that a key accepts."""
    kinds: tuple[type[Settings], ...] = (cls,)
    for part in key.split("."):
        kinds = settings_in(kinds[0].model_fields[part].annotation)
    return ", ".join(str(kind.model_fields["name"].default) for kind in kinds)
