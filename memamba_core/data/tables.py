"""Named columns of a CSV, CSV.gz or parquet file, as text or as numbers, and complaints that name the row."""

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
"""Empty cells of a column of numbers. In a column of text they are text: `NA` is a TSS code."""
BLOCK_BYTES = 1 << 24  # a row must fit into a block; 9,000 columns take about 200 kB


@dataclass(frozen=True)
class Table:
    """A file of which the header was read; the columns are read when asked for.

    Attributes:
        path: the file.
        columns: its column names, each once.
    """

    path: Path
    columns: tuple[str, ...]

    def require(self, column: str, setting: str | None = None) -> None:
        """Refuse the table if it has no such column.

        Args:
            column: the wanted name.
            setting: the setting of the site.yaml that names it; None if the name is fixed.
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
        """Refuse the table if a row is bad.

        Args:
            column: where.
            bad: one truth value per row.
            what: what is wrong with the cells, after the name of the column.
            remedy: what to do, as a sentence without full stop.
        """
        rows = np.asarray(bad, np.bool_)
        if rows.any():
            raise DataError(f"{self.path}: column {column!r} {what} in {describe_rows(rows)}. {remedy}")

    def text(self, columns: Sequence[str]) -> pd.DataFrame:
        """The columns as text without surrounding blanks, one row per row of the table; an empty cell is ''.

        Nothing is interpreted: `05` keeps its zero and `NA` stays `NA`.

        Raises:
            DataError: there is no row, or a column of a parquet file holds lists, bytes or the like.
        """
        cells = self._cells(columns, strings_can_be_null=False)
        trimmed = {}
        for column in columns:
            try:
                trimmed[column] = pa.compute.utf8_trim_whitespace(_as_text(cells[column])).to_pandas()
            except pa.ArrowException:  # its own text may quote a cell
                kind = cells[column].type
                raise DataError(
                    f"{self.path}: column {column!r} is of type {kind}; wanted text or numbers. Export it as text"
                ) from None
        frame = pd.DataFrame(trimmed, columns=list(columns))
        if frame.empty:
            raise DataError(f"{self.path}: has a header but no rows. Write one row per patient below it")
        return frame

    def numbers(self, columns: Sequence[str]) -> npt.NDArray[np.float32]:
        """The columns as float32, one row per row and one column per name; NaN where not measured.

        Raises:
            DataError: naming the first column that holds text or an infinite number, and its rows.
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
        """Those of the columns that hold only 0, 1 and empty cells, and at least one of the former."""
        cells = self._cells(columns, strings_can_be_null=True)
        found = []
        for column in columns:
            numbers, bad = _as_float32(cells[column])
            measured = numbers[~np.isnan(numbers)]
            if measured.size and not bad.any() and bool(((measured == 0) | (measured == 1)).all()):
                found.append(column)
        return tuple(found)

    def _cells(self, columns: Sequence[str], *, strings_can_be_null: bool) -> pa.Table:
        """The columns as they lie in the file: text for CSV, whatever the type is for parquet."""
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
            if ragged:  # pyarrow's own text would quote the row
                raise DataError(
                    f"{self.path}: row {ragged[0]} has not as many cells as the header "
                    f"({len(self.columns)}). Put cells that hold a comma into double quotes"
                ) from None
            raise _unreadable(self.path, error) from None


def open_table(path: Path) -> Table:
    """Read the header of a table.

    Args:
        path: a CSV (comma, UTF-8, first line is the header), a gzipped CSV, or a parquet file.

    Raises:
        DataError: there is no such file, it is of another kind or damaged, it has no header, or a column name
            twice.
    """
    if not path.name.endswith(TABLE_SUFFIXES):
        raise DataError(f"{path}: wanted a table that ends in {', '.join(TABLE_SUFFIXES)}. Export it as one of these")
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*") if p.name.endswith(TABLE_SUFFIXES))[:8]
        raise DataError(
            f"{path}: no such file; tables in that folder: {', '.join(beside) or 'none'}. "
            "Correct data.root or the file's name in the settings"
        )
    try:
        columns = _read_header(path)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if not any(columns):
        raise DataError(f"{path}: is empty; wanted a header of column names and a row per patient")
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise DataError(f"{path}: its header has no comma, but a semicolon or tab. Export it with commas between cells")
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} appears {columns.count(twice)} times. Keep one of them")
    return Table(path, columns)


def describe_rows(bad: npt.NDArray[np.bool_]) -> str:
    """The rows where `bad` is true, as a person counts them: `row 3`, or `rows 3, 8, 9 and 14 more`."""
    rows = [str(row + 1) for row in np.flatnonzero(bad)]
    assert rows, "nothing to complain about"
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
    """The cells as numbers, NaN where there is none; and where that is because of something that is no number."""
    try:
        numbers: npt.NDArray[np.float32] = cells.cast(pa.float32(), safe=False).to_numpy()
        return numbers, np.zeros(len(numbers), np.bool_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # blanks around a number, a plus sign, or text
        try:
            text = pd.Series(_as_text(cells).to_pandas()).str.strip()
        except pa.ArrowException:  # lists, bytes or the like, in a parquet file
            return np.full(len(cells), np.nan, np.float32), cells.is_valid().to_numpy()
        with np.errstate(over="ignore"):  # too large a number becomes infinite, as in the fast path
            parsed = pd.to_numeric(text, errors="coerce").to_numpy(np.float32)
        return parsed, np.isnan(parsed) & ~text.isin(NOT_MEASURED).to_numpy()


def _unreadable(path: Path, error: Exception) -> DataError:
    """For a damaged file. The library's own text is left out: it may quote cells."""
    kind = "parquet" if path.suffix == ".parquet" else "CSV in UTF-8"
    return DataError(
        f"{path}: cannot be read as {kind} ({type(error).__name__}); it is damaged or of another kind. Export it again"
    )
