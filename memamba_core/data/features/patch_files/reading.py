"""Read one file of patch features of any format: its facts without its data, and its rows in slide order."""

import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memamba_core.errors import DataError

from .causes import explain_failure
from .content import Content, PatchFileFacts, check_content
from .hdf5 import open_hdf5
from .numpy_files import open_npy, open_npz
from .torch_files import open_torch

__all__ = ["PATCH_SUFFIXES", "check_not_zero", "inspect_patch_file", "open_patch_file", "read_patches", "slide_order"]

_FORMATS = {".h5": open_hdf5, ".hdf5": open_hdf5, ".pt": open_torch, ".npy": open_npy, ".npz": open_npz}
PATCH_SUFFIXES = tuple(_FORMATS)
"""Extensions of feature files, in lower case; files are found in any case."""
BLOCK_ROWS = 4096  # rows converted at a time: 32 MiB of float64 at a width of 1,024
_DAMAGED = (
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, MemoryError, EOFError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, NotImplementedError),
)
"""Errors that the libraries raise for damaged files."""


def inspect_patch_file(path: Path, dataset: str | None = None) -> PatchFileFacts:
    """Read shape, type and attributes of a file of patch features, and make every check that needs no values.

    Args:
        path: see `read_patches`.
        dataset: see `read_patches`.

    Raises:
        DataError: the file is damaged, needs an HDF5 filter that is not installed, or holds no features of the forms
            that `read_patches` accepts.
    """
    with open_patch_file(path, dataset) as content:
        return content.facts


def read_patches(
    path: Path, positions: npt.NDArray[np.int64] | None = None, dataset: str | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """Read patches of one slide in slide order: sorted by y, then x, where coordinates are known.

    Args:
        path: `.h5` or `.hdf5` with a dataset `features` (or `feats`), at the top or in one group, and, where known,
            `coords`; `.pt` with a tensor of features, or a dictionary of these names; `.npy` with an array of features;
            `.npz` with arrays of these names. Features are float16, float32 or float64 of shape [N, F] or [1, N, F] (a
            `.pt` may hold bfloat16), or [F] for one vector of the whole slide. Coordinates have shape [N, 2] or
            [1, N, 2], x before y: whole level-0 pixels, or micrometres where an attribute says so (STAMP).
        positions: places in slide order of the patches to read, ascending; None reads all. Only these patches are
            in memory (in blocks, for `.h5`; `.pt` in the zip format and `.npy` are mapped, an older `.pt` and an `.npz`
            are loaded whole).
        dataset: name of the features in the file; None stands for the names above.

    Returns:
        Features [len(positions), F] as float32, and coordinates [len(positions), 2] as int64, in the unit of the file,
        or None.

    Raises:
        DataError: the file is damaged, is a pickle with code, or holds other shapes or types, values that are not
            finite in float32, or nothing but zeros.
    """
    with open_patch_file(path, dataset) as content:
        order = content.slide_order()
        rows = order if positions is None else order[positions]
        patches_PF = np.empty((len(rows), content.facts.width), np.float32)
        by_row = np.argsort(rows)
        for start, stop in _runs(rows[by_row]):
            first = int(rows[by_row[start]])
            with np.errstate(over="ignore"):  # a float64 that is too large becomes infinite and is refused below
                block = content.read(first, first + stop - start).astype(np.float32)
            if not np.isfinite(block).all():
                raise DataError(
                    f"{path}: features hold values that are not finite (row {first + 1} or up to "
                    f"{stop - start - 1} rows after it). Extract this slide again, or remove the file: a "
                    "slide without a file is left out"
                )
            patches_PF[by_row[start:stop]] = block
        if len(rows) and not patches_PF[0].any() and not patches_PF.any():
            check_not_zero(content)
        return patches_PF, None if content.coordinates is None else content.coordinates[rows]


def slide_order(path: Path, dataset: str | None = None) -> npt.NDArray[np.int64]:
    """Return the rows of the file in slide order: place p of `read_patches` is row `slide_order(path)[p]`.

    Args:
        path: see `read_patches`.
        dataset: see `read_patches`.

    Raises:
        DataError: as `inspect_patch_file`.
    """
    with open_patch_file(path, dataset) as content:
        return content.slide_order()


def check_not_zero(content: Content) -> None:
    """Read an open file up to the first value that is not zero.

    Raises:
        DataError: there is none, as after an extraction that reserved the rows and wrote nothing.
    """
    for start in range(0, content.facts.num_patches, BLOCK_ROWS):
        if content.read(start, min(start + BLOCK_ROWS, content.facts.num_patches)).any():
            return
    raise DataError(
        f"{content.path}: features hold nothing but zeros (rows: {content.facts.num_patches:,}). Extract this slide "
        "again, or remove the file: a slide without a file is left out"
    )


@contextmanager
def open_patch_file(path: Path, dataset: str | None = None) -> Iterator[Content]:
    """Open a file for a `with` block. No file stays open, so that stores can be pickled and forked.

    Raises:
        DataError: as `read_patches`, also for what the block reads.
    """
    try:
        with _FORMATS[path.suffix.lower()](path, dataset) as raw:
            yield check_content(path, raw)
    except DataError:
        raise
    except _DAMAGED as error:
        raise explain_failure(path, error) from error


def _runs(rows: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the runs [start, stop) of `rows` (ascending) that are consecutive and no longer than a block.

    The caller reads slices, because h5py takes several times as long for the same rows given as a list of indices.
    """
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    start = 0
    for end in ends:
        while start < end:
            stop = min(start + BLOCK_ROWS, end)
            yield start, stop
            start = stop
