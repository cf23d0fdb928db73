"""Quote settings that are text: Hydra would read their blanks, brackets, `=` and `,` as its own."""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

from memamba_core.config.base import Settings, settings_in
from memamba_core.config.simulation import SimulationConfig

__all__ = ["quote", "quote_texts"]

_OVERRIDE = re.compile(r"(?P<key>[~+]*[A-Za-z_][\w.]*)=(?P<value>(?!null$|['\"])(?:(?!\$\{).)+)", re.DOTALL)
_FOLDERS = ("output_dir", "resume")  # of one run, so that they never have several values


def quote_texts(overrides: Sequence[str], is_readable: Callable[[str], bool] | None = None) -> list[str]:
    """Quote the values of settings that are text or paths.

    Args:
        overrides: as on the command line. Quoted values, `null` and interpolations stay as they are.
        is_readable: says if Hydra can read an override; such ones stay as they are, too, because they may have several
            values (`data.root=a,b` of a sweep). None quotes all.
    """

    def quoted(override: str) -> str:
        match = _OVERRIDE.fullmatch(override)
        name = match["key"].lstrip("~+") if match is not None else ""
        if match is None or name not in _text_settings():
            return override
        if is_readable is not None and name not in _FOLDERS and is_readable(override):
            return override
        return f"{match['key']}={quote(match['value'])}"

    return [quoted(override) for override in overrides]


def quote(text: str) -> str:
    """Quote a text for Hydra, where a backslash is a backslash unless it stands before a quote or at the end."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    ending = re.search(r"\\*$", escaped)
    return f"'{escaped}{ending[0] if ending else ''}'"


@cache
def _text_settings() -> frozenset[str]:
    return frozenset(_names(SimulationConfig, ""))


def _names(cls: type[Settings], prefix: str) -> Iterator[str]:
    """Yield the dotted name of every setting below `cls` that is text or a path."""
    for name, field in cls.model_fields.items():
        for kind in settings_in(field.annotation):
            yield from _names(kind, "" if name == "experiment" else f"{prefix}{name}.")
        if field.annotation in (str, str | None, Path, Path | None):
            yield prefix + name
