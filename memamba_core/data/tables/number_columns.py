"""Numbers of columns that are read together: types of the file, notations of text, and what is no number."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from memamba_core.data.tables.causes import find_causes
from memamba_core.data.tables.cells import as_text, is_text
from memamba_core.data.tables.numerals import DecimalMark, Evidence, choose_mark, gather_evidence, normalise
from memamba_core.data.tables.source import NOT_MEASURED

__all__ = ["AMBIGUOUS", "Fault", "Notation", "NumberColumn", "read_exact", "read_numbers"]


@dataclass(frozen=True)
class Fault:
    """The first fault of a column.

    Attributes:
        bad: True for each row with the fault.
        what: a phrase that follows the name of the column.
        remedy: the correction, a sentence without full stop.
    """

    bad: npt.NDArray[np.bool_]
    what: str
    remedy: str


@dataclass(frozen=True)
class NumberColumn:
    """Numbers of one column.

    Attributes:
        values: one per row, NaN where there is none.
        fault: what is wrong; None if every cell is a number or empty.
    """

    values: npt.NDArray[Any]
    fault: Fault | None = None


@dataclass(frozen=True)
class Notation:
    """How a table may write its numbers.

    Attributes:
        mark: declared decimal mark; None finds it.
        separator: character between the cells of the file; None if the format needs none.
        most: largest value that a cell can hold.
        counts: the columns hold whole numbers, as `choose_mark` describes.
    """

    mark: DecimalMark | None = None
    separator: str | None = None
    most: float = float("inf")
    counts: bool = False


AMBIGUOUS = (
    "holds numbers with three digits behind a mark that may be decimals or thousands (1.234 or 1,234)",
    "Set decimal_mark of this table (import: --decimal-mark) to point or comma, or write no marks between thousands",
)
MIXED = (
    "holds numbers with a decimal point and numbers with a decimal comma",
    "Write all cells in one notation",
)
# Texts that Arrow reads as numbers. These have decimals for certain, and the last has thousands without a mark.
_SURE = r"^[+-]?(0\d*|\d{4,})?\.|\.(\d{0,2}|\d{4,})([eE]|$)|\.\d+[eE]|^[+-]?[1-9]\d{3,}$"
_SMALL = r"^[+-]?\d{1,3}$"


def read_numbers(columns: Mapping[str, pa.ChunkedArray], notation: Notation) -> dict[str, NumberColumn]:
    """Return the columns as float32.

    Columns in which Arrow reads every cell, with a decimal point or a decimal comma, are fast; their cells are looked
    at again only until one of the table shows the notation. Others are read in the notation that their cells, or those
    of the other columns, show.
    """
    found: dict[str, NumberColumn] = {}
    fast: dict[str, tuple[pa.ChunkedArray, DecimalMark]] = {}
    texts: dict[str, pd.Series[str]] = {}
    seen: dict[str, Evidence] = {}
    table = Evidence()
    for name, given in columns.items():
        cells = given.cast(given.type.value_type) if pa.types.is_dictionary(given.type) else given
        if not is_text(cells.type):
            found[name] = _read_typed(cells)
        elif (numbers := _read_fast(cells)) is not None:
            found[name] = NumberColumn(numbers[0])
            fast[name] = cells, numbers[1]
            known = table.point if numbers[1] == "point" else table.comma
            if not known or notation.mark not in (None, numbers[1]):
                seen[name] = _evidence_of_fast(*fast[name])
                table |= seen[name]
        else:
            texts[name] = pd.Series(as_text(cells).to_pandas())
            seen[name] = gather_evidence(texts[name].to_list(), most=notation.most)
            table |= seen[name]
    if table.point and table.comma:
        seen |= {name: _evidence_of_fast(*cells) for name, cells in fast.items() if name not in seen}
    for name, evidence in seen.items():
        mark = notation.mark or choose_mark(evidence, table, notation.separator, counts=notation.counts)
        if name in texts or (mark != fast[name][1] and evidence != Evidence()):
            text = texts[name] if name in texts else pd.Series(as_text(fast[name][0]).to_pandas())
            column = _read_text(text, mark)
            with np.errstate(over="ignore"):  # a number that is too large becomes infinite, as in Arrow
                found[name] = NumberColumn(column.values.astype(np.float32), column.fault)
    return found


def read_exact(cells: pa.ChunkedArray, notation: Notation) -> NumberColumn:
    """Return one column as float64. Truth values are no numbers here."""
    cells = cells.cast(cells.type.value_type) if pa.types.is_dictionary(cells.type) else cells
    typed = None if is_text(cells.type) else _read_typed(cells)
    if typed is not None and (typed.fault is not None or pa.types.is_boolean(cells.type)):
        return NumberColumn(typed.values.astype(np.float64), typed.fault or _wrong_type(cells))
    text = pd.Series(as_text(cells).to_pandas())
    evidence = Evidence() if typed else gather_evidence(text.to_list(), most=notation.most)
    mark = notation.mark or choose_mark(evidence, evidence, notation.separator, counts=notation.counts)
    return _read_text(text, "point" if typed else mark)


def _read_typed(cells: pa.ChunkedArray) -> NumberColumn:
    """Return cells that are no text. Arrow's own numbers, and truth values as 0 and 1."""
    kind = cells.type
    types = pa.types
    if any(
        test(kind) for test in (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    ):
        return NumberColumn(cells.cast(pa.float32(), safe=False).to_numpy())
    return NumberColumn(np.full(len(cells), np.nan, np.float32), _wrong_type(cells))


def _wrong_type(cells: pa.ChunkedArray) -> Fault | None:
    """Return the fault of a column whose type is no number; None if every cell is empty."""
    bad = cells.is_valid().to_numpy().astype(np.bool_)
    if not bad.any():
        return None
    return Fault(bad, f"is of type {cells.type}, not of numbers,", "Export it as numbers")


def _read_fast(cells: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], DecimalMark] | None:
    """Return the numbers of texts that Arrow reads, and the mark they have; None if a cell is something else."""
    try:
        return cells.cast(pa.float32(), safe=False).to_numpy(), "point"
    except pa.ArrowInvalid:  # blanks around a number, a plus sign, another notation, or text
        pass
    if not pc.any(pc.match_substring(cells, ",")).as_py() or pc.any(pc.match_substring(cells, ".")).as_py():
        return None
    try:
        return pc.replace_substring(cells, ",", ".").cast(pa.float32(), safe=False).to_numpy(), "comma"
    except pa.ArrowInvalid:
        return None


def _evidence_of_fast(cells: pa.ChunkedArray, mark: DecimalMark) -> Evidence:
    """Return the evidence of texts that Arrow reads with this mark, the only one among them."""
    if mark == "comma":
        cells = pc.replace_substring(cells, ",", ".")
    if not pc.any(pc.match_substring(cells, ".")).as_py():
        return Evidence()
    if pc.any(pc.match_substring_regex(cells, _SURE)).as_py():
        return Evidence(point=mark == "point", comma=mark == "comma")
    whole = bool(pc.any(pc.match_substring_regex(cells, _SMALL)).as_py())
    return Evidence(ambiguous="." if mark == "point" else ",", whole=whole)


def _read_text(text: "pd.Series[str]", mark: str) -> NumberColumn:
    if mark in ("ambiguous", "mixed"):
        what, remedy = AMBIGUOUS if mark == "ambiguous" else MIXED
        values = np.full(len(text), np.nan)
        return NumberColumn(values, Fault(text.str.contains(r"\d[.,]\d").to_numpy(np.bool_), what, remedy))
    numbers = normalise(text, "comma" if mark == "comma" else "point")
    values = pd.to_numeric(numbers, errors="coerce").to_numpy(np.float64)
    bad = np.isnan(values) & ~text.isin(NOT_MEASURED).to_numpy()
    return NumberColumn(values, Fault(*find_causes(numbers.to_list(), bad)) if bad.any() else None)
