"""Open an HDF5 file of patch features: CLAM, TRIDENT, STAMP, or datasets in groups."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from memamba_core.errors import DataError

from .content import ATTRIBUTE_NAMES, FEATURE_NAMES, RawContent, without_features

__all__ = ["find_unwritten_chunks", "open_hdf5"]

CHUNK_CACHE_BYTES = 1 << 25  # holds a compressed chunk while its rows are read one by one
DEEPEST_GROUP = 4
MOST_OBJECTS = 1000  # a file of features holds a handful; the bound ends the search in any other file
FILTER_NAMES = {
    4: "szip",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32024: "sz3",
    32026: "blosc2",
}


@contextmanager
def open_hdf5(path: Path, dataset: str | None) -> Iterator[RawContent]:
    """Open a file for a `with` block.

    Args:
        path: the file.
        dataset: name of the features; None looks for `features` or `feats`, first at the top, then in the groups.

    Raises:
        DataError: the file holds no features, features in several places, or features that need a filter that is not
            installed.
        OSError, RuntimeError, ValueError, TypeError, KeyError: as h5py raises them for a damaged file.
    """
    # No lock: the share may be read-only, and no process writes while a federation reads.
    with h5py.File(path, "r", locking=False, rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
        name = _choose_features(path, file, dataset)
        features = file[name]
        group, _, _ = name.rpartition("/")
        coords = next((file[c] for c in (f"{group}/coords", "coords") if isinstance(file.get(c), h5py.Dataset)), None)
        for data in (features, coords):
            if data is not None:
                _check_filters(path, data)
        attributes: dict[str, Any] = {}
        for owner in (file, features.parent, coords, features):
            if owner is not None:
                attributes |= {key: owner.attrs[key] for key in owner.attrs if key in ATTRIBUTE_NAMES}
        elsewhere = features.is_virtual or features.external is not None
        yield RawContent(features, coords, attributes, name, None if elsewhere else file.id.get_filesize())


def find_unwritten_chunks(features: h5py.Dataset) -> tuple[int, int]:
    """Return the number of chunks that the file lacks, and the number of chunks that its shape needs; 0, 0 unchunked.

    Chunks are lacking where a program reserved the rows and was stopped before it wrote them. They read as zeros.
    """
    if features.chunks is None or features.is_virtual:
        return 0, 0
    wanted = 1
    for length, step in zip(features.shape, features.chunks, strict=True):
        wanted *= -(-length // step)
    return max(0, wanted - features.id.get_num_chunks()), wanted


def _choose_features(path: Path, file: h5py.File, dataset: str | None) -> str:
    """Return the name of the dataset of features."""
    if dataset is not None:
        if isinstance(file.get(dataset), h5py.Dataset):
            return dataset
        raise DataError(
            f"{path}: has no dataset {dataset!r}, which data.features.dataset names; it holds "
            f"{', '.join(_datasets(file)) or 'no dataset'}. Correct the setting"
        )
    for name in FEATURE_NAMES:
        if isinstance(file.get(name), h5py.Dataset):
            return name
    datasets = _datasets(file)
    nested = [name for name in datasets if name.rpartition("/")[2] in FEATURE_NAMES]
    if len(nested) == 1:
        return nested[0]
    if nested:
        raise DataError(
            f"{path}: holds features in {len(nested)} places, {', '.join(nested[:4])}. Name the one to use in "
            "data.features.dataset"
        )
    if datasets and all(data.ndim == 1 and data.dtype.kind == "f" for data in datasets.values()):
        raise DataError(
            f"{path}: holds {len(datasets)} vectors, one for each slide, as STAMP's slide encoders write them. Write "
            "one file per slide with a dataset `feats`, or a table with data.features.key"
        )
    others = [
        f"{name} ({data.dtype} {list(data.shape)})"
        for name, data in datasets.items()
        if data.ndim in (2, 3) and data.dtype.kind == "f" and name.rpartition("/")[2] != "coords"
    ]
    raise without_features(path, list(file.keys()), others)


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets of the file by name, down to a depth; links to other files are not followed."""
    found: dict[str, h5py.Dataset] = {}
    open_groups, seen = [("", file)], 0
    for _ in range(DEEPEST_GROUP):
        below = []
        for prefix, group in open_groups:
            for key in group:
                seen += 1
                if seen > MOST_OBJECTS:
                    return found
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    continue
                item = group[key]
                if isinstance(item, h5py.Dataset):
                    found[f"{prefix}{key}"] = item
                elif isinstance(item, h5py.Group):
                    below.append((f"{prefix}{key}/", item))
        open_groups = below
    return found


def _check_filters(path: Path, data: h5py.Dataset) -> None:
    """Refuse a dataset whose values need a filter that this installation lacks."""
    pipeline = data.id.get_create_plist()
    for index in range(pipeline.get_nfilters()):
        code, _, _, name = pipeline.get_filter(index)
        if h5py.h5z.filter_avail(code) or (_load_plugins() and h5py.h5z.filter_avail(code)):
            continue
        label = FILTER_NAMES.get(code) or name.decode(errors="replace") or "unknown"
        raise DataError(
            f"{path}: needs HDF5 filter {code} ({label}), which is not installed. Run `pip install hdf5plugin`, or "
            "rewrite the file with gzip (`h5repack -f GZIP=4 OLD NEW`)"
        )


def _load_plugins() -> bool:
    """Register the filters of the package hdf5plugin, where it is installed."""
    if importlib.util.find_spec("hdf5plugin") is None:
        return False
    importlib.import_module("hdf5plugin")
    return True
