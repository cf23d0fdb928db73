"""Read named columns of a table file as text or numbers, with errors that name the row.

Modules from the bottom up:

* a text table, from its bytes to its rows: `containers` (gzip, zip, other kinds), `encodings`, `layout` (comment lines,
  separator, header), `quotes` (no row is lost in a quoted cell);
* `source` (what a format provides) and the formats: `delimited`, `parquet`, `workbook`;
* cells: `cells` (as text), `numerals` (decimal points and commas), `causes` (why a cell is no number),
  `number_columns`;
* `rows` and `headers` (how messages count rows and name columns), `table` (columns on request), `opening` (from the
  name of a file to a `Table`), `orientation` (genes in rows).
"""

from memamba_core.data.tables.opening import TABLE_SUFFIXES, is_table, open_table
from memamba_core.data.tables.orientation import refuse_genes_in_rows
from memamba_core.data.tables.rows import describe_rows
from memamba_core.data.tables.table import Table

__all__ = ["TABLE_SUFFIXES", "Table", "describe_rows", "is_table", "open_table", "refuse_genes_in_rows"]
