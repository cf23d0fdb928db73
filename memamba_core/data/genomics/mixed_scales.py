"""Find two scales of expression within one table, for example TPM for some patients and log2 for the others."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from memamba_core.data.doubt import Doubt
from memamba_core.data.genomics.values import of_kind
from memamba_core.data.records import GeneTable

__all__ = ["find_mixed_scales"]

_FEWEST_COLUMNS: Final = 20
_ENOUGH_COLUMNS: Final = 4000  # a quantile over every fifth of 20,000 columns is the same, and takes a second less
_FEWEST_PATIENTS: Final = 6
_UPPER: Final = 0.9
"""Quantile of the absolute values of a patient, over columns, that measures the scale."""
_GAP: Final = math.log(2.2)
"""Smallest ratio between the lowest patient of the higher group and the highest of the lower one. Random subsets of
TCGA cohorts (6 to 100 patients, 10 to 600 columns) have ratios up to 2; log2 with TPM, counts or z-scores over 3."""
_GAP_OF_ONE: Final = math.log(5.0)  # a single patient may be an outlier
_NO_NEGATIVES, _MANY_NEGATIVES = 0.02, 0.15


def find_mixed_scales(file: str, table: GeneTable) -> Iterator[Doubt]:
    """Doubt a table in which two groups of patients have expression on different scales.

    The groups are separated by a gap in size in which no patient lies (counts, TPM and logarithms), or one group has
    negative values and the other has none (z-scores and logarithms).

    Args:
        file: name of the molecular table.
        table: its columns and values, one row per patient.
    """
    chosen = of_kind(table.columns, "rnaseq")
    values_NC = table.values_NC[:, chosen[:: 1 + len(chosen) // _ENOUGH_COLUMNS]]
    values_NC = values_NC[(~np.isnan(values_NC)).sum(axis=1) >= _FEWEST_COLUMNS]
    if values_NC.shape[1] < _FEWEST_COLUMNS or len(values_NC) < _FEWEST_PATIENTS:
        return
    remedy = "bring all patients to one scale: the model reads a patient of another scale as extreme in every gene"
    sizes = np.nanquantile(np.abs(values_NC), _UPPER, axis=1)
    split = _split(np.log(np.sort(sizes[sizes > 0]).astype(np.float64)))
    if split is not None:
        low, ratio = split
        yield Doubt(
            "expression",
            f"{low} and {int((sizes > 0).sum()) - low} patients of {file} have expression on different scales: over "
            f"{len(chosen)} columns, the values of the second group are typically {ratio:.3g} times as large, "
            "and no patient lies between (for example TPM and log2)",
            remedy,
        )
        return
    negative = (values_NC < 0).sum(axis=1) / (~np.isnan(values_NC)).sum(axis=1)
    none, many = int((negative <= _NO_NEGATIVES).sum()), int((negative >= _MANY_NEGATIVES).sum())
    if min(none, many) > 1 and none + many == len(negative):
        yield Doubt(
            "expression",
            f"{many} patients of {file} have negative values in many columns of expression, and {none} have none (for "
            "example z-scores and logarithms)",
            remedy,
        )


def _split(logs_N: npt.NDArray[np.float64]) -> tuple[int, float] | None:
    """Return the size of the lower of two groups and the ratio of their medians; None without a clear gap.

    Args:
        logs_N: logarithms, ascending.
    """
    if len(logs_N) < _FEWEST_PATIENTS:
        return None
    gaps = np.diff(logs_N)
    low = int(np.argmax(gaps)) + 1
    if gaps[low - 1] < (_GAP if 1 < low < len(logs_N) - 1 else _GAP_OF_ONE):
        return None
    return low, math.exp(float(np.median(logs_N[low:]) - np.median(logs_N[:low])))
