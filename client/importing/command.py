"""Command line of the import: `flower-client import FORMAT SOURCE... --output FOLDER`."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.exit_codes import ExitCode
from memamba_core.errors import ConfigError

from .formats import FORMATS

if TYPE_CHECKING:
    from .outcome import Imported

__all__ = ["add_import"]

_ROLES = ("case_id", "slides", "time", "event")
"""Columns that `--column` can name."""


def add_import(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of `flower-client`."""
    parser = commands.add_parser(
        "import",
        help="write a site folder, or a draft of site.yaml, from the files of a hospital or an archive",
        description="Write a site folder, or a draft of site.yaml, from the files of a hospital or an archive. Sources "
        "are only read. docs/how_to/import.md describes the formats.",
    )
    meanings = "; ".join(f"{name}: {form.meaning}" for name, form in FORMATS.items())
    parser.add_argument("format", choices=FORMATS, metavar="FORMAT", help=meanings)
    parser.add_argument("sources", type=Path, nargs="+", metavar="SOURCE", help="files or folders to read")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="new folder for site.yaml and tables"
    )
    options = {
        "columns": parser.add_argument(
            "--column",
            dest="columns",
            action="append",
            metavar="ROLE=NAME",
            help=f"name a column that is not recognised; ROLE is {', '.join(_ROLES)}",
        ),
    }
    parser.set_defaults(command=_import, import_options=tuple(options))


def _import(options: argparse.Namespace) -> ExitCode:
    """Read, write and describe; nothing is written if a source cannot be read."""
    given = {name: getattr(options, name) for name in options.import_options if getattr(options, name) is not None}
    form = FORMATS[options.format]
    foreign = sorted(set(given) - form.options)
    if foreign:
        flags = ", ".join(_flag(name) for name in foreign)
        known = ", ".join(_flag(name) for name in sorted(form.options)) or "none"
        raise ConfigError(f"{flags} has no meaning for {options.format}, which takes {known}. Leave it out")
    from .options import ImportOptions
    from .writing import write_import

    imported = form.read(options.sources, ImportOptions(**_parse(given)))
    lines = write_import(imported, options.format, options.output)
    for line in (*_describe(imported), *lines, f"written: {options.output / 'site.yaml'}"):
        print(line)
    return ExitCode.DONE


def _flag(name: str) -> str:
    return "--column" if name == "columns" else f"--{name.replace('_', '-')}"


def _parse(given: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the options in the types of `ImportOptions`."""
    if "columns" not in given:
        return given
    pairs = [text.partition("=") for text in given["columns"]]
    for role, _, name in pairs:
        if role not in _ROLES or not name:
            raise ConfigError(f"--column is {role!r}={name!r}; expected ROLE=NAME, and ROLE one of {', '.join(_ROLES)}")
    return given | {"columns": {role: name for role, _, name in pairs}}


def _describe(imported: "Imported") -> Iterator[str]:
    yield from imported.found
    for name, section in imported.sections.items():
        for setting, value in section.settings.items():
            reason = section.evidence.get(setting)
            yield f"data.{name}.{setting}: {value}" + (f"  ({reason})" if reason else "")
    for asked in imported.questions:
        yield f"QUESTION{f' (data.{asked.setting})' if asked.setting else ''}: {asked.text}"
