"""Open a table: choose the format by the file's name."""

import itertools
from collections import Counter
from pathlib import Path

from memamba_core.config.site import TableFile
from memamba_core.data.tables.delimited import open_delimited
from memamba_core.data.tables.headers import describe_column, holds_numbers
from memamba_core.data.tables.parquet import open_parquet
from memamba_core.data.tables.source import TableSource
from memamba_core.data.tables.table import Table
from memamba_core.data.tables.workbook import open_workbook
from memamba_core.errors import DataError

__all__ = ["TABLE_SUFFIXES", "is_table", "open_table"]

_TEXT = tuple("".join(parts) for parts in itertools.product((".csv", ".tsv", ".txt"), ("", ".gz", ".zip")))
TABLE_SUFFIXES = (*_TEXT, ".parquet", ".xlsx")
"""Endings of the names of tables, in lower case; `is_table` takes any case."""


def is_table(name: str) -> bool:
    """Return True if a file's name ends as that of a table, in any case."""
    return name.lower().endswith(TABLE_SUFFIXES)


def open_table(path: Path, settings: TableFile | None = None) -> Table:
    """Open a table and check its rows.

    Args:
        path: text (CSV and the like, with or without gzip or zip), a parquet file, or an Excel workbook.
        settings: section of site.yaml that names the table; None for the defaults.

    Raises:
        DataError: the file is absent, damaged or of another kind, has no header, has a column name twice, or its rows
            are ambiguous.
        MissingBackendError: the file is an Excel workbook, and openpyxl is not installed.
    """
    if not is_table(path.name):
        raise DataError(
            f"{path}: is no table; expected a name that ends in {', '.join(TABLE_SUFFIXES)}. Export it as one of these"
        )
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: is a link to {path.readlink()}, which is not there. Mount or restore it")
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*") if is_table(p.name))[:8]
        raise DataError(
            f"{path}: no such file; tables in that folder: {', '.join(others) or 'none'}. "
            "Correct data.root or the file's name in the settings"
        )
    sheet = None if settings is None else settings.sheet
    if sheet is not None and not path.name.lower().endswith(".xlsx"):
        raise DataError(f"{path}: has no sheets, and the setting sheet is {sheet!r}. Remove it, or name a workbook")
    source = _open_source(path, sheet)
    columns = source.columns
    if not columns:
        raise DataError(f"{path}: is empty; expected a header of column names and a row per patient")
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        what, times = describe_column(columns, twice), columns.count(twice)
        if holds_numbers(columns):
            raise DataError(
                f"{path}: the first row holds numbers, and one of them several times, as a row of data does. Write the "
                "names of the columns into the first row, each once"
            )
        raise DataError(f"{path}: {what} appears {times} times. Keep one of them")
    return Table(path, columns, source, None if settings is None else settings.decimal_mark, sheet)


def _open_source(path: Path, sheet: str | None) -> TableSource:
    name = path.name.lower()
    if name.endswith(".xlsx"):
        return open_workbook(path, sheet)
    return open_parquet(path) if name.endswith(".parquet") else open_delimited(path)
