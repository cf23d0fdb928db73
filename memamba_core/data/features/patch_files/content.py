"""Facts, checks and rows of an open file of patch features, whatever its format."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.errors import DataError

__all__ = ["FEATURE_NAMES", "Content", "PatchFileFacts", "RawContent", "check_content", "without_features"]

FEATURE_NAMES = ("features", "feats")
ORIGIN_NAMES = ("patch_size", "overlap", "tile_size_um", "tile_size_px", "tile_size", "unit")
"""Attributes of CLAM, TRIDENT and STAMP that are the same in all files of one extraction."""
ATTRIBUTE_NAMES = (*ORIGIN_NAMES, "encoder", "extractor", "feat_type", "stamp_version", "target_magnification")
WIDEST = 65_536
ROW_TOLERANCE_UM = 0.5  # STAMP's float32 coordinates of one row of tiles differ by rounding
LARGEST_COORDINATE = 2.0**53
MOST_EXPANSION = 4096  # decoded bytes per stored byte; gzip reaches 1,032
FREE_BYTES = 1 << 20


@dataclass(frozen=True)
class PatchFileFacts:
    """Facts of a file that are known without reading its data.

    Attributes:
        num_patches: rows; 0 for a slide without tissue.
        width: width F of a row; 0 for an empty file without a width.
        encoder: attribute `encoder` of TRIDENT or `extractor` of STAMP, None if neither is set.
        magnification: attribute `target_magnification` of TRIDENT, or that of a group such as `20x`; None if unknown.
        slide_level: True if the one row describes the whole slide, as slide encoders write it.
        dataset: name of the dataset that holds the features; empty for a bare array or tensor.
        dtype: type of the values in the file.
        origin: attributes of `ORIGIN_NAMES` that the file has, and `target_magnification`.
    """

    num_patches: int
    width: int
    encoder: str | None = None
    magnification: float | None = None
    slide_level: bool = False
    dataset: str = ""
    dtype: str = "float32"
    origin: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class RawContent:
    """Arrays of an open file before any check.

    Attributes:
        features: array of any library, with `shape` and `dtype`; slices are read when they are taken.
        coords: such an array, or None.
        attributes: those of `ATTRIBUTE_NAMES` that the file has.
        dataset: name of the features, empty for a bare array.
        stored_bytes: most bytes that the features can occupy in the file; None where that is unknown.
    """

    features: Any
    coords: Any = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    stored_bytes: int | None = None


@dataclass(frozen=True)
class Content:
    """An open file whose shapes and types were checked."""

    path: Path
    facts: PatchFileFacts
    features: Any
    coords: Any

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the rows [start, stop) in the type of the file."""
        dimensions = len(self.features.shape)
        if dimensions == 1:
            return np.asarray(self.features[:])[None][start:stop]
        return np.asarray(self.features[0, start:stop] if dimensions == 3 else self.features[start:stop])

    @cached_property
    def coordinates(self) -> npt.NDArray[np.int64] | None:
        """Coordinates as whole numbers; None where unknown."""
        values_P2 = self.precise_coordinates
        return None if values_P2 is None else np.rint(values_P2).astype(np.int64)

    def slide_order(self) -> npt.NDArray[np.int64]:
        """Return the rows sorted by (y, x) where coordinates are known, else in the order of the file."""
        values_P2 = self.precise_coordinates
        if values_P2 is None:
            return np.arange(self.facts.num_patches, dtype=np.int64)
        return np.lexsort((values_P2[:, 0], values_P2[:, 1] if values_P2.dtype.kind == "i" else _rows(values_P2[:, 1])))

    @cached_property
    def precise_coordinates(self) -> npt.NDArray[Any] | None:
        """Coordinates as the file has them: int64, or float64 in micrometres."""
        if self.coords is None:
            return None
        values_P2 = np.asarray(self.coords[()]).reshape(-1, 2)
        if values_P2.dtype.kind in "iu" or not len(values_P2):
            return values_P2.astype(np.int64)
        values_P2 = values_P2.astype(np.float64)
        if not (np.abs(values_P2) < LARGEST_COORDINATE).all():
            raise DataError(f"{self.path}: coords hold values that are not finite. Extract this slide again")
        return values_P2.astype(np.int64) if (values_P2 == np.rint(values_P2)).all() else values_P2


def _rows(y_P: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return for each patch the number of its row of tiles: y values within the tolerance are one row."""
    order = np.argsort(y_P, kind="stable")
    rows = np.empty(len(y_P), np.int64)
    rows[order] = np.cumsum(np.diff(y_P[order], prepend=y_P[order[:1]]) > ROW_TOLERANCE_UM)
    return rows


def check_content(path: Path, raw: RawContent) -> Content:
    """Check shapes, types and sizes, and return the content of an open file.

    Raises:
        DataError: the arrays are none that `read_patches` accepts.
    """
    shape, kind = tuple(int(length) for length in raw.features.shape), np.dtype(raw.features.dtype)
    texts = {name: text for name, value in raw.attributes.items() if (text := _text(value)) is not None}
    num_rows, width = _rows_and_width(path, shape)
    if kind.kind != "f":
        raise DataError(f"{path}: features are {kind}; expected float16, float32 or float64. Extract this slide again")
    claimed = num_rows * width * kind.itemsize
    if raw.stored_bytes is not None and claimed > MOST_EXPANSION * raw.stored_bytes + FREE_BYTES:
        raise DataError(
            f"{path}: claims {num_rows:,} patches of width {width:,} ({claimed:,} bytes), but has "
            f"{raw.stored_bytes:,} bytes. The extraction was broken off; extract this slide again"
        )
    num_coords = None if raw.coords is None else _number_of_coords(raw.coords)
    slide_level = (
        num_rows == 1
        and num_coords != 1
        and (len(shape) == 1 or num_coords is not None or texts.get("feat_type") in ("slide", "patient"))
    )
    content = Content(
        path,
        PatchFileFacts(
            num_patches=num_rows,
            width=width,
            encoder=_encoder(raw.dataset, texts),
            magnification=_magnification(texts.get("target_magnification"), raw.dataset),
            slide_level=slide_level,
            dataset=raw.dataset,
            dtype=getattr(raw.features, "type_in_file", str(kind)),
            origin=tuple((n, texts[n]) for n in (*ORIGIN_NAMES, "target_magnification") if n in texts),
        ),
        raw.features,
        None if slide_level else raw.coords,
    )
    if content.coords is not None:
        _check_coords(content, num_coords, texts)
    return content


def without_features(path: Path, names: list[str], others: list[str]) -> DataError:
    """Return the error for a file without a dataset of features.

    Args:
        path: the file.
        names: what it holds.
        others: those of its datasets that could be features, with type and shape.
    """
    listed = ", ".join(sorted(names)[:8]) or "nothing"
    remedy = "Point data.features.path to the encoder's folder, not to the folder of patch coordinates"
    if others:
        remedy += f"; or, if {' or '.join(others[:4])} is meant, name it in data.features.dataset"
    return DataError(f"{path}: holds {listed}; expected a dataset `features` (or `feats`). {remedy}")


def _rows_and_width(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    rows = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if rows == (0,):
        return 0, 0
    if len(rows) == 1 and rows[0] <= WIDEST:
        return 1, rows[0]
    if len(rows) != 2 or (rows[0] and not rows[1]):
        raise DataError(
            f"{path}: features have shape {list(shape)}; expected [patches, width], or [width] for one vector of the "
            "whole slide. Extract this slide again"
        )
    return rows[0], rows[1]


def _number_of_coords(coords: Any) -> int | None:
    """Return the number of (x, y) pairs, or None where the shape is another."""
    shape = tuple(coords.shape)
    shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if math.prod(shape) == 0:
        return 0
    if shape == (2,):
        return 1
    return int(shape[0]) if len(shape) == 2 and shape[1] == 2 else None


def _check_coords(content: Content, number: int | None, texts: Mapping[str, str]) -> None:
    path, kind, wanted = content.path, np.dtype(content.coords.dtype), content.facts.num_patches
    if number != wanted or (number and kind.kind not in "iuf"):
        raise DataError(
            f"{path}: coords are {kind} of shape {list(content.coords.shape)}; expected integers of shape "
            f"[{wanted}, 2], one (x, y) per patch. Extract this slide again"
        )
    in_micrometres = texts.get("unit", "").casefold() in ("um", "µm", "μm") or "tile_size_um" in texts
    if number and kind.kind == "f" and not in_micrometres:
        values_P2 = content.precise_coordinates
        if values_P2 is not None and values_P2.dtype.kind == "f":
            raise DataError(
                f"{path}: coords are {kind} with fractions, without an attribute `unit`; expected integers (level-0 "
                "pixels), or micrometres with the attribute unit='um', as STAMP writes them. Add the attribute, or "
                "extract this slide again"
            )


def _encoder(dataset: str, texts: Mapping[str, str]) -> str | None:
    """Return the recorded encoder. Other programs than STAMP call themselves `extractor`."""
    if "encoder" in texts:
        return texts["encoder"]
    by_stamp = "stamp_version" in texts or dataset.rpartition("/")[2] == "feats"
    return texts.get("extractor") if by_stamp else None


def _magnification(recorded: str | None, dataset: str) -> float | None:
    """Return the number in an attribute such as `20` or `20x`, or in a group such as `20x/features`."""
    group = re.search(r"(?:^|/)(\d+(?:\.\d+)?)x(?=[/_])", dataset, re.IGNORECASE)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*x?\s*", recorded or "", re.IGNORECASE) or group
    return None if match is None else float(match[1])


def _text(value: Any) -> str | None:
    """Return an attribute as text; programs store text, bytes, numbers or arrays of one of them."""
    if isinstance(value, np.ndarray):
        value = value.item() if value.size == 1 else None
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(value) if isinstance(value, str | int | float | np.number) else None
