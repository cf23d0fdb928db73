"""Parquet files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from memamba_core.data.tables.source import unreadable

__all__ = ["ParquetSource", "open_parquet"]


@dataclass(frozen=True)
class ParquetSource:
    """Parquet file whose schema was read.

    Attributes:
        path: the file.
        columns: names of its columns.
    """

    path: Path
    columns: tuple[str, ...]

    @property
    def separator(self) -> None:
        """None: cells have no separator."""

    @property
    def hint(self) -> str:
        """Nothing: the file is one table."""
        return ""

    def read(self, columns: Sequence[str], *, numeric: bool) -> pa.Table:
        """Return the columns in the types of the file, as `TableSource.read` describes."""
        try:
            cells = pa.parquet.read_table(self.path, columns=list(columns), use_threads=False)
            cells.validate(full=True)  # damaged text would be an error far from here
        except (OSError, ValueError, pa.ArrowException) as error:
            raise unreadable(self.path, "parquet", error) from None
        return cells


def open_parquet(path: Path) -> ParquetSource:
    """Read the schema of a parquet file.

    Raises:
        DataError: the file is damaged or of another kind.
    """
    try:
        return ParquetSource(path, tuple(pa.parquet.read_schema(path).names))
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged name is a UnicodeDecodeError
        raise unreadable(path, "parquet", error) from None
