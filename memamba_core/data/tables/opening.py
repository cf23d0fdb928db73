"""Open a table: choose the format by the file's name."""

from collections import Counter
from pathlib import Path

from memamba_core.data.tables.delimited import open_delimited
from memamba_core.data.tables.parquet import open_parquet
from memamba_core.data.tables.source import TableSource
from memamba_core.data.tables.table import Table
from memamba_core.errors import DataError

__all__ = ["TABLE_SUFFIXES", "is_table", "open_table"]

TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")


def is_table(name: str) -> bool:
    """Return True if a file's name ends as that of a table, in any case."""
    return name.lower().endswith(TABLE_SUFFIXES)


def open_table(path: Path) -> Table:
    """Read the header of a table.

    Args:
        path: a CSV (comma, UTF-8, first line is the header), a gzipped CSV, or a parquet file.

    Raises:
        DataError: the file is absent, damaged or of another kind, has no header, or has a column name twice.
    """
    if not is_table(path.name):
        raise DataError(
            f"{path}: is no table; expected a name that ends in {', '.join(TABLE_SUFFIXES)}. Export it as one of these"
        )
    if not path.is_file():
        others = sorted(p.name for p in path.parent.glob("*") if is_table(p.name))[:8]
        raise DataError(
            f"{path}: no such file; tables in that folder: {', '.join(others) or 'none'}. "
            "Correct data.root or the file's name in the settings"
        )
    source: TableSource = open_parquet(path) if path.name.lower().endswith(".parquet") else open_delimited(path)
    columns = source.columns
    if not any(columns):
        raise DataError(f"{path}: is empty; expected a header of column names and a row per patient")
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise DataError(f"{path}: column {twice!r} appears {columns.count(twice)} times. Keep one of them")
    return Table(path, columns, source)
