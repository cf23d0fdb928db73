"""Rows in messages: counted from 1, the first row below the header."""

import numpy as np
import numpy.typing as npt

__all__ = ["describe_rows"]


def describe_rows(bad: npt.NDArray[np.bool_]) -> str:
    """Describe the rows where `bad` is True, counted from 1: `row 3`, or `rows 3, 8, 9 and 14 more`."""
    rows = [str(row + 1) for row in np.flatnonzero(bad)]
    assert rows, "no row is bad"
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(rows[:3])}{more}"
