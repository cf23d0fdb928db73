"""Text files whose cells are separated by commas."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from memamba_core.data.tables.source import NOT_MEASURED, unreadable
from memamba_core.errors import DataError

__all__ = ["DelimitedSource", "open_delimited"]

BLOCK_BYTES = 1 << 24  # a row must fit into a block; 9,000 columns take about 200 kB
KIND = "CSV in UTF-8"


@dataclass(frozen=True)
class DelimitedSource:
    """CSV file whose header was read.

    Attributes:
        path: the file.
        columns: names of its columns.
    """

    path: Path
    columns: tuple[str, ...]

    def read(self, columns: Sequence[str], *, numeric: bool) -> pa.Table:
        """Return the columns as text, as `TableSource.read` describes."""
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
                    strings_can_be_null=numeric,
                ),
            )
        except (OSError, pa.ArrowException) as error:
            if ragged:  # the text of pyarrow would quote the row
                raise DataError(
                    f"{self.path}: row {ragged[0]} has another number of cells than the header "
                    f"({len(self.columns)}). Put cells that hold a comma into double quotes"
                ) from None
            raise unreadable(self.path, KIND, error) from None


def open_delimited(path: Path) -> DelimitedSource:
    """Read the header of a CSV (comma, UTF-8, first line is the header) or a gzipped CSV.

    Raises:
        DataError: the file is damaged or of another kind.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as lines:  # -sig: spreadsheets write a mark
            columns = tuple(next(csv.reader(lines), ()))
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, KIND, error) from None
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        raise DataError(f"{path}: its header has no comma, but a semicolon or tab. Export it with commas between cells")
    return DelimitedSource(path, columns)
