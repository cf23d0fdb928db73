"""Read a column of identifiers: one form for all tables, no placeholders, no numbers that a spreadsheet rounded."""

import re

import pandas as pd

from memamba_core.data.identifiers.canonical import canonical_column
from memamba_core.data.tables import Table

__all__ = ["parse_keys"]

_PLACEHOLDERS = frozenset({"nan", "null", "none", "<na>", "#n/a", "#name?", "#ref!", "#value!"})
"""Programs and spreadsheets write these where there is no value. `NA` is not among them: it can be a code."""
_MONTH = "jan|feb|f\u00e9v|m[a\u00e4]r|mrz|apr|avr|ma[iy]|jun|juin|juil?|aug|ao\u00fb|sep|o[ck]t|nov|d[e\u00e9][cz]"
_DATED = re.compile(rf"\d{{1,2}}[-. ]+({_MONTH})[a-z\u00e9]*\.?|({_MONTH})[a-z\u00e9]*\.?[- ]\d{{2}}", re.IGNORECASE)
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?E\+?\d{1,2}", re.IGNORECASE)


def parse_keys(table: Table, column: str, cells: "pd.Series[str]") -> "pd.Series[str]":
    """Return the identifiers of a column in their one form (`canonical`); '' where a cell has none.

    Args:
        table: for the error.
        column: its name.
        cells: its text.

    Raises:
        DataError: cells hold long numbers in scientific notation, whose last digits are lost, or dates that a
            spreadsheet made of them.
    """
    keys = canonical_column(cells)
    rounded = keys.map(lambda key: _ROUNDED.fullmatch(key) is not None)
    what = "holds numbers in scientific notation (as 1.2E+11), whose last digits are lost,"
    remedy = "A spreadsheet rounded long identifiers: export them again from the source, as text"
    table.refuse(column, rounded, what, remedy)
    dated = keys.map(lambda key: _DATED.fullmatch(key) is not None)
    remedy = "A spreadsheet took identifiers such as 1-2 for dates: export them again from the source, as text"
    table.refuse(column, dated, "holds dates (as 01. Feb)", remedy)
    return keys.mask(keys.str.casefold().isin(_PLACEHOLDERS), "")
