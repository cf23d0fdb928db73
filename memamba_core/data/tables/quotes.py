"""Rows that a double quote swallows: a quoted cell may hold line breaks, and a stray quote opens such a cell."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memamba_core.errors import DataError

__all__ = ["refuse_swallowed_rows", "refuse_swallowing_header", "refuse_unclosed_end"]

_REMEDY = "Close the quote, write two quotes for a quote inside a quoted cell, or take the line breaks out of the cell"


@dataclass(frozen=True)
class QuotedCell:
    """One quoted cell of a row.

    Attributes:
        column: its column, from 0.
        text: its content, line breaks included.
        ended: True if a quote ends the cell.
        clean: True if that quote stands right before a separator or the end of the row.
    """

    column: int
    text: str
    ended: bool
    clean: bool


def refuse_swallowing_header(path: Path, header: str, separator: str, width: int) -> None:
    """Raise an error if a quote that is not closed, or closed rows below, makes rows a part of the header."""
    for cell in quoted_cells(header, separator):
        if not cell.ended or _may_hold_rows(cell, separator, width):
            raise DataError(f"{path}: its header opens a double quote that is not closed in the header. Correct it")


def refuse_swallowed_rows(path: Path, body: bytes, separator: str, width: int, rows: int | None) -> None:
    """Check the quoted cells with line breaks of a table in which some were found.

    A stray quote that opens a cell and the next stray quote, rows below, enclose whole rows, and every reader takes
    them for the text of one cell. In a row that keeps its number of cells, the text up to the first line break then
    holds the separators behind the cell's column, and the text after the last line break those before the column. A
    comment over several lines is read unless its lines look like that. Wrongly closed quotes over a line break are
    always refused.

    Args:
        path: the file, for messages.
        body: the rows below the header.
        separator: between cells.
        width: number of columns.
        rows: number of rows that the reader of the cells found; None if it found a row of another width.

    Raises:
        DataError: a cell may hold rows, a quote has no end, or two readers find different numbers of rows.
    """
    found = 0
    for lines in _raw_records(path, body, separator):
        found += 1
        if "\n" not in lines:
            continue
        for cell in quoted_cells(lines, separator):
            if _may_hold_rows(cell, separator, width):
                raise DataError(
                    f"{path}: row {found} opens a double quote, and the quoted cell holds "
                    f"{cell.text.count(chr(10))} line breaks and text that looks like rows of the table. {_REMEDY}"
                )
    if rows is not None and found != rows:
        raise DataError(
            f"{path}: two readers find {rows} and {found} rows: quotes or line breaks are ambiguous. {_REMEDY}"
        )


def refuse_unclosed_end(path: Path, body: bytes, separator: str, rows: int) -> None:
    """Raise an error if the last line opens a quote and the file ends: the file is cut off, or the quote is stray."""
    line = body[body.rstrip(b"\n").rfind(b"\n") + 1 :].rstrip(b"\n")
    if b'"' in line and not all(cell.ended for cell in quoted_cells(line.decode(), separator)):
        raise DataError(
            f"{path}: row {rows}, the last one, opens a double quote that is not closed; the file may be cut off. "
            f"{_REMEDY}"
        )


def quoted_cells(record: str, separator: str) -> Iterator[QuotedCell]:
    """Yield the cells of one row that begin with a double quote, as the common CSV readers split them."""
    column, place, end = 0, 0, len(record)
    while True:
        if record.startswith('"', place):
            start = place = place + 1
            while (quote := record.find('"', place)) >= 0 and record.startswith('"', quote + 1):
                place = quote + 2
            if quote < 0:
                yield QuotedCell(column, record[start:].replace('""', '"'), ended=False, clean=False)
                return
            place = quote + 1
            clean = place == end or record[place] == separator
            yield QuotedCell(column, record[start:quote].replace('""', '"'), ended=True, clean=clean)
        stop = record.find(separator, place)
        if stop < 0:
            return
        column, place = column + 1, stop + 1


def _may_hold_rows(cell: QuotedCell, separator: str, width: int) -> bool:
    first, *middle = cell.text.split("\n")
    if not middle:
        return False
    last = middle.pop()
    around = first.count(separator) == width - 1 - cell.column and last.count(separator) == cell.column
    return not cell.clean or around or any(line.count(separator) == width - 1 for line in middle if line)


def _raw_records(path: Path, body: bytes, separator: str) -> Iterator[str]:
    """Yield the text of each row that is not blank, without its line end."""
    lines = body.decode().split("\n")
    place, found = 0, 0
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            raise DataError(
                f"{path}: row {found + 1} holds a cell of more than 128 kB: a double quote is not closed. {_REMEDY}"
            ) from None
        if row is None:
            return
        text = "\n".join(lines[place : reader.line_num])
        place = reader.line_num
        if text:
            found += 1
            yield text
