"""Cells as text and as numbers."""

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from memamba_core.data.tables.source import NOT_MEASURED

__all__ = ["as_float32", "as_text"]


def as_text(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the cells as text, an empty cell as ''.

    Raises:
        pyarrow.ArrowException: lists, bytes or the like. The text of this error may quote a cell.
    """
    return pa.compute.fill_null(cells.cast(pa.string()), "")


def as_float32(cells: pa.ChunkedArray) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Return the cells as numbers, NaN where there is none, and True for the cells that hold something else."""
    try:
        numbers: npt.NDArray[np.float32] = cells.cast(pa.float32(), safe=False).to_numpy()
        return numbers, np.zeros(len(numbers), np.bool_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):  # blanks around a number, a plus sign, or text
        try:
            text = pd.Series(as_text(cells).to_pandas()).str.strip()
        except pa.ArrowException:  # lists, bytes or the like, in a parquet file
            return np.full(len(cells), np.nan, np.float32), cells.is_valid().to_numpy()
        with np.errstate(over="ignore"):  # a number that is too large becomes infinite, as above
            parsed = pd.to_numeric(text, errors="coerce").to_numpy(np.float32)
        return parsed, np.isnan(parsed) & ~text.isin(NOT_MEASURED).to_numpy()
