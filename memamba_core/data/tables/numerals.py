"""Notations of numbers: which mark stands before the decimals, which between thousands.

`1.903` is a number below two in one country and a count of days in another. Each cell that looks like a number is
evidence for a notation, or for none: `12.5` and `0.137` have a decimal point, `1.234.567` and `1.903,5` have a decimal
comma, and `1.903` alone is ambiguous, because three digits may be decimals or thousands.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from memamba_core.data.tables.causes import OTHER_NOTATION

__all__ = ["DecimalMark", "Evidence", "choose_mark", "gather_evidence", "normalise"]

DecimalMark = Literal["point", "comma"]
"""Character before the decimals. The other of the two may stand between thousands."""

_SIGN = r"[+\-\u2212]?"
_AMBIGUOUS = re.compile(rf"{_SIGN}[1-9]\d{{0,2}}([.,])\d{{3}}")
_WHOLE = re.compile(rf"{_SIGN}\d+")
_DECIMALS = {
    "point": re.compile(
        rf"{_SIGN}(\d*\.\d*|\d{{1,3}}(,\d{{3}})+\.\d*|\d{{1,3}}(,\d{{3}}){{2,}}|\d*\.?\d+e[+-]?\d+)", re.I
    ),
    "comma": re.compile(
        rf"{_SIGN}(\d*,\d*|\d{{1,3}}(\.\d{{3}})+,\d*|\d{{1,3}}(\.\d{{3}}){{2,}}|\d*,\d+e[+-]?\d+)", re.I
    ),
}
"""Numbers that only one notation allows, once the ambiguous ones are taken out."""
_NUMBER = {
    "point": re.compile(rf"{_SIGN}(\d+|\d{{1,3}}(,\d{{3}})+)?(\.\d*)?(e[+-]?\d+)?", re.I),
    "comma": re.compile(rf"{_SIGN}(\d+|\d{{1,3}}(\.\d{{3}})+)?(,\d*)?(e[+-]?\d+)?", re.I),
}
_SPACED = re.compile(rf"{_SIGN}\d{{1,3}}([ '\u2019\u00a0\u2009\u202f]\d{{3}})+([.,]\d*)?")
_SPACES = re.compile(r"[ '\u2019\u00a0\u2009\u202f]")
_REMOVED: dict[DecimalMark, str] = {"point": ",", "comma": "."}


@dataclass(frozen=True)
class Evidence:
    """Evidence of a column, or of several, for a notation.

    Attributes:
        point: some cell has a decimal point.
        comma: some cell has a decimal comma.
        ambiguous: marks of the cells that may be either, '', '.', ',' or both.
        whole: some other cell is a whole number of one to three digits, zero included.
    """

    point: bool = False
    comma: bool = False
    ambiguous: str = ""
    whole: bool = False

    def __or__(self, other: "Evidence") -> "Evidence":
        """Return the evidence of both."""
        ambiguous = "".join(sorted({*self.ambiguous, *other.ambiguous}))
        return Evidence(self.point or other.point, self.comma or other.comma, ambiguous, self.whole or other.whole)


def gather_evidence(cells: Iterable[str], *, most: float = float("inf")) -> Evidence:
    """Read the evidence of text cells without surrounding blanks.

    Args:
        cells: of one column; those that are no numbers say nothing.
        most: largest value that the column can hold. An ambiguous cell that would be larger with thousands has
            decimals.
    """
    point = comma = whole = long = False
    ambiguous: set[str] = set()
    for cell in set(cells):
        text = _SPACES.sub("", cell) if _SPACED.fullmatch(cell) else cell
        match = _AMBIGUOUS.fullmatch(text)
        if match and abs(int(re.sub(r"\D", "", text))) <= most:
            ambiguous.add(match[1])
        elif _WHOLE.fullmatch(text):
            small = len(text.lstrip("+-\u22120")) <= 3
            whole, long = whole or small, long or not small
        elif match:
            point, comma = point or match[1] == ".", comma or match[1] == ","
        else:
            point = point or bool(_DECIMALS["point"].fullmatch(text))
            comma = comma or bool(_DECIMALS["comma"].fullmatch(text))
    if long and len(ambiguous) == 1:  # thousands stand in this column without a mark
        point, comma, ambiguous = point or "." in ambiguous, comma or "," in ambiguous, set()
    return Evidence(point, comma, "".join(sorted(ambiguous)), whole)


def choose_mark(
    column: Evidence, table: Evidence, separator: str | None, *, counts: bool = False
) -> DecimalMark | Literal["mixed", "ambiguous"]:
    """Return the notation of a column, or the reason why there is none.

    The column's own evidence comes first, then that of all columns that are read together. Without either, three digits
    behind a mark in *every* cell are decimals, if the mark is the usual one: a comma in a table with semicolons, a
    point elsewhere. Next to whole numbers of up to three digits they may be thousands (137 and 1.903).

    Args:
        column: evidence of the column.
        table: evidence of all columns that are read together.
        separator: character between the cells of the file; None if the format needs none.
        counts: the column holds whole numbers such as days, in which three decimals are never usual.
    """
    for evidence in (column, table):
        if evidence.point and evidence.comma:
            return "mixed" if evidence is column else "ambiguous"
        if evidence.point or evidence.comma:
            return "point" if evidence.point else "comma"
        if not column.ambiguous:
            return "point"
    usual: DecimalMark = "comma" if separator == ";" else "point"
    return (
        usual
        if column.ambiguous == {"comma": ",", "point": "."}[usual] and not column.whole and not counts
        else "ambiguous"
    )


def normalise(cells: "pd.Series[str]", mark: DecimalMark) -> "pd.Series[str]":
    """Return the cells with a decimal point and without marks between thousands; others unchanged.

    A cell in the other notation becomes `OTHER_NOTATION`, which is no number.
    """
    changed = {cell: _normalise(cell, mark) for cell in set(cells)}  # pandas takes texts to be equal up to a NUL
    return pd.Series([changed[cell] for cell in cells], index=cells.index, dtype=object)


def _normalise(cell: str, mark: DecimalMark) -> str:
    text = _SPACES.sub("", cell) if _SPACED.fullmatch(cell) else cell
    if not re.search(r"\d", text):
        return cell
    if _NUMBER[mark].fullmatch(text):
        return text.replace(_REMOVED[mark], "").replace(",", ".").replace("\u2212", "-")
    return OTHER_NOTATION if _NUMBER["comma" if mark == "point" else "point"].fullmatch(text) else cell
