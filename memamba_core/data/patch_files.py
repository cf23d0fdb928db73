"""Read one file of patch features, `.h5` or `.pt`: its facts without its data, and its rows in slide order."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch

from memamba_core.errors import DataError

__all__ = ["PATCH_SUFFIXES", "PatchFileFacts", "inspect_patch_file", "read_patches", "slide_order"]

PATCH_SUFFIXES = (".h5", ".hdf5", ".pt")
FEATURE_NAMES = ("features", "feats")
BLOCK_ROWS = 4096  # rows converted at a time: 32 MiB of float64 at a width of 1,024
CHUNK_CACHE_BYTES = 1 << 25  # holds a compressed chunk while its rows are read one by one


@dataclass(frozen=True)
class PatchFileFacts:
    """Facts of a file that are known without reading its data.

    Attributes:
        num_patches: rows; 0 for a slide without tissue.
        width: width F of a row; 0 for an empty file without a width.
        encoder: attribute `encoder` of TRIDENT, None if it is not set.
        magnification: attribute `target_magnification` of TRIDENT, None if it is not set.
    """

    num_patches: int
    width: int
    encoder: str | None = None
    magnification: float | None = None


def inspect_patch_file(path: Path) -> PatchFileFacts:
    """Read shape and attributes of a file of patch features.

    Args:
        path: see `read_patches`.

    Raises:
        DataError: the file is damaged, or holds no features of the forms that `read_patches` accepts.
    """
    with _opened(path) as content:
        return content.facts


def read_patches(
    path: Path, positions: npt.NDArray[np.int64] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """Read patches of one slide in slide order: sorted by y, then x, where coordinates are known.

    Args:
        path: `.h5` with a dataset `features` (or `feats`) and, where known, `coords`; or `.pt` with a tensor
            of features, or a dictionary of these names. Features are float16, float32 or float64 of shape [N,
            F] or [1, N, F] (a `.pt` may hold bfloat16); coordinates are integers of shape [N, 2] or [1, N,
            2], x before y, in level-0 pixels.
        positions: places in slide order of the patches to read, ascending; None reads all. Only these patches are
            in memory (in blocks, for `.h5`; a `.pt` in the zip format is mapped, an older `.pt` is loaded whole).

    Returns:
        Features [len(positions), F] as float32, and coordinates [len(positions), 2] as int64 or None.

    Raises:
        DataError: the file is damaged, is a pickle with code, or holds other shapes or types, or values that are
            not finite in float32.
    """
    with _opened(path) as content:
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
        return patches_PF, None if content.coords_P2 is None else content.coords_P2[rows]


def slide_order(path: Path) -> npt.NDArray[np.int64]:
    """Return the rows of the file in slide order: place p of `read_patches` is row `slide_order(path)[p]`.

    Args:
        path: see `read_patches`.

    Raises:
        DataError: as `inspect_patch_file`.
    """
    with _opened(path) as content:
        return content.slide_order()


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


@dataclass(frozen=True)
class _Content:
    """An open file. `features` is an h5py dataset or a numpy array; `leading` if its shape is [1, N, F]."""

    facts: PatchFileFacts
    features: Any
    leading: bool
    coords_P2: npt.NDArray[np.int64] | None

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the rows [start, stop) in the type of the file."""
        return np.asarray(self.features[0, start:stop] if self.leading else self.features[start:stop])

    def slide_order(self) -> npt.NDArray[np.int64]:
        """Return the rows sorted by (y, x) where coordinates are known, else in the order of the file."""
        if self.coords_P2 is None:
            return np.arange(self.facts.num_patches, dtype=np.int64)
        return np.lexsort((self.coords_P2[:, 0], self.coords_P2[:, 1]))


@contextmanager
def _opened(path: Path) -> Iterator[_Content]:
    """Open a file for a `with` block. No file stays open, so that stores can be pickled and forked."""
    try:
        if path.suffix.lower() == ".pt":
            yield _content(path, *_load_pt(path), {})
        else:
            # No lock: the share may be read-only, and no process writes while a federation reads.
            with h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
                name = next((n for n in FEATURE_NAMES if isinstance(file.get(n), h5py.Dataset)), None)
                if name is None:
                    raise DataError(_without_features(path, file.keys()))
                coords = file["coords"][()] if "coords" in file else None
                attributes = dict(file.attrs) | (dict(file["coords"].attrs) if coords is not None else {})
                yield _content(path, file[name], coords, attributes | dict(file[name].attrs))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: the file was removed after the folder was read. Restore it, or start again") from None
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, error) from error


def _load_pt(path: Path) -> tuple[Any, Any]:
    """Return features and coordinates of a `.pt` file, without running code from it."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            # Before torch refuses a foreign pickle, it warns of a missing feature and asks for a report.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            # Mapped where the format allows, so that a limited bag touches only its own pages.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: is not a file of tensors alone; a pickle of other objects can run code and is not "
            "opened. Save it again with torch.save, from a tensor or from a dictionary of tensors "
            "`features` and `coords`"
        ) from None
    except Exception as error:  # for a damaged file torch raises errors of any type
        raise _damaged(path, error) from error
    coords = None
    if isinstance(loaded, dict):
        coords = loaded.get("coords")
        features = next((loaded[name] for name in FEATURE_NAMES if name in loaded), None)
        if features is None:
            raise DataError(_without_features(path, map(str, loaded)))
    else:
        features = loaded
    for value, expected in ((features, torch.Tensor), (coords, torch.Tensor | None)):
        if not isinstance(value, expected):
            raise DataError(
                f"{path}: holds a {type(value).__name__}; expected a tensor. Save a tensor, or a "
                "dictionary of tensors `features` and `coords`"
            )
    if features.dtype == torch.bfloat16:
        features = features.float()  # numpy has no such type
    return features.detach().numpy(), None if coords is None else coords.numpy()


def _content(path: Path, features: Any, coords: Any, attributes: dict[str, Any]) -> _Content:
    """Check shapes and types, and return the content of an open file."""
    shape, kind = tuple(features.shape), np.dtype(features.dtype)
    leading = len(shape) == 3 and shape[0] == 1
    if leading:
        shape = shape[1:]
    if shape == (0,):
        shape = (0, 0)
    if len(shape) != 2 or (shape[0] and not shape[1]):
        raise DataError(
            f"{path}: features have shape {list(features.shape)}; expected [patches, width]. Extract this slide again"
        )
    if kind.kind != "f":
        raise DataError(f"{path}: features are {kind}; expected float16, float32 or float64. Extract this slide again")
    if coords is not None:
        coords = np.asarray(coords)
        if coords.ndim == 3 and coords.shape[0] == 1:
            coords = coords[0]
        if coords.size == 0:
            coords = coords.reshape(0, 2).astype(np.int64)
        if coords.shape != (shape[0], 2) or coords.dtype.kind not in "iu":
            raise DataError(
                f"{path}: coords are {coords.dtype} of shape {list(coords.shape)}; expected integers of shape "
                f"[{shape[0]}, 2], one (x, y) per patch. Extract this slide again"
            )
        coords = coords.astype(np.int64)
    encoder, magnification = attributes.get("encoder"), attributes.get("target_magnification")
    facts = PatchFileFacts(
        num_patches=shape[0],
        width=shape[1],
        encoder=None if encoder is None else _attribute_text(encoder),
        magnification=None if magnification is None else float(_attribute_text(magnification)),
    )
    return _Content(facts, features, leading, coords)


def _attribute_text(value: Any) -> str:
    """Return an HDF5 attribute as text: programs store text, bytes or numbers."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path}: cannot be read ({type(error).__name__}); it is truncated or damaged. Copy or extract this "
        "slide again, or remove the file: a slide without a file is left out"
    )


def _without_features(path: Path, names: Any) -> str:
    listed = ", ".join(sorted(names)[:8]) or "nothing"
    return (
        f"{path}: holds {listed}; expected a dataset `features` (or `feats`). Point data.features.path to the "
        "encoder's folder, not to the folder of patch coordinates"
    )
