"""Reasons why a cell is no number, for messages: what stands there instead, and what to do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["OTHER_NOTATION", "TEXT", "UNKNOWN", "Cause", "find_causes"]

OTHER_NOTATION = "\x00"
"""Stands for a number in the notation that the column does not have; no table holds this character."""
TEXT = "holds text that is no number"
"""Phrase of a text of no particular kind."""
UNKNOWN = "holds marks of a value that is not known"
NUMBERS = "Write numbers with a decimal point, and leave cells without a measurement empty"


@dataclass(frozen=True)
class Cause:
    """One kind of content that is no number.

    Attributes:
        what: a phrase that follows the name of the column.
        remedy: what to do, a sentence without full stop.
        pattern: regular expression of such a cell.
    """

    what: str
    remedy: str
    pattern: str


_NUMBER = r"[+\-\u2212]?[\d.,]*\d"
_MONTHS = r"jan|feb|f\u00e9v|m[a\u00e4]r|mrz|avr|apr|ma[iy]|jui?n|juil?|aug|ao\u00fb|sep|o[ck]t|nov|d[e\u00e9][cz]"
_MONTH = rf"(?i:{_MONTHS})[^\W\d_]*"
CAUSES = (
    Cause("holds percent signs", "Write the share as a number without the sign", rf"{_NUMBER}\s*%"),
    Cause(
        "holds bounds (< or >)",
        "Write the last known value as a number; whether the event happened stands in a column of its own",
        r"[<>\u2264\u2265~\u2248].*",
    ),
    Cause(
        "holds dates or times of day",
        "Compute the number from the dates and write it; a date is no length of time",
        r"\d{4}-\d{1,2}-\d{1,2}([T ].*)?|\d{1,2}([./-])\d{1,2}\2(\d{4}|\d{2})( .*)?|\d{4}/\d{1,2}/\d{1,2}.*"
        rf"|\d{{1,2}}[-. ]+{_MONTH}[-. ]*(\d{{4}}|\d{{2}})?|{_MONTH}[- ]\d{{2,4}}|\d{{1,2}}:\d{{2}}(:\d{{2}}.*)?",
    ),
    Cause("holds lengths of time", "Write the number of days", r"\d+ days?( .*)?"),
    Cause(
        "holds words such as true and no",
        "Write 1 and 0",
        r"(?i:true|false|wahr|falsch|vrai|faux|yes|no|ja|nein|oui|non)",
    ),
    Cause(
        "holds numbers in quotation marks or formulas",
        "Write the numbers alone: apostrophes, quotation marks and = keep a spreadsheet from reading a number",
        rf"=?['\"`\u2018\u2019\u201c\u201d]\s*{_NUMBER}\s*['\"\u2019\u201d]?",
    ),
    Cause(
        UNKNOWN,
        "Leave cells without a measurement empty",
        r"[?.\-\u2013*/]{1,3}|'--|\[.*\]"
        r"|(?i:n\.?[dp]\.?|unknown|unbekannt|inconnu|not (available|applicable|reported))",
    ),
    Cause("holds error values of a spreadsheet", "Correct the formulas, or clear these cells", r"#[A-Z0-9/]+[!?]?"),
    Cause(
        "holds two numbers in one cell",
        "Write one number per cell",
        rf"{_NUMBER}\s*(-|\u2013|/|;|\||\u00b1|\+/-|to|bis)\s*{_NUMBER}",
    ),
    Cause(
        "holds a unit or other text next to the number",
        "Write the number alone, and the unit into the settings or the column's name",
        rf"{_NUMBER}\s*[^\W\d_].*|[^\W\d_]+\.?\s+{_NUMBER}",
    ),
    Cause(
        "mixes decimal points and decimal commas",
        "Write all cells in one notation, or set decimal_mark of this table (import: --decimal-mark) to point or comma",
        OTHER_NOTATION,
    ),
    Cause(TEXT, NUMBERS, r".*"),
)


def find_causes(cells: Sequence[str], bad: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.bool_], str, str]:
    """Return the rows whose cells are no numbers for the same cause as the first, its phrase, and its remedy."""
    causes = {row: _find_cause(cells[row]) for row in np.flatnonzero(bad).tolist()}
    first = next(iter(causes.values()))
    rows = np.zeros(len(bad), np.bool_)
    rows[[row for row, cause in causes.items() if cause is first]] = True
    return rows, first.what, first.remedy


def _find_cause(cell: str) -> Cause:
    return next(cause for cause in CAUSES if re.fullmatch(cause.pattern, cell.strip(), re.S))
