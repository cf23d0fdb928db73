"""Cells as text, whatever their type in the file."""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["as_text", "is_text"]


def is_text(kind: pa.DataType) -> bool:
    """Return True if cells of this type are text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def as_text(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the cells as text without surrounding blanks, an empty cell as ''.

    Raises:
        pyarrow.ArrowException: lists, bytes or the like. The text of this error may quote a cell.
    """
    if pa.types.is_duration(cells.type):  # pyarrow would write a number of nanoseconds
        words = [None if pd.isna(cell) else str(pd.Timedelta(cell)) for cell in cells.to_pandas().to_list()]
        cells = pa.chunked_array([pa.array(words, pa.string(), from_pandas=True)])
    return pc.utf8_trim_whitespace(pc.fill_null(cells.cast(pa.string()), ""))
