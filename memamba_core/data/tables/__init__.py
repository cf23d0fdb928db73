"""Read named columns of a table file as text or numbers, with errors that name the row.

Modules from the bottom up: `rows` (how messages count rows), `cells` (cells as text and as numbers), `source` (what a
format provides), `delimited` and `parquet` (the formats), `table` (columns on request), `opening` (from the name of a
file to a `Table`).
"""

from memamba_core.data.tables.opening import TABLE_SUFFIXES, is_table, open_table
from memamba_core.data.tables.rows import describe_rows
from memamba_core.data.tables.table import Table

__all__ = ["TABLE_SUFFIXES", "Table", "describe_rows", "is_table", "open_table"]
