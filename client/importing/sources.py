"""Open a source of an import: a table of any name, or every sheet of a workbook."""

from collections import Counter
from pathlib import Path

from client.importing.options import DecimalMark
from memamba_core.config.site import TableFile
from memamba_core.data.tables import Table, is_table, open_table
from memamba_core.data.tables.delimited import open_delimited
from memamba_core.data.tables.workbook import sheet_names
from memamba_core.errors import DataError

__all__ = ["open_sheets", "open_source"]


def open_source(path: Path, decimal_mark: DecimalMark | None = None) -> Table:
    """Open a table; a name without a known ending (Xena's `HiSeqV2`, a `.maf`) is read as text.

    Args:
        path: the file.
        decimal_mark: notation of its numbers, by a person; None finds it.

    Raises:
        DataError: the file is absent or no table, or a column stands twice.
    """
    if is_table(path.name) or not path.is_file():
        return open_table(path, TableFile(decimal_mark=decimal_mark))
    source = open_delimited(path)
    twice = [column for column, count in Counter(source.columns).items() if count > 1]
    if twice:
        raise DataError(f"{path}: column {twice[0]!r} appears {source.columns.count(twice[0])} times. Keep one of them")
    return Table(path, source.columns, source, decimal_mark)


def open_sheets(path: Path, decimal_mark: DecimalMark | None = None) -> tuple[list[Table], list[str]]:
    """Open a table, or the sheets of a workbook.

    Args:
        path: the file.
        decimal_mark: notation of its numbers, by a person; None finds it.

    Returns:
        The tables; and for each sheet that is no table, such as one of notes, a sentence that says why.

    Raises:
        DataError: the file, or every sheet, is no table.
    """
    if not path.name.lower().endswith(".xlsx") or not path.is_file():
        return [open_table(path, TableFile(decimal_mark=decimal_mark))], []
    tables, failures = list[Table](), list[DataError]()
    names = sheet_names(path)
    for index, name in enumerate(names):
        try:
            tables.append(open_table(path, TableFile(sheet=name if index else None, decimal_mark=decimal_mark)))
        except DataError as failure:
            failures.append(failure)
    if not tables:
        raise failures[0] if failures else DataError(f"{path}: has no sheet of cells. Save the table as CSV")
    return tables, [str(failure) for failure in failures]
