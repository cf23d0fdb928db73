"""Protocol of the table formats: the names of the columns, and the cells of some of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from memamba_core.errors import DataError

__all__ = ["NOT_MEASURED", "TableSource", "unreadable"]

NOT_MEASURED = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None")
"""Empty cells of a column of numbers. In a column of text these strings are text: `NA` is a TSS code."""


class TableSource(Protocol):
    """Cells of one file, in the types of its format."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, as often as the file has them."""
        ...

    @property
    def separator(self) -> str | None:
        """Character between two cells; None if the format needs none."""
        ...

    @property
    def hint(self) -> str:
        """Clause for a message about an absent column: where else it may be; '' if nowhere."""
        ...

    def read(self, columns: Sequence[str], *, numeric: bool) -> pa.Table:
        """Return the columns, one row per row of the file.

        Args:
            columns: names, each once.
            numeric: the caller wants numbers: a text of `NOT_MEASURED` is null.

        Raises:
            DataError: the file is damaged.
        """
        ...


def unreadable(path: Path, kind: str, error: Exception) -> DataError:
    """Return the error for a damaged file, without the text of the library, which may quote cells."""
    return DataError(
        f"{path}: cannot be read as {kind} ({type(error).__name__}); it is damaged or of another kind. Export it again"
    )
