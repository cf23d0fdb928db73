"""Look at a few rows and the coordinates of a feature file, to find extractions that went wrong."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from memamba_core.errors import DataError

from .content import Content, PatchFileFacts
from .hdf5 import find_unwritten_chunks
from .reading import check_not_zero, open_patch_file

__all__ = ["PatchFileSample", "sample_patch_file"]

SAMPLED_ROWS = 8


@dataclass(frozen=True)
class PatchFileSample:
    """Findings from a few rows of a file.

    Attributes:
        facts: as `inspect_patch_file` returns them.
        digest: hash of shape and sampled values; equal for copies, also between file formats and float types of one
            precision. Empty where there is no row.
        num_zero: sampled rows that hold nothing but zeros.
        constant: True if several rows were sampled and all hold the same values.
        num_repeated: rows whose coordinates an earlier row has.
    """

    facts: PatchFileFacts
    digest: str = ""
    num_zero: int = 0
    constant: bool = False
    num_repeated: int = 0


def sample_patch_file(path: Path, dataset: str | None = None) -> PatchFileSample:
    """Read `SAMPLED_ROWS` rows, evenly spaced in the order of the file, and all coordinates.

    Args:
        path: see `read_patches`.
        dataset: see `read_patches`.

    Raises:
        DataError: as `read_patches`; or rows were reserved in the file and never written.
    """
    with open_patch_file(path, dataset) as content:
        facts = content.facts
        if not facts.num_patches:
            return PatchFileSample(facts)
        _check_written(content)
        rows = np.unique(np.linspace(0, facts.num_patches - 1, SAMPLED_ROWS).round().astype(np.int64))
        with np.errstate(over="ignore"):
            values_RF = np.concatenate([content.read(r, r + 1) for r in rows.tolist()]).astype(np.float32)
            if not np.isfinite(values_RF).all():
                raise DataError(
                    f"{path}: features hold values that are not finite. Extract this slide again, or remove the "
                    "file: a slide without a file is left out"
                )
            half_RF = values_RF.astype(np.float16)  # the same for a copy in half precision
        zero_R = ~values_RF.any(axis=1)
        if zero_R.all():
            check_not_zero(content)
        return PatchFileSample(
            facts,
            hashlib.sha256(repr((facts.num_patches, facts.width)).encode() + half_RF.tobytes()).hexdigest(),
            int(zero_R.sum()),
            len(rows) > 1 and bool((values_RF == values_RF[0]).all()),
            _count_repeated(content),
        )


def _count_repeated(content: Content) -> int:
    if content.coordinates is None:
        return 0
    sorted_P2 = content.coordinates[content.slide_order()]
    return int((sorted_P2[1:] == sorted_P2[:-1]).all(axis=1).sum())


def _check_written(content: Content) -> None:
    if not isinstance(content.features, h5py.Dataset):
        return
    absent, wanted = find_unwritten_chunks(content.features)
    if absent:
        raise DataError(
            f"{content.path}: {absent:,} of {wanted:,} blocks of its features were never written; they would read as "
            "zeros. The extraction was broken off; extract this slide again"
        )
