"""Choose the rows to keep of a bag that is larger than the limit of a site."""

import numpy as np
import numpy.typing as npt

__all__ = ["choose_rows"]


def choose_rows(num_rows: int, max_rows: int | None, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """Return ascending indices of the rows to keep, exactly min(max_rows, num_rows) of them.

    Rows are counted over all slides of a patient, one slide after the other, so that each slide keeps its share: evenly
    spaced rows give each slide its proportion to within one row, random rows give every row the same chance.

    Args:
        num_rows: rows of all slides together.
        max_rows: most rows to keep; None keeps all.
        rng: samples without replacement; None spaces the rows evenly.
    """
    if max_rows is None or num_rows <= max_rows:
        return np.arange(num_rows, dtype=np.int64)
    if max_rows < 1:
        raise ValueError(f"max_patches is {max_rows}; expected at least 1, or None for all")
    if rng is None:
        # The middle of each of max_rows equal intervals, in integers: floats could give a row twice.
        return (2 * np.arange(max_rows, dtype=np.int64) + 1) * num_rows // (2 * max_rows)
    return np.sort(rng.choice(num_rows, max_rows, replace=False, shuffle=False).astype(np.int64))
