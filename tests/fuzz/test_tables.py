"""Fuzz the readers of tables: damaged bytes give a `MemambaError` or as many patients as the file has rows.

`MEMAMBA_FUZZ_SECONDS` sets the time per format; the default of 3 s is a smoke test. A failure prints the seed of the
damage, and `damage(data, random.Random(seed))` gives the file again.
"""

import datetime as dt
import gzip
import io
import os
import random
import time
import zipfile
import zlib

import openpyxl
import pandas as pd
import pytest

from memamba_core.data.tables import open_table
from memamba_core.errors import MemambaError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

SECONDS = float(os.environ.get("MEMAMBA_FUZZ_SECONDS", "3"))
NUM_ROWS = 12
ROWS = [
    (f"p{row:02d}", row * 37.5, row % 2, ("", "ohne Befund", "Größe, 5 µm", 'sagt "nein"', "zwei\nZeilen")[row % 5])
    for row in range(NUM_ROWS)
]
FRAME = pd.DataFrame(ROWS, columns=["case_id", "days", "event", "note"])
COMMA = FRAME.to_csv(index=False)
SEMICOLON = FRAME.to_csv(index=False, sep=";", decimal=",", lineterminator="\r\n")
SPECIAL = [
    b'"',
    b"\n",
    b"\r",
    b",",
    b";",
    b"\t",
    b"\0",
    b"#",
    b"\xff",
    b"\xfc",
    b'""',
    b'\n"',
    b'",',
    b"|",
    b" ",
    b"PK",
]


def as_zip():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t.csv", COMMA)
    return data.getvalue()


def as_workbook():
    data = io.BytesIO()
    book = openpyxl.Workbook()
    book.active.append([*FRAME.columns, "visit"])
    for row in ROWS:
        book.active.append([*row, dt.date(2021, 3, 1)])
    book.save(data)
    return data.getvalue()


FORMATS = {
    "comma": ("t.csv", COMMA.encode(), "utf-8"),
    "semicolon": ("t.csv", SEMICOLON.encode("cp1252"), "latin-1"),
    "comments": ("t.txt", ("#one\n#two\n" + FRAME.to_csv(index=False, sep="\t")).encode(), "utf-8"),
    "utf-16": ("t.csv", SEMICOLON.encode("utf-16"), "utf-16"),
    "all quoted": ("t.csv", FRAME.to_csv(index=False, quoting=1).encode(), "utf-8"),
    "gzip": ("t.csv.gz", gzip.compress(COMMA.encode()), None),
    "zip": ("t.csv.zip", as_zip(), None),
    "parquet": ("t.parquet", FRAME.to_parquet(index=False), None),
    "workbook": ("t.xlsx", as_workbook(), None),
}


def damage(data: bytes, rng: random.Random) -> bytes:
    """Return the bytes with one to three edits, or cut off."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        place = rng.randrange(len(data) + 1)
        kind = rng.randrange(6)
        if kind == 0:
            data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
        elif kind == 1:
            data = data[:place] + data[place + rng.randrange(1, 40) :]
        elif kind in (2, 3):
            data = data[:place] + rng.choice(SPECIAL) + data[place + rng.randrange(2) :]
        elif kind == 4:
            end = rng.randrange(len(data) + 1)
            data = data[:place] + data[min(place, end) : max(place, end)] + data[place:]
        else:
            data = data[: max(place, 1)]
        data = data or b"\n"
    return data


def read_everything(path):
    """Return the number of rows, after every kind of reading."""
    table = open_table(path)
    for column in ("case_id", "days", "event"):
        table.require(column)
    rows = len(table.text(table.columns))
    for read in (
        lambda: table.numbers(["days"]),
        lambda: table.times("days", "days"),
        lambda: table.numbers(["event"]),
    ):
        try:
            values = read()
        except MemambaError:
            continue
        assert len(values) == rows
    table.binary_columns(table.columns)
    return rows


def allowed_counts(data: bytes, encoding: str | None) -> set[int]:
    """Return the numbers of rows that may be right: one per line, with or without the notes of two lines."""
    if data.startswith(b"\x1f\x8b"):  # the same archive twice is a valid archive of two tables in a row
        try:
            data, encoding = gzip.decompress(data), "utf-8"
        except (OSError, EOFError, zlib.error):
            return {NUM_ROWS}
    if encoding is None:
        return {NUM_ROWS}
    text = data.decode(encoding, errors="replace").lstrip("\ufeff")
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip(" ,;\t|")]
    while lines and lines[0].startswith("#"):
        lines.pop(0)
    # A note of two lines is one row; a line break in a note that a damage adds as well.
    longest = len(lines) - 1
    notes = sum(line.strip('"').endswith("zwei") for line in lines)
    return set(range(longest - notes - 3, longest + 1))


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_tables_are_refused_or_keep_their_rows(tmp_path, name):
    file, data, encoding = FORMATS[name]
    path = tmp_path / file
    path.write_bytes(data)
    assert read_everything(path) == NUM_ROWS
    end = time.monotonic() + SECONDS
    first = random.randrange(1 << 30)
    tried = read = 0
    while time.monotonic() < end:
        seed = first + tried
        tried += 1
        damaged = damage(data, random.Random(seed))
        path.write_bytes(damaged)
        try:
            rows = read_everything(path)
        except MemambaError:
            continue
        except BaseException as error:
            raise AssertionError(f"seed {seed}") from error
        read += 1
        assert rows in allowed_counts(damaged, encoding), f"seed {seed}"
    print(f"{name}: {tried} files, {read} read")
