"""Values of molecular columns: codes for "not measured", numbers outside a kind's range, failed and copied samples."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from memamba_core.data.doubt import Doubt
from memamba_core.data.records import GeneTable

__all__ = ["USUAL_CODES", "find_codes", "find_value_doubts", "of_kind"]

Values = npt.NDArray[np.float32]

_CODES: Final = (-9.0, -99.0, -999.0, -9999.0, -99999.0, 99.0, 999.0, 9999.0, 99999.0, 999999.0)
"""Numbers that tables write for a value that was not measured."""
USUAL_CODES: Final = (9.0, *_CODES)
"""The same with 9: a measurement of expression, and a code where the others are 0 to 2."""
_FEWEST_COLUMNS: Final = 10  # fewer columns of expression say nothing about a sample
_FEWEST_PATIENTS: Final = 10  # one patient may have gains throughout
_FEWEST_CODES: Final = 3  # codes in whole columns of whole numbers, which may count so many reads
_MANY_ZEROS, _FEW_ZEROS = 0.9, 0.5


def of_kind(columns: Sequence[str], kind: str) -> npt.NDArray[np.int64]:
    """Return the indices of the columns of one kind of measurement."""
    return np.array([i for i, column in enumerate(columns) if column.endswith(f"_{kind}")], dtype=np.int64)


def find_codes(columns: Sequence[str], values_NC: Values) -> dict[float, npt.NDArray[np.bool_]]:
    """Find numbers that stand for a value that was not measured: -9, -999, 9999 and the like, far from all others.

    Mutations and copy number have few values, so a code is one that is over three times as large as any other number
    of its kind, and every negative number among mutations is one. A code in a column of expression is over three times
    as large as the other numbers of the column (for a negative code, twice as far down).

    Args:
        columns: `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        values_NC: their values, NaN where not measured.

    Returns:
        Code -> True for each cell [N, C] that holds it.
    """
    found: dict[float, npt.NDArray[np.bool_]] = {}

    def note(code: float, chosen: npt.NDArray[np.int64], cells: npt.NDArray[np.bool_]) -> None:
        mask = found.setdefault(code, np.zeros(values_NC.shape, np.bool_))
        mask[:, chosen] |= cells

    for kind in ("cnv", "mut"):
        chosen = of_kind(columns, kind)
        part = values_NC[:, chosen]
        others = np.abs(part[~_is_one_of(part, USUAL_CODES) & ~np.isnan(part)])
        largest = float(others.max()) if others.size else 0.0
        for code in np.unique(part[_is_one_of(part, USUAL_CODES)]).tolist():
            if abs(code) > 3 * largest or (kind == "mut" and code < 0):
                note(code, chosen, part == code)
        if kind == "mut":
            for code in np.unique(part[part < 0]).tolist():
                note(code, chosen, part == code)
    chosen = of_kind(columns, "rnaseq")
    part = values_NC[:, chosen]
    for code in _CODES:
        cells = part == code
        if not cells.any():
            continue
        at = np.flatnonzero(cells.any(axis=0))
        rest = np.where(cells[:, at] | _is_one_of(part[:, at], _CODES), np.nan, part[:, at])
        far = _is_far(code, rest)
        if (alone := np.isnan(rest).all(axis=0)).any():  # the whole column is compared with the other columns
            others = np.where(_is_one_of(part, _CODES), np.nan, part)
            far |= alone & _is_far(code, others.reshape(-1, 1))[0]
        if far.any() and (code < 0 or _has_fractions(rest[:, far]) or int(cells[:, at[far]].sum()) >= _FEWEST_CODES):
            note(code, chosen[at[far]], cells[:, at[far]])
    return found


def _is_one_of(values: Values, codes: Sequence[float]) -> npt.NDArray[np.bool_]:
    found = np.zeros(values.shape, np.bool_)
    for code in codes:  # numpy.isin sorts all values, which takes ten times as long
        found |= values == code
    return found


def _is_far(code: float, rest_NC: Values) -> npt.NDArray[np.bool_]:
    """Return True for each column whose other numbers are far from a code; False for a column without another one."""
    known = ~np.isnan(rest_NC)
    if code < 0:
        return np.asarray(known.any(axis=0) & (np.where(known, rest_NC, np.inf).min(axis=0) > code / 2))
    return np.asarray(known.any(axis=0) & (np.where(known, np.abs(rest_NC), 0.0).max(axis=0) < code / 3))


def _has_fractions(values: Values) -> bool:
    known = values[~np.isnan(values)]
    return bool((known % 1 != 0).any())


def find_value_doubts(file: str, table: GeneTable) -> Iterator[Doubt]:
    """Doubt values of another coding than GISTIC's and 0/1, and samples without expression or with that of another.

    Args:
        file: name of the molecular table.
        table: its columns and values, one row per patient.
    """
    yield from _other_mutations(file, table)
    yield from _one_sided_mutations(file, table)
    yield from _other_copy_numbers(file, table)
    expression = table.values_NC[:, of_kind(table.columns, "rnaseq")]
    if expression.shape[1] >= _FEWEST_COLUMNS:
        yield from _empty_samples(file, expression)
        yield from _copied_samples(file, expression)
        yield from _constant_columns(file, expression)


def _other_mutations(file: str, table: GeneTable) -> Iterator[Doubt]:
    part = table.values_NC[:, of_kind(table.columns, "mut")]
    other = ~np.isnan(part) & (part != 0) & (part != 1)
    if other.any():
        what = "fractions, as shares of reads are" if _has_fractions(part) else "whole numbers, as counts are"
        yield Doubt(
            "mutations",
            f"{int(other.any(axis=0).sum())} of {part.shape[1]} columns _mut of {file} hold other numbers than 0 and 1 "
            f"({what})",
            "write 1 where the gene is mutated and 0 where not, unless all sites of the federation write the same",
        )


def _one_sided_mutations(file: str, table: GeneTable) -> Iterator[Doubt]:
    """Doubt mutations without a single 0, and such that are more often present than absent over all genes."""
    part = table.values_NC[:, of_kind(table.columns, "mut")]
    ones, zeros = int((part == 1).sum()), int((part == 0).sum())
    if ones >= _FEWEST_PATIENTS and not zeros and bool(np.isnan(part).any()):
        yield Doubt(
            "mutations",
            f"the {part.shape[1]} columns _mut of {file} hold no 0, only 1 and empty cells",
            "write 0 where a gene was sequenced and is not mutated: an empty cell is read as not measured",
        )
    elif zeros and part.shape[1] >= _FEWEST_COLUMNS and len(part) >= _FEWEST_PATIENTS and ones > zeros:
        yield Doubt(
            "mutations",
            f"{ones / (ones + zeros):.0%} of the cells in the {part.shape[1]} columns _mut of {file} say that "
            "the gene is mutated",
            "write 1 where the gene is mutated and 0 where not",
        )


def _other_copy_numbers(file: str, table: GeneTable) -> Iterator[Doubt]:
    part = table.values_NC[:, of_kind(table.columns, "cnv")]
    known = part[~np.isnan(part)]
    if not known.size:
        return
    fractions, below = _has_fractions(known), bool((known < 0).any())
    if fractions:
        what = "fractions, as logarithms of ratios are" if below else "fractions"
    elif not below and len(part) >= _FEWEST_PATIENTS and float(np.median(known)) == 2:
        what = "whole numbers around 2, as numbers of copies are"
    elif bool((np.abs(known) > 2).any()):
        what = "whole numbers beyond -2 and 2"
    else:
        return
    yield Doubt(
        "copy number",
        f"the {part.shape[1]} columns _cnv of {file} hold {what}, and not GISTIC's -2, -1, 0, 1, 2",
        "write GISTIC's values, unless all sites of the federation write the same",
    )


def _empty_samples(file: str, values_NC: Values) -> Iterator[Doubt]:
    """Doubt patients whose expression is one number throughout, or nearly always zero where that of others is not."""
    measured = (~np.isnan(values_NC)).sum(axis=1)
    spread = np.fmax.reduce(values_NC, axis=1) - np.fmin.reduce(values_NC, axis=1)
    zeros = (values_NC == 0).sum(axis=1) / np.maximum(measured, 1)
    flat = (measured >= _FEWEST_COLUMNS) & (spread == 0)
    empty = (measured >= _FEWEST_COLUMNS) & (zeros >= _MANY_ZEROS) & (np.median(zeros) <= _FEW_ZEROS)
    if failed := int((flat | empty).sum()):
        yield Doubt(
            "expression",
            f"{failed} of {len(values_NC)} patients of {file} have the same number, or zero, in nearly all of the "
            f"{values_NC.shape[1]} columns of expression",
            "leave the cells of a sample that failed empty: zero is read as a measurement",
        )


def _copied_samples(file: str, values_NC: Values) -> Iterator[Doubt]:
    measured = values_NC[~np.isnan(values_NC).all(axis=1)]
    rows = Counter(hashlib.blake2b(row.tobytes()).digest() for row in measured)
    if copied := sum(count for count in rows.values() if count > 1):
        yield Doubt(
            "expression",
            f"{copied} of {len(values_NC)} patients of {file} have exactly the expression of another patient in all "
            f"{values_NC.shape[1]} columns",
            "look whether samples were copied or patients are listed under two identifiers",
        )


def _constant_columns(file: str, values_NC: Values) -> Iterator[Doubt]:
    """Doubt constant columns, unless a gene is silent: zero, the smallest number of the table, a negative z-score."""
    if len(values_NC) < _FEWEST_COLUMNS:
        return
    measured = (~np.isnan(values_NC)).sum(axis=0)
    low = np.fmin.reduce(values_NC, axis=0)
    constant = (measured >= _FEWEST_COLUMNS) & (low == np.fmax.reduce(values_NC, axis=0))
    silent = constant & ((low <= 0) | (low == np.fmin.reduce(low)))
    other = int((constant & ~silent).sum())
    if other or 2 * int(silent.sum()) > values_NC.shape[1]:
        yield Doubt(
            "expression",
            f"{other or int(silent.sum())} of {values_NC.shape[1]} columns of expression of {file} hold one number for "
            "all patients",
            "leave cells without a measurement empty, and look whether the columns were filled by a program",
        )
