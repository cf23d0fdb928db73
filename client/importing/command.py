"""Command line of the import: `flower-client import FORMAT SOURCE... --output FOLDER`."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client.exit_codes import ExitCode
from memamba_core.errors import ConfigError

from .formats import FORMATS
from .options import ImportOptions

if TYPE_CHECKING:
    from .outcome import Imported

__all__ = ["add_import"]

_ROLES = ("case_id", "slides", "time", "event")
"""Columns that `--column` can name."""
_OPTIONS = tuple(field.name for field in fields(ImportOptions))


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
    parser.add_argument(
        "--column",
        dest="columns",
        action="append",
        metavar="ROLE=NAME",
        help=f"name a column that is not recognised; ROLE is {', '.join(_ROLES)}",
    )
    parser.add_argument(
        "--decimal-mark",
        choices=("point", "comma"),
        help="mark before the decimals in all tables; without it the mark is found, and numbers that may be read in "
        "two ways (137 and 1.903) are an error",
    )
    parser.add_argument(
        "--transform",
        choices=("none", "log2p1"),
        help="of expression: write the values as they are, or log2(x + 1); without it linear values are a question",
    )
    parser.add_argument(
        "--duplicates",
        choices=("max", "mean", "sum"),
        help="how several rows of one gene become one; without it they are an error",
    )
    parser.add_argument(
        "--gene-map", type=Path, metavar="FILE", help="table with the columns id and symbol, for genes with ENSEMBL ids"
    )
    parser.add_argument(
        "--sample-types",
        metavar="CODES",
        help="TCGA's types of samples to read, the preferred one first (default: 01,03,09, primary tumours)",
    )
    parser.add_argument(
        "--samples", type=Path, metavar="FILE", help="table of all sequenced samples: those without a mutation get 0"
    )
    parser.add_argument(
        "--genes", type=Path, metavar="FILE", help="list of genes, one a line: exactly their mutations are written"
    )
    parser.add_argument(
        "--min-patients",
        type=int,
        metavar="NUMBER",
        help="without --genes: fewest patients with a mutation of a gene that is written (default: 10)",
    )
    parser.set_defaults(command=_import)


def _import(options: argparse.Namespace) -> ExitCode:
    """Read, write and describe; nothing is written if a source cannot be read."""
    given = {name: getattr(options, name) for name in _OPTIONS if getattr(options, name) is not None}
    form = FORMATS[options.format]
    foreign = sorted(set(given) - form.options)
    if foreign:
        flags = ", ".join(_flag(name) for name in foreign)
        known = ", ".join(_flag(name) for name in sorted(form.options)) or "none"
        raise ConfigError(f"{flags} has no meaning for {options.format}, which takes {known}. Leave it out")
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
    parsed = dict(given)
    if "columns" in given:
        pairs = [text.partition("=") for text in given["columns"]]
        for role, _, name in pairs:
            if role not in _ROLES or not name:
                known = ", ".join(_ROLES)
                raise ConfigError(f"--column is {role!r}={name!r}; expected ROLE=NAME, and ROLE one of {known}")
        parsed["columns"] = {role: name for role, _, name in pairs}
    if "sample_types" in given:
        parsed["sample_types"] = tuple(given["sample_types"].split(","))
        if not all(re.fullmatch(r"\d\d", code) for code in parsed["sample_types"]):
            raise ConfigError(f"--sample-types is {given['sample_types']!r}; expected codes of two digits: 01,06")
    if given.get("min_patients", 1) < 1:
        raise ConfigError(f"--min-patients is {given['min_patients']}; expected 1 or more")
    return parsed


def _describe(imported: "Imported") -> Iterator[str]:
    yield from imported.found
    for name, section in imported.sections.items():
        for setting, value in section.settings.items():
            reason = section.evidence.get(setting)
            yield f"data.{name}.{setting}: {value}" + (f"  ({reason})" if reason else "")
    for asked in imported.questions:
        yield f"QUESTION{f' (data.{asked.setting})' if asked.setting else ''}: {asked.text}"
