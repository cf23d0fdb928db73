"""Layout of a text table: lines above the header, separator, names of the columns."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from memamba_core.data.tables.quotes import refuse_swallowing_header
from memamba_core.errors import DataError

__all__ = ["SEPARATORS", "Layout", "read_layout", "records"]

SEPARATORS = {"\t": "tab", ";": "semicolon", "|": "bar", ",": "comma"}
"""Separators of cells and their names; where two fit equally well, the earlier one is taken."""
SAMPLE_LINES = 26
SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Layout:
    """Position and form of the rows of a text table.

    Attributes:
        separator: one of `SEPARATORS`.
        names: names in the header without surrounding blanks, '' for a column without a name.
        start: offset of the first byte below the header.
        skipped: number of lines above the header that begin with `#`.
    """

    separator: str
    names: tuple[str, ...]
    start: int
    skipped: int


def read_layout(path: Path, data: bytes) -> Layout:
    r"""Find the header and the separator.

    Lines above the header are skipped if they are blank or begin with `#` (cBioPortal), and so is `sep=;` (Excel). The
    separator is the one with which the first rows have as many cells as the header; of several, the one with the most
    cells.

    Args:
        path: the file, for messages.
        data: its text, UTF-8 with `\n` as line end.

    Raises:
        DataError: the file has no header, or the header opens a quote that no line closes.
    """
    offset, skipped, declared = 0, 0, ""
    while offset < len(data):
        end = data.find(b"\n", offset)
        end = len(data) if end < 0 else end
        line = data[offset:end] if end - offset < SAMPLE_BYTES else b"long"
        if line.startswith(b"#"):
            skipped += 1
        elif not offset and len(line) == 5 and line.startswith(b"sep=") and chr(line[4]) in SEPARATORS:
            declared = chr(line[4])
        elif line.strip():
            break
        offset = end + 1
    else:
        raise DataError(f"{path}: is empty; expected a header of column names and a row per patient")
    sample = data[offset : _sample_end(data, offset)].decode()
    separator = declared or _find_separator(sample)
    lines = sample.split("\n")
    reader = csv.reader((line + "\n" for line in lines), delimiter=separator)
    try:
        header = next(reader)
    except csv.Error:
        raise DataError(
            f"{path}: a name in its header has no end within 128 kB; a double quote is not closed. Correct the header"
        ) from None
    refuse_swallowing_header(path, "\n".join(lines[: reader.line_num]).rstrip("\n"), separator, len(header))
    for _ in range(reader.line_num):
        offset = data.find(b"\n", offset) + 1 or len(data)
    names = tuple(re.sub(r"\s*\n\s*", " ", name).strip() for name in header)
    return Layout(separator, names, offset, skipped)


def records(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """Yield the cells of each row that is not blank; end early where a cell has no end within 128 kB."""
    reader = csv.reader(lines, delimiter=separator)
    while True:
        try:
            row = next(reader, None)
        except csv.Error:
            return
        if row is None:
            return
        if row:
            yield row


def _sample_end(data: bytes, offset: int) -> int:
    """Return the end of the header and the first rows: at least three lines, at most `SAMPLE_LINES`."""
    end = offset
    for line in range(SAMPLE_LINES):
        if line >= 3 and end - offset > SAMPLE_BYTES:
            break
        end = data.find(b"\n", end) + 1 or len(data)
        if end == len(data):
            break
    return end


def _find_separator(sample: str) -> str:
    best, best_score = ",", (0.0, 1)
    for separator in SEPARATORS:
        rows = list(islice(records((line + "\n" for line in sample.split("\n")), separator), SAMPLE_LINES))
        if not rows or len(rows[0]) < 2:
            continue
        fitting = sum(len(row) == len(rows[0]) for row in rows[1:])
        score = (fitting / (len(rows) - 1) if len(rows) > 1 else 1.0, len(rows[0]))
        if score > best_score:
            best, best_score = separator, score
    return best
