"""Open a `.npy` or `.npz` file of patch features; objects in it, which can run code, are refused."""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from memamba_core.errors import DataError

from .content import ATTRIBUTE_NAMES, FEATURE_NAMES, FREE_BYTES, MOST_EXPANSION, RawContent, without_features

__all__ = ["open_npy", "open_npz"]


@contextmanager
def open_npy(path: Path, dataset: str | None) -> Iterator[RawContent]:
    """Open an array [N, F] for a `with` block. The file is mapped: only the pages that are read are in memory.

    Raises:
        DataError: the file holds objects.
        OSError, ValueError: as numpy raises them for a damaged file.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        if "Python objects" in str(error):
            raise _refuse_objects(path) from None
        raise
    yield RawContent(array)


@contextmanager
def open_npz(path: Path, dataset: str | None) -> Iterator[RawContent]:
    """Open an archive with `features` (or `feats`, or a single array) and `coords` for a `with` block.

    Headers are read at once. An array is loaded whole when rows of it are read.

    Raises:
        DataError: the archive holds no features, or an array of another size than its header says.
        OSError, ValueError, KeyError, zipfile.BadZipFile: as zipfile and numpy raise them for a damaged file.
    """
    with zipfile.ZipFile(path) as archive:
        names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        wanted = (dataset,) if dataset else FEATURE_NAMES
        others = [name for name in names if name not in ("coords", *ATTRIBUTE_NAMES)]
        name = next((n for n in wanted if n in names), others[0] if len(others) == 1 and not dataset else None)
        if name is None:
            raise without_features(path, names, others)
        coords = _Member(path, archive, "coords") if "coords" in names and name != "coords" else None
        texts = {key: _Member(path, archive, key) for key in ATTRIBUTE_NAMES if key in names}
        attributes = {key: member.array for key, member in texts.items() if math.prod(member.shape) == 1}
        yield RawContent(_Member(path, archive, name), coords, attributes, name)


class _Member:
    """One array of an archive, which is decompressed when rows of it are read."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, name: str) -> None:
        self._open: Callable[[], IO[bytes]] = lambda: archive.open(f"{name}.npy")
        info = archive.getinfo(f"{name}.npy")
        with self._open() as file:
            version = np.lib.format.read_magic(file)
            old = version == (1, 0)
            header = np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0
            self.shape, _, self.dtype = header(file)
            size = file.tell() + math.prod(self.shape) * self.dtype.itemsize
        if self.dtype.hasobject:
            raise _refuse_objects(path)
        if size != info.file_size or size > MOST_EXPANSION * info.compress_size + FREE_BYTES:
            raise DataError(
                f"{path}: array {name} of shape {list(self.shape)} needs {size:,} bytes, but the archive has "
                f"{info.file_size:,} ({info.compress_size:,} compressed). Write the file again"
            )

    @cached_property
    def array(self) -> npt.NDArray[Any]:
        with self._open() as file:
            array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        rows: npt.NDArray[Any] = self.array[index]
        return rows


def _refuse_objects(path: Path) -> DataError:
    return DataError(
        f"{path}: holds Python objects, which can run code and are not opened. Save an array of float32 with numpy.save"
    )
