"""Columns of a table on request, with errors that name the row."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from memamba_core.data.tables.causes import TEXT, UNKNOWN
from memamba_core.data.tables.cells import as_text
from memamba_core.data.tables.headers import holds_numbers, printable
from memamba_core.data.tables.number_columns import AMBIGUOUS, Notation, NumberColumn, read_exact, read_numbers
from memamba_core.data.tables.numerals import DecimalMark
from memamba_core.data.tables.rows import describe_rows
from memamba_core.data.tables.source import TableSource
from memamba_core.errors import DataError

__all__ = ["Table"]

MOST_DAYS = 40_000
"""Days of the longest follow-up there can be, 110 years."""


@dataclass(frozen=True)
class Table:
    """File whose header was read; columns are read on request.

    Attributes:
        path: the file.
        columns: its column names, each once.
        source: reads the cells.
        decimal_mark: declared notation of numbers; None finds it.
        sheet: declared sheet of a workbook; None is the first.
    """

    path: Path
    columns: tuple[str, ...]
    source: TableSource
    decimal_mark: DecimalMark | None = None
    sheet: str | None = None

    def require(self, column: str, setting: str | None = None) -> None:
        """Raise an error if the table has no such column.

        Args:
            column: the required name.
            setting: setting of site.yaml that names the column; None if the name is fixed.

        Raises:
            DataError: the column is absent.
        """
        if column in self.columns:
            return
        remedy = f"Set {setting} to the right name" if setting else "Rename the column"
        if numbers := holds_numbers(self.columns):
            raise DataError(
                f"{self.path}: no column {column!r}; {numbers} of {len(self.columns)} names in the first row are "
                f"numbers, as in a row of data. Write the names of the columns into the first row, or, if it has them: "
                f"{remedy[0].lower()}{remedy[1:]}"
            )
        folded = {known.casefold(): known for known in printable(self.columns)}
        near = difflib.get_close_matches(column.casefold(), folded, n=3, cutoff=0.5)
        names = [folded[name] for name in near] or list(folded.values())[:8]
        listed = (
            f"; {'nearest are' if near else 'the first columns are'} {', '.join(map(repr, names))}" if names else ""
        )
        hidden = len(self.columns) - len(folded)
        if hidden and not near:
            listed += f"; {hidden} names with digits are not shown, because they may be identifiers of patients"
        if len(self.columns) == 1:
            remedy = "Put commas, semicolons or tabs between the cells, and take out lines above the header"
        elif hidden and not near:
            remedy += ", or, if patients stand in columns, transpose the table"
        raise DataError(f"{self.path}: no column {column!r}{listed}{self.source.hint}. {remedy}")

    def refuse(self, column: str, bad: Any, what: str, remedy: str) -> None:
        """Raise an error if a row is bad.

        Args:
            column: name of the column.
            bad: True for each bad row.
            what: the fault of the cells, a phrase that follows the name of the column.
            remedy: the correction, a sentence without full stop.

        Raises:
            DataError: a row is bad.
        """
        rows = np.asarray(bad, np.bool_)
        if rows.any():
            raise DataError(f"{self.path}: column {column!r} {what} in {describe_rows(rows)}. {remedy}")

    def text(self, columns: Sequence[str]) -> pd.DataFrame:
        """Return the columns as text without surrounding blanks, one row per row of the table; an empty cell is ''.

        Text is not interpreted: `05` keeps its zero and `NA` stays `NA`.

        Raises:
            DataError: the table has no row, or a column of a parquet file holds lists, bytes or the like.
        """
        cells = self.source.read(columns, numeric=False)
        trimmed = {}
        for column in columns:
            try:
                trimmed[column] = as_text(cells[column]).to_pandas()
            except pa.ArrowException:  # the text of this error may quote a cell
                kind = cells[column].type
                raise DataError(
                    f"{self.path}: column {column!r} is of type {kind}; expected text or numbers. Export it as text"
                ) from None
        frame = pd.DataFrame(trimmed, columns=list(columns))
        if frame.empty:
            raise DataError(f"{self.path}: has a header but no rows. Write one row per patient below it")
        return frame

    def numbers(self, columns: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return the columns as float32, one row per row and one column per name; NaN where not measured.

        Raises:
            DataError: a column holds text, dates or the like, an infinite number, or numbers whose notation is
                ambiguous; the first such column and its rows are named.
        """
        cells = self.source.read(columns, numeric=True)
        found = read_numbers({column: cells[column] for column in columns}, self._notation())
        values_NC = np.empty((cells.num_rows, len(columns)), np.float32)
        for index, column in enumerate(columns):
            self._refuse_fault(column, found[column])
            infinite = "holds an infinite number (or one too large for float32)"
            values_NC[:, index] = found[column].values
            self.refuse(column, np.isinf(values_NC[:, index]), infinite, "Leave cells without a measurement empty")
        return values_NC

    def times(self, column: str, unit: Literal["months", "days"]) -> npt.NDArray[np.float64]:
        """Return a column of lengths of time in its unit, one per row; NaN where the cell is empty or any text.

        A parquet file or workbook may hold differences of dates instead of numbers, if the unit is days.

        Args:
            column: name of the column.
            unit: declared unit.

        Raises:
            DataError: the column holds dates, truth values, percent signs or the like, or numbers whose notation is
                ambiguous: 137 days and 1.903.
        """
        cells = self.source.read([column], numeric=False)[column]
        if pa.types.is_duration(cells.type):
            valid = cells.is_valid().to_numpy()
            what, remedy = (
                f"is of type {cells.type}, a length of time,",
                "Set time_unit to days, or export it as numbers",
            )
            self.refuse(column, valid if unit == "months" else np.zeros_like(valid), what, remedy)
            days: npt.NDArray[np.float64] = (cells.to_pandas() / pd.Timedelta(days=1)).to_numpy(np.float64)
            return days
        found = read_exact(cells, self._notation(most=MOST_DAYS if unit == "days" else np.inf, counts=unit == "days"))
        if found.fault is None or found.fault.what not in (TEXT, UNKNOWN):
            self._refuse_fault(column, found)
        if unit == "days" and self.decimal_mark is None:  # in text too: a program may have read and written the table
            self.refuse(column, _may_be_thousands(found.values), *AMBIGUOUS)
        return found.values

    def binary_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that hold only 0, 1 and empty cells, and at least one 0 or 1."""
        if not columns:  # Arrow cannot read a table of no column
            return ()
        cells = self.source.read(columns, numeric=True)
        read = read_numbers({column: cells[column] for column in columns}, self._notation())
        found = []
        for column in columns:
            values = read[column].values
            measured = values[~np.isnan(values)]
            if measured.size and read[column].fault is None and bool(((measured == 0) | (measured == 1)).all()):
                found.append(column)
        return tuple(found)

    def _notation(self, *, most: float = np.inf, counts: bool = False) -> Notation:
        return Notation(self.decimal_mark, self.source.separator, most, counts)

    def _refuse_fault(self, column: str, found: NumberColumn) -> None:
        if found.fault is not None:
            self.refuse(column, found.fault.bad, found.fault.what, found.fault.remedy)


def _may_be_thousands(days: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return True for the rows whose number may have been a count of days with a mark between thousands.

    A program that read 137 and 1.903 as numbers left 137.0 and 1.903: no day count over 999, and three decimals, of
    which the last is 0 in one of ten.
    """
    parts = np.isfinite(days) & (days % 1 != 0)
    if not parts.any() or np.nanmax(days) >= 1000 or (days[parts] * 1000 > MOST_DAYS).any():
        return np.zeros(len(days), np.bool_)
    thousands, hundreds = days[parts] * 1000, days[parts] * 100
    three = np.abs(thousands - np.round(thousands)) < 1e-6
    two = np.abs(hundreds - np.round(hundreds)) < 1e-6
    return parts if three.all() and (~two).mean() >= 0.5 else np.zeros(len(days), np.bool_)
