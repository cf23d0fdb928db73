"""Columns of a table on request, with errors that name the row."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from memamba_core.data.tables.cells import as_float32, as_text
from memamba_core.data.tables.rows import describe_rows
from memamba_core.data.tables.source import TableSource
from memamba_core.errors import DataError

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """File whose header was read; columns are read on request.

    Attributes:
        path: the file.
        columns: its column names, each once.
        source: reads the cells.
    """

    path: Path
    columns: tuple[str, ...]
    source: TableSource

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
        folded = {known.casefold(): known for known in self.columns}
        near = difflib.get_close_matches(column.casefold(), folded, n=3, cutoff=0.5)
        names = [folded[name] for name in near] or list(self.columns[:8])
        raise DataError(
            f"{self.path}: no column {column!r}; {'nearest are' if near else 'the first columns are'} "
            f"{', '.join(map(repr, names))}. "
            f"{f'Set {setting} to the right name' if setting else 'Rename the column'}"
        )

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
                trimmed[column] = pa.compute.utf8_trim_whitespace(as_text(cells[column])).to_pandas()
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
            DataError: a column holds text or an infinite number; the first such column and its rows are named.
        """
        cells = self.source.read(columns, numeric=True)
        values_NC = np.empty((cells.num_rows, len(columns)), np.float32)
        for index, column in enumerate(columns):
            numbers, bad = as_float32(cells[column])
            remedy = "Write numbers with a decimal point, and leave cells without a measurement empty"
            self.refuse(column, bad, "holds text that is no number", remedy)
            infinite = "holds an infinite number (or one too large for float32)"
            self.refuse(column, np.isinf(numbers), infinite, "Leave cells without a measurement empty")
            values_NC[:, index] = numbers
        return values_NC

    def binary_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that hold only 0, 1 and empty cells, and at least one 0 or 1."""
        cells = self.source.read(columns, numeric=True)
        found = []
        for column in columns:
            numbers, bad = as_float32(cells[column])
            measured = numbers[~np.isnan(numbers)]
            if measured.size and not bad.any() and bool(((measured == 0) | (measured == 1)).all()):
                found.append(column)
        return tuple(found)
