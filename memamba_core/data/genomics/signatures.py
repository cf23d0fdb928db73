"""Read groups of genes that become tokens of the model, and assign molecular columns to them."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

from memamba_core.data.doubt import Doubt
from memamba_core.data.genomics.names import KINDS, MOLECULAR, is_changed
from memamba_core.errors import ConfigError, DataError

__all__ = ["build_gene_groups", "find_signature_doubts", "read_signatures"]

_LINK: Final = re.compile(r"https?://|www\.|>")
_SEPARATORS: Final = (",", ";", "\t")  # the first of those that stand equally often in the header
_NAMED: Final = 8  # groups that a doubt names


class Signatures(dict[str, tuple[str, ...]]):
    """Groups of genes, name -> symbols, as a file gives them.

    Attributes:
        found_in_rows: True if the file is no GMT file, and its content shows that its groups stand in rows.
    """

    found_in_rows = False


def read_signatures(path: Path) -> Signatures:
    """Read groups of genes.

    Args:
        path: CSV (or semicolons or tabs between cells), one column per group: its name in the header, gene symbols
            below. Columns may be of different length and may share symbols. Or a GMT file, one row per group: its name,
            a description, gene symbols; also if it was saved as CSV and the descriptions are links or the same word.

    Returns:
        Group name -> symbols, each once, in the file's order.

    Raises:
        DataError: no such file, no group, a group without a name or without a symbol, or two groups of one name.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file; expected a CSV with one column of gene symbols per group, or a GMT file"
        )
    gmt = path.suffix.lower() == ".gmt"
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            text = lines.read()
        separator = "\t" if gmt else max(_SEPARATORS, key=text.partition("\n")[0].count)
        rows = [
            [cell.strip() for cell in row] for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({type(error).__name__}). Export it again") from None
    in_rows = gmt or _has_descriptions(rows)
    what, where = ("row", "first cell") if in_rows else ("column", "header")
    groups = Signatures()
    groups.found_in_rows = in_rows and not gmt
    for number, name, members in _row_groups(rows) if in_rows else _column_groups(rows):
        symbols = tuple(dict.fromkeys(symbol for symbol in members if symbol))
        if name in groups:
            raise DataError(f"{path}: two {what}s are named {name!r}. Give each group its own name")
        if name and symbols:
            groups[name] = symbols
        elif name or symbols:
            fault = f"group {name!r} has no gene symbol" if name else f"{what} {number} has symbols but no name"
            raise DataError(
                f"{path}: {fault}. Write the name of the group into the {where} and its symbols "
                f"{'behind the description' if in_rows else 'below'}"
            )
    if not groups:
        raise DataError(f"{path}: is empty; expected a CSV with one column of gene symbols per group")
    return groups


def _has_descriptions(rows: Sequence[Sequence[str]]) -> bool:
    """Return True if the second cell of every row is a link, or the same word for "no description", as in GMT files."""
    filled = [row for row in rows if any(row)]
    if not filled or any(len(row) < 3 for row in filled):
        return False
    seconds = {row[1].lower() for row in filled}
    return all(_LINK.match(second) for second in seconds) or seconds in ({"na"}, {"n/a"}, {"-"}, {"none"}, {"null"})


def _row_groups(rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, str, Sequence[str]]]:
    for number, row in enumerate(rows, start=1):
        if any(row):
            yield number, row[0], [cell.partition(",")[0] for cell in row[2:]]  # Enrichr writes `SYMBOL,1.0`


def _column_groups(rows: Sequence[Sequence[str]]) -> Iterator[tuple[int, str, Sequence[str]]]:
    header = rows[0] if rows else []
    for index in range(max(map(len, rows), default=0)):
        name = header[index] if index < len(header) else ""
        yield index + 1, name, [row[index] for row in rows[1:] if index < len(row)]


def find_signature_doubts(
    file: str, signatures: Mapping[str, Sequence[str]], columns: Sequence[str]
) -> Iterator[Doubt]:
    """Doubt groups whose symbols nearly match the molecular columns, or of which a wide table has less than half.

    A table of few genes has few symbols of each group; that alone is no doubt. A table with more genes of expression or
    copy number than the groups have symbols holds the whole genome, and a symbol that it lacks is likely misspelt.

    Args:
        file: name of the table of groups.
        signatures: group name -> gene symbols.
        columns: `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
    """
    if isinstance(signatures, Signatures) and signatures.found_in_rows:
        yield Doubt(
            "signatures",
            f"{file} are read as one group per row, {len(signatures)} groups, because every second cell looks like the "
            "description in a GMT file; the columns are not read as groups",
            "if that is right, save the file as .gmt, with tabs between cells; else take out the second column",
        )
    matches = [match for match in map(MOLECULAR.fullmatch, columns) if match]
    known = {match["symbol"] for match in matches}
    if not known:
        return
    first = next(iter(signatures), "")
    named = [name for name in signatures if name in known]
    if 2 * len(named) >= len(signatures) and not known.intersection((first, *signatures.get(first, ()))):
        yield Doubt(
            "signatures",
            f"{len(named)} of {len(signatures)} groups of {file} are named by gene symbols of the molecular table, and "
            f"the first group, {first!r}, has none of them",
            "write one group per column, its name in the header; a file with one group per row is read if it ends in "
            ".gmt, with the name, a description and the symbols between tabs",
        )
        return
    every = {symbol for symbols in signatures.values() for symbol in symbols}
    widest = max(len({m["symbol"] for m in matches if m["kind"] == kind}) for kind in ("rnaseq", "cnv"))
    nearly = {_plain(symbol) for symbol in known}
    lacking = []
    for name, symbols in signatures.items():
        unknown = [symbol for symbol in symbols if symbol not in known]
        near = sum(_plain(symbol) in nearly for symbol in unknown)
        odd = sum(is_changed(symbol) for symbol in unknown)
        if near or odd or (2 * len(unknown) > len(symbols) and widest >= len(every)):
            why = [f"without case, separators and version {near} would match"] * bool(near)
            why += [f"dates, numbers or versioned identifiers: {odd}"] * bool(odd)
            lacking.append(f"{len(unknown)} of {len(symbols)} of {name!r}" + (f" ({'; '.join(why)})" if why else ""))
    if lacking:
        shown = ", ".join(lacking[:_NAMED]) + (f" and of {len(lacking) - _NAMED} more groups" * (len(lacking) > _NAMED))
        yield Doubt(
            "signatures",
            f"symbols of {file} that match no molecular column: {shown}",
            "write the symbols as the molecular tables do (approved symbols, no aliases, dates or versions); the model "
            "does not read a gene that is in no group",
        )


def _plain(symbol: str) -> str:
    """Return a symbol in lower case, without separators and without the version of an ENSEMBL identifier."""
    return re.sub(r"[\W_]+", "", re.sub(r"^(ENS[A-Z]*G\d{11})\.\d+$", r"\1", symbol).casefold())


def build_gene_groups(
    columns: Sequence[str], signatures: Mapping[str, Sequence[str]] | None, by: Literal["signatures", "kind"]
) -> dict[str, tuple[int, ...]]:
    """Assign columns to groups.

    Args:
        columns: `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        signatures: group name -> gene symbols; needed for `by="signatures"` only.
        by: `signatures`: a group catches all kinds of measurement of its symbols, and a column may be in
            several groups or in none; `kind`: one group per kind of measurement.

    Returns:
        Group name -> ascending indices into `columns`, in the order of the signatures (or of `KINDS`). Groups
        without a column are left out.

    Raises:
        ConfigError: `by="signatures"` without signatures.
        DataError: a column is not molecular, or no group catches one.
    """
    parts = []
    for column in columns:
        match = MOLECULAR.fullmatch(column)
        if match is None:
            raise DataError(f"column {column!r} is not molecular; expected SYMBOL_rnaseq, SYMBOL_cnv or SYMBOL_mut")
        parts.append((match["symbol"], match["kind"]))
    if by == "kind":
        caught = {kind: [i for i, (_, k) in enumerate(parts) if k == kind] for kind in KINDS}
    elif signatures is None:
        raise ConfigError(
            "agreement.gene_groups is signatures, but there is no table of them; name one in data.signatures, or set "
            "agreement.gene_groups=kind"
        )
    else:
        members = {name: frozenset(symbols) for name, symbols in signatures.items()}
        caught = {name: [i for i, (s, _) in enumerate(parts) if s in symbols] for name, symbols in members.items()}
    groups = {name: tuple(indices) for name, indices in caught.items() if indices}
    if not groups:
        raise DataError(
            f"none of the {len(caught)} gene groups catches any of the {len(parts)} molecular columns. Check "
            "that the signatures table and the columns use the same gene symbols, or set agreement.gene_groups=kind"
        )
    return groups
