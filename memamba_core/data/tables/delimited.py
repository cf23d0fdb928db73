"""Text tables: cells between commas, semicolons, tabs or bars."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from memamba_core.data.tables.containers import read_unpacked
from memamba_core.data.tables.encodings import to_utf8
from memamba_core.data.tables.layout import SEPARATORS, Layout, read_layout
from memamba_core.data.tables.quotes import refuse_swallowed_rows, refuse_unclosed_end
from memamba_core.data.tables.source import NOT_MEASURED, unreadable
from memamba_core.errors import DataError

__all__ = ["DelimitedSource", "open_delimited"]

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 24
"""Bytes that are parsed at once; a row must fit into them, and one of 20,000 columns takes about 200 kB."""


@dataclass(frozen=True)
class DelimitedSource:
    """Text table whose rows were checked.

    Attributes:
        path: the file.
        layout: its separator and header.
        columns: names of the columns that have one.
        body: its rows, UTF-8.
        num_rows: number of rows.
    """

    path: Path
    layout: Layout
    columns: tuple[str, ...]
    body: pa.Buffer = field(repr=False)
    num_rows: int

    @property
    def separator(self) -> str:
        """The character between two cells."""
        return self.layout.separator

    @property
    def hint(self) -> str:
        """Nothing: the file is one table."""
        return ""

    def read(self, columns: Sequence[str], *, numeric: bool) -> pa.Table:
        """Return the columns as text, as `TableSource.read` describes."""
        place_of = {name: str(place) for place, name in enumerate(self.layout.names)}
        places = [place_of[column] for column in columns]
        if not self.num_rows:
            return pa.table({column: pa.array([], pa.string()) for column in columns})
        cells = _parse(self.body, self.layout, places, numeric=numeric)
        return cells.rename_columns(list(columns))


def open_delimited(path: Path) -> DelimitedSource:
    """Read a text table and check that no row is lost or has another number of cells than the header.

    Columns without a name and rows at the end without any cell, which spreadsheets leave behind, are ignored.

    Raises:
        DataError: the file is damaged or of another kind, its encoding is unknown, or its rows are ambiguous.
    """
    data, encoding = to_utf8(path, read_unpacked(path))
    layout = read_layout(path, data)
    body = data[layout.start : _end_of_rows(data, layout)]
    del data
    try:
        body, num_rows = _check_rows(path, layout, body)
    except pa.ArrowException as error:
        raise unreadable(path, f"a table with a {SEPARATORS[layout.separator]} between cells", error) from None
    columns = tuple(name for name in layout.names if name)
    log.info(
        "%s: %d rows, %d columns; %s, %s between cells; %d comment lines skipped, %d columns without a name ignored",
        *(path.name, num_rows, len(columns), encoding, SEPARATORS[layout.separator]),
        *(layout.skipped, len(layout.names) - len(columns)),
    )
    return DelimitedSource(path, layout, columns, pa.py_buffer(body), num_rows)


def _parse(body: pa.Buffer, layout: Layout, places: Sequence[str], *, numeric: bool) -> pa.Table:
    return pa.csv.read_csv(
        pa.BufferReader(body),
        # One thread: a process that forks later has no pool to lose.
        pa.csv.ReadOptions(
            use_threads=False, block_size=BLOCK_BYTES, column_names=[str(i) for i in range(len(layout.names))]
        ),
        pa.csv.ParseOptions(delimiter=layout.separator, newlines_in_values=True),
        pa.csv.ConvertOptions(
            include_columns=list(places),
            column_types=dict.fromkeys(places, pa.string()),
            null_values=list(NOT_MEASURED),
            strings_can_be_null=numeric,
        ),
    )


def _end_of_rows(data: bytes, layout: Layout) -> int:
    """Return the end of the last row that has a cell with content."""
    nothing = f"{layout.separator} \t\n".encode()
    end = len(data)
    while end > layout.start:
        start = max(data.rfind(b"\n", layout.start, end - 1) + 1, layout.start)
        if data[start:end].strip(nothing):
            break
        end = start
    return end


def _check_rows(path: Path, layout: Layout, body: bytes) -> tuple[bytes, int]:
    """Return the rows with as many cells as the header, and their number."""
    if not body:
        return body, 0
    width = len(layout.names)
    try:
        rows = _parse(pa.py_buffer(body), layout, ["0"], numeric=False).num_rows
    except pa.ArrowInvalid:  # the text of pyarrow quotes the row
        if b'"' in body:
            refuse_swallowed_rows(path, body, layout.separator, width, None)
        body = _trim_rows(path, layout, body)
        rows = _parse(pa.py_buffer(body), layout, ["0"], numeric=False).num_rows
    if b'"' in body:
        if rows != sum(1 for line in body.split(b"\n") if line):
            refuse_swallowed_rows(path, body, layout.separator, width, rows)
        else:
            refuse_unclosed_end(path, body, layout.separator, rows)
    return body, rows


def _trim_rows(path: Path, layout: Layout, body: bytes) -> bytes:
    """Return the rows without empty cells behind the last column.

    Raises:
        DataError: a row has fewer cells than the header, or cells with content behind the last column.
    """
    width = len(layout.names)
    output = io.StringIO()
    writer = csv.writer(output, delimiter=layout.separator, lineterminator="\n")
    reader = csv.reader(io.StringIO(body.decode(), newline=""), delimiter=layout.separator)
    bad: list[tuple[int, int]] = []
    row = 0
    try:
        for cells in reader:
            if not "".join(cells).strip() and len(cells) < width:
                continue  # a line of blanks
            row += 1
            if len(cells) < width or any(cell.strip() for cell in cells[width:]):
                bad.append((row, len(cells)))
            writer.writerow(cells[:width])
    except csv.Error:
        raise DataError(
            f"{path}: row {row + 1} holds a cell of more than 128 kB: a double quote is not closed. Close it"
        ) from None
    if bad:
        raise DataError(f"{path}: {_describe_ragged(bad, row, layout)}")
    return output.getvalue().encode()


def _describe_ragged(bad: list[tuple[int, int]], rows: int, layout: Layout) -> str:
    width, name = len(layout.names), SEPARATORS[layout.separator]
    first, cells = bad[0]
    if width == 1 and 2 * sum(found == cells for _, found in bad) > rows:
        return (
            f"the first line has one cell, and most rows below it have {cells}, as under a title. Take out the lines "
            "above the names of the columns"
        )
    if first == rows and cells == 1:
        return (
            f"row {first}, the last one, has 1 cell, and the header {width}. Take out text below the table, or "
            "complete the row: the file may be cut off"
        )
    text = f"row {first} has {cells} cells, another number of cells than the header ({width})"
    if len(bad) > 1:
        text += f", and so have {len(bad) - 1} more of {rows} rows"
    if cells == width + 1 and len(bad) == rows:
        text += ". If the first cell of each row is a row name (R), give it a name in the header; else"
        return f"{text} put cells that hold a {name} into double quotes, or export with semicolons between cells"
    return (
        f"{text}. Put cells that hold a {name} into double quotes (a decimal comma, a comment), and complete short rows"
    )
