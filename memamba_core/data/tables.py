"""Read named columns of a CSV, CSV.gz or parquet file as text or numbers, with errors that name the row."""

import csv
import difflib
import gzip
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

from memamba_core.errors import DataError

__all__ = ["TABLE_SUFFIXES", "Table", "describe_rows", "open_table"]

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
NOT_MEASURED = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")
"""Empty cells of a column of numbers. In a column of text these strings are text: `NA` is a TSS code."""
BLOCK_BYTES = 1 << 24  # a row must fit into a block; 9,000 columns take about 200 kB


@dataclass(frozen=True)
class Table:
    """File whose header was read; columns are read on request.

    Attributes:
        path: the file.
        columns: its column names, each once.
    """

    path: Path
    columns: tuple[str, ...]

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
        cells = self._cells(columns, strings_can_be_null=False)
        trimmed = {}
        for column in columns:
            try:
                trimmed[column] = pa.compute.utf8_trim_whitespace(_as_text(cells[column])).to_pandas()
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
        cells = self._cells(columns, strings_can_be_null=True)
        values_NC = np.empty((cells.num_rows, len(columns)), np.float32)
        for index, column in enumerate(columns):
            numbers, bad = _as_float32(cells[column])
            remedy = "Write numbers with a decimal point, and leave cells without a measurement empty"
            self.refuse(column, bad, "holds text that is no number", remedy)
            infinite = "holds an infinite number (or one too large for float32)"
            self.refuse(column, np.isinf(numbers), infinite, "Leave cells without a measurement empty")
            values_NC[:, index] = numbers
        return values_NC

    def binary_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Return the columns that hold only 0, 1 and empty cells, and at least one 0 or 1."""
        cells = self._cells(columns, strings_can_be_null=True)
        found = []
        for column in columns:
            numbers, bad = _as_float32(cells[column])
            measured = numbers[~np.isnan(numbers)]
            if measured.size and not bad.any() and bool(((measured == 0) | (measured == 1)).all()):
                found.append(column)
        return tuple(found)

    def _cells(self, columns: Sequence[str], *, strings_can_be_null: bool) -> pa.Table:
        """Read the columns in the type of the file: text for CSV, any type for parquet."""
        if self.path.suffix == ".parquet":
            try:
                return pa.parquet.read_table(self.path, columns=list(columns), use_threads=False)
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(self.path, error) from None
        ragged: list[int] = []

        def note_ragged_row(row: Any) -> str:
            ragged.append(row.number - 1)  # pyarrow counts the header
            return "error"

        try:
            return pa.csv.read_csv(
                self.path,
                # One thread: rows are numbered only then, and a process that forks later has no pool to lose.
                pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),
                pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note_ragged_row),
                pa.csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=list(NOT_MEASURED),
                    strings_can_be_null=strings_can_be_null,
                ),
            )
        except (OSError, pa.ArrowException) as error:
            if ragged:  # the text of pyarrow would quote the row
                raise DataError(
                    f"{self.path}: row {ragged[0]} has another number of cells than the header "
                    f"({len(self.columns)}). Put cells that hold a comma into double quotes"
                ) from None
            raise _unreadable(self.path, error) from None


def open_table(path: Path) -> Table:
    """Read the header of a table.

    Args:
        path: a CSV (comma, UTF-8, first line is the header), a gzipped CSV, or a parquet file.

    Raises:
        DataError: the file is absent, damaged or of another kind, has no header, or has a column name twice.
    """
    if not path.name.endswith(TABLE_SUFFIXES):
        raise DataError(
            f"{path}: is no table; expected a name that ends in {', '.join(TABLE_SUFFIXES)}. Export it as one of these"
        )
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*") if p.name.endswith(TABLE_SUFFIXES))[:8]
        raise DataError(
            f"{path}: no such file; tables in that folder: {', '.join(others) or 'none'}. "
            "Correct data.root or the file's name in the settings"
        )
    try:
        columns = _read_header(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if not any(columns):
        raise DataError(f"{path}: is empty; expected a header of column names and a row per patient")
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise DataError(f"{path}: its header has no comma, but a semicolon or tab. Export it with commas between cells")
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} appears {columns.count(twice)} times. Keep one of them")
    return Table(path, columns)


def describe_rows(bad: npt.NDArray[np.bool_]) -> str:
    """Describe the rows where `bad` is True, counted from 1: `row 3`, or `rows 3, 8, 9 and 14 more`."""
    rows = [str(row + 1) for row in np.flatnonzero(bad)]
    assert rows, "no row is bad"
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(rows[:3])}{more}"


def _read_header(path: Path) -> tuple[str, ...]:
    if path.suffix == ".parquet":
        return tuple(pa.parquet.read_schema(path).names)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:  # -sig: spreadsheets write a byte order mark
        return tuple(next(csv.reader(lines), ()))


def _as_text(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.compute.fill_null(cells.cast(pa.string()), "")


def _as_float32(cells: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the cells as numbers, NaN where there is none, and True for the cells that hold something else."""
    try:
        numbers: npt.NDArray[np.float32] = cells.cast(pa.float32(), safe=False).to_numpy()
        return numbers, np.zeros(len(numbers), np.bool_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # blanks around a number, a plus sign, or text
        try:
            text = pd.Series(_as_text(cells).to_pandas()).str.strip()
        except pa.ArrowException:  # lists, bytes or the like, in a parquet file
            return np.full(len(cells), np.nan, np.float32), cells.is_valid().to_numpy()
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite, as above
            parsed = pd.to_numeric(text, errors="coerce").to_numpy(np.float32)
        return parsed, np.isnan(parsed) & ~text.isin(NOT_MEASURED).to_numpy()


def _unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a damaged file, without the text of the library, which may quote cells."""
    kind = "parquet" if path.suffix == ".parquet" else "CSV in UTF-8"
    return DataError(
        f"{path}: cannot be read as {kind} ({type(error).__name__}); it is damaged or of another kind. Export it again"
    )
