"""Compute the sums that a site discloses before round 1, and merge the sums of several sites.

Scaling and time bins follow from these sums alone (`memamba_core.data.agreement`). Values are transformed and clipped
before summing, so that one patient cannot dominate a column.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.survival.time_bins import grid_cells

__all__ = [
    "FEATURE_CLIP",
    "ColumnMoments",
    "column_moments",
    "count_events",
    "merge_moments",
    "public_gene_scale",
    "transform_features",
    "transform_genes",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FEATURE_CLIP: Final = 15.0
"""Clip of log-transformed slide-level features before summing: areas reach 1e8, log1p(1e8) = 18."""


@dataclass(frozen=True)
class ColumnMoments:
    """Count, mean and summed squared deviation (M2) of each column, without NaN cells.

    `merge_moments` adds up the moments of different sites.
    """

    count: FloatArray
    mean: FloatArray
    m2: FloatArray

    @classmethod
    def zeros(cls, width: int) -> Self:
        """Return the moments that a site under its threshold sends."""
        return cls(np.zeros(width), np.zeros(width), np.zeros(width))

    def arrays(self) -> dict[str, FloatArray]:
        """Return the arrays by the names that they have in a message."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    @property
    def std(self) -> FloatArray:
        """Population standard deviation; 0 for a column without a value."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1.0))


def transform_genes(values_NC: npt.NDArray[Any], config: AgreementConfig) -> FloatArray:
    """Transform molecular values: sign(x) log(1 + |x|) by default, clipped to +-`gene_statistics_clip`; not scaled."""
    values = np.asarray(values_NC, dtype=np.float64)
    if config.gene_transform == "signed_log":
        values = signed_log(values)
    return np.clip(values, -config.gene_statistics_clip, config.gene_statistics_clip)


def public_gene_scale(config: AgreementConfig) -> float:
    """Return the scale of a molecular column whose moments no site discloses; its center is 0."""
    return max(1.0, config.gene_scale_floor)


def signed_log(values: FloatArray) -> FloatArray:
    """Compute sign(x) log(1 + |x|): linear near zero, logarithmic in the tails."""
    return np.sign(values) * np.log1p(np.abs(values))


def transform_features(rows_PF: npt.NDArray[Any]) -> FloatArray:
    """Transform features before scaling: signed log (their scales differ by 1e8), clipped."""
    return np.clip(signed_log(np.asarray(rows_PF, dtype=np.float64)), -FEATURE_CLIP, FEATURE_CLIP)


def column_moments(blocks: Iterable[npt.NDArray[Any]], width: int) -> ColumnMoments:
    """Compute column moments over blocks of rows (each [n, width], NaN where not measured), one block at a time."""
    return merge_moments([_moments_of(np.asarray(block, dtype=np.float64)) for block in blocks], width)


def _moments_of(block_NC: FloatArray) -> ColumnMoments:
    known = ~np.isnan(block_NC)
    count = known.sum(axis=0).astype(np.float64)
    filled = np.where(known, block_NC, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1.0)
    return ColumnMoments(count, mean, (np.where(known, filled - mean, 0.0) ** 2).sum(axis=0))


def count_events(times: Sequence[float], events: Sequence[bool], config: AgreementConfig) -> dict[str, IntArray]:
    """Count events and censored patients per cell of the time grid (`grid_step_months` wide, the last cell open)."""
    cells = grid_cells(np.asarray(times, dtype=np.float64), config.grid_step_months, config.grid_num_cells)
    happened = np.asarray(events, dtype=bool)
    return {
        "event": np.bincount(cells[happened], minlength=config.grid_num_cells).astype(np.int64),
        "censored": np.bincount(cells[~happened], minlength=config.grid_num_cells).astype(np.int64),
    }


def merge_moments(parts: Sequence[ColumnMoments], width: int) -> ColumnMoments:
    """Add up moments of disjoint sets of rows (Chan, Golub & LeVeque 1983), in the order given."""
    total = ColumnMoments.zeros(width)
    for part in parts:
        count = total.count + part.count
        share = part.count / np.maximum(count, 1.0)
        delta = part.mean - total.mean
        m2 = total.m2 + part.m2 + delta**2 * total.count * share
        total = ColumnMoments(count, total.mean + delta * share, m2)
    return total
