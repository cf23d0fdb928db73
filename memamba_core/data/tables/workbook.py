"""Excel workbooks (.xlsx), read with openpyxl; a formula has the value that Excel computed when it saved the file."""

import datetime as dt
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from memamba_core.data.tables.source import NOT_MEASURED
from memamba_core.errors import DataError, MissingBackendError

__all__ = ["WorkbookSource", "open_workbook", "sheet_names"]


@dataclass(frozen=True)
class WorkbookSource:
    """One sheet of a workbook.

    Attributes:
        path: the file.
        columns: names of the columns that have one.
        sheet: its name.
        others: names of the other sheets.
        cells: the rows below the header, in the type of their cells; text where a column mixes types.
    """

    path: Path
    columns: tuple[str, ...]
    sheet: str
    others: tuple[str, ...]
    cells: pa.Table = field(repr=False)

    @property
    def separator(self) -> None:
        """None: cells have no separator."""

    @property
    def hint(self) -> str:
        """Clause for a message about an absent column: the sheet that was read, if there are others."""
        if not self.others:
            return ""
        return (
            f"; sheet {self.sheet!r} was read, and there are {len(self.others)} others "
            f"({', '.join(map(repr, self.others[:4]))}), which the setting sheet of this table can name"
        )

    def read(self, columns: Sequence[str], *, numeric: bool) -> pa.Table:
        """Return the columns, as `TableSource.read` describes."""
        chosen = self.cells.select([self.columns.index(column) for column in columns])
        if not numeric:
            return chosen
        return pa.table(
            {
                name: cells if cells.type != pa.string() else _without_markers(cells)
                for name, cells in zip(chosen.column_names, chosen.columns, strict=True)
            }
        )


def open_workbook(path: Path, sheet: str | None) -> WorkbookSource:
    """Read a sheet: the first row with a cell is the header, and wholly empty rows at the end are ignored.

    Args:
        path: the workbook.
        sheet: name of the sheet; None takes the first.

    Raises:
        DataError: the file is damaged or of another kind, has no such sheet, no header, or formulas that were never
            computed.
        MissingBackendError: openpyxl is not installed.
    """
    with _readable(path):
        book = _load(path)
        names = [page.title for page in book.worksheets]
        if not names or (sheet is not None and sheet not in names):
            known = ", ".join(map(repr, names[:8])) or "none"
            raise DataError(
                f"{path}: no sheet {sheet!r}; its sheets are {known}. Correct the setting sheet of this table"
            )
        chosen = sheet or names[0]
        # The size that a file states may be wrong.
        page = book[chosen]
        page.reset_dimensions()
        rows = [list(row) for row in page.iter_rows(values_only=True)]
        book.close()
        if _has_formulas(path):
            _refuse_uncomputed(path, chosen, rows)
    while rows and not any(_has_content(cell) for cell in rows[-1]):
        rows.pop()
    while rows and not any(_has_content(cell) for cell in rows[0]):
        rows.pop(0)
    header = [_to_text(cell).strip() for cell in rows[0]] if rows else []
    width = len(header)
    for number, row in enumerate(rows[1:], 1):
        if any(_has_content(cell) for cell in row[width:]):
            if width == 1:
                raise DataError(
                    f"{path}: the first row has one cell and row {number} below it more, as under a title. Take out "
                    "the rows above the names of the columns"
                )
            raise DataError(
                f"{path}: row {number} has cells behind the last column of the header ({width}). Name these columns or "
                "clear the cells"
            )
    named = [index for index, name in enumerate(header) if name]
    columns = [_to_array([row[index] if index < len(row) else None for row in rows[1:]]) for index in named]
    return WorkbookSource(
        path,
        tuple(header[index] for index in named),
        chosen,
        tuple(name for name in names if name != chosen),
        pa.Table.from_arrays(columns, names=[header[index] for index in named]),
    )


def sheet_names(path: Path) -> tuple[str, ...]:
    """Return the names of a workbook's sheets, in their order.

    Raises:
        DataError: the file is damaged or of another kind.
        MissingBackendError: openpyxl is not installed.
    """
    with _readable(path):
        book = _load(path)
        names = tuple(page.title for page in book.worksheets)
        book.close()
    return names


def _load(path: Path) -> Any:
    import openpyxl

    return openpyxl.load_workbook(path, read_only=True, data_only=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors of openpyxl into those of the file."""
    try:
        yield
    except ImportError:
        raise MissingBackendError(
            f"{path}: reading Excel workbooks needs openpyxl, which is not installed. Install it with "
            "`pip install openpyxl`, or save the table as CSV"
        ) from None
    except DataError:
        raise
    except Exception as error:  # openpyxl raises whatever its XML and zip readers raise, and its texts may quote cells
        raise DataError(
            f"{path}: cannot be read as an Excel workbook ({type(error).__name__}); it is damaged, encrypted or of "
            "another kind. Save it again as .xlsx without a password, or as CSV"
        ) from None


def _has_content(cell: Any) -> bool:
    return cell is not None and not (isinstance(cell, str) and not cell.strip())


def _to_array(cells: list[Any]) -> pa.Array:
    """Return cells of one kind in their type, and others as text."""
    cells = [cell if _has_content(cell) else None for cell in cells]
    kinds = {type(cell) for cell in cells if cell is not None}
    if kinds == {bool}:
        return pa.array(cells, pa.bool_())
    if kinds and kinds <= {int, float}:
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    if kinds == {dt.timedelta}:
        return pa.array(cells, pa.duration("us"))
    if kinds and kinds <= {dt.datetime, dt.date, dt.time} and len(kinds) == 1:
        return pa.array(cells)
    return pa.array([_to_text(cell) for cell in cells], pa.string())


def _to_text(cell: Any) -> str:
    """Return a cell as Excel's user knows it: whole numbers without decimals, dates without the time of midnight."""
    if cell is None:
        return ""
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, dt.datetime) and cell.time() == dt.time():
        return cell.date().isoformat()
    return str(cell)


def _without_markers(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text with null for the words that mean `not measured`."""
    return pc.if_else(pc.is_in(cells, pa.array(NOT_MEASURED)), None, cells)


def _has_formulas(path: Path) -> bool:
    """Return True if a sheet has formulas, without reading their cells."""
    with zipfile.ZipFile(path) as archive:
        sheets = [name for name in archive.namelist() if name.startswith("xl/worksheets/")]
        return any(re.search(rb"<(\w+:)?f[ />]", archive.read(name)) for name in sheets)


def _refuse_uncomputed(path: Path, sheet: str, rows: list[list[Any]]) -> None:
    """Raise an error if a formula has no value: a program wrote the formulas, and Excel has never computed them."""
    import openpyxl

    book = openpyxl.load_workbook(path, read_only=True)
    page = book[sheet]
    page.reset_dimensions()
    empty = 0
    for row, formulas in zip(rows, page.iter_rows(values_only=True), strict=True):
        empty += sum(v is None and isinstance(f, str) and f.startswith("=") for v, f in zip(row, formulas, strict=True))
    book.close()
    if empty:
        raise DataError(
            f"{path}: {empty} formulas have no computed value. Open the workbook in Excel, save it, and export it again"
        )
