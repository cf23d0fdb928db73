"""The base of every settings class, and how its complaints are put to a person."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pydantic
import yaml

from memamba_core.errors import ConfigError

__all__ = ["Settings", "read_yaml"]


class Settings(pydantic.BaseModel):
    """A frozen group of settings. Unknown keys, wrong types and values out of range raise `ConfigError`."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @pydantic.field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: pydantic.ValidationInfo) -> Any:
        """Python takes True for 1; a person who writes `num_rounds: yes` meant something else."""
        annotation = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and annotation in (int, float, int | None, float | None):
            raise ValueError("Input should be a number")
        return value

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
        wanted: what it should be and where one comes from, for the error text.

    Raises:
        ConfigError: the file is absent, cannot be read, is not YAML, or holds something else than keys and values.
    """
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


def _explain(cls: type[Settings], error: Any) -> str:
    """One sentence for one pydantic complaint: the dotted key, what was got, what was wanted."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown setting {key!r}; known here: {', '.join(_known_keys(cls, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"setting {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    got = error["input"]
    if isinstance(got, Mapping | Settings):  # a check across fields: the sentence says it all
        return f"{key}: {message}" if key else message
    if error["type"] == "tuple_type":
        return f"{key}: got {got!r}, wanted a list, [a,b] or []"
    return f"{key}: got {got!r}. {message}"


def _known_keys(cls: type[pydantic.BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The names allowed in the nested settings that `path` leads to."""
    for part in path:
        field = cls.model_fields.get(str(part))
        if field is None:
            break
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, pydantic.BaseModel)]
        if not nested:
            break
        cls = nested[0]
    return sorted(cls.model_fields)
