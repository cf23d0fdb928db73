"""Suppress molecular columns in which few patients of a block differ from all others.

The gradient of a weight that one column feeds is a sum over the patients with a value there. If one patient of a block
carries a mutation, the update of that weight is this patient's residual: it discloses the carrier and the outcome. A
column therefore counts as not measured in a block unless at least `min_patients` patients have another value than the
most common one.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.data.records import Cohort

from .cohort_status import UsableBlock

__all__ = ["count_others", "suppress_rare_values"]


def suppress_rare_values(cohort: Cohort, blocks: Sequence[UsableBlock], fewest: int, fewest_known: int = 0) -> Cohort:
    """Return a cohort in which columns with rare values are NaN for all patients of the block.

    Args:
        cohort: the patients of these blocks.
        blocks: blocks that train.
        fewest: fewest patients of a block who must differ from the most common value of a column.
        fewest_known: fewest patients of a block who must have a value. With fewer, the block discloses no mean, and
            the site cannot check the agreed scaling.
    """
    table = cohort.genes
    if table is None or fewest <= 1:
        return cohort
    values_NC = table.values_NC.copy()
    for block in blocks:
        members = [r for r in cohort.records if r.case_id in block.case_ids]
        rows = np.array([r.gene_row for r in members if r.gene_row is not None], dtype=np.int64)
        if len(rows):
            known = (~np.isnan(values_NC[rows])).sum(axis=0)
            rare = (count_others(values_NC[rows]) < fewest) | (known < fewest_known)
            values_NC[np.ix_(rows, np.flatnonzero(rare))] = np.nan
    return replace(cohort, genes=replace(table, values_NC=values_NC))


def count_others(values_NC: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Count in each column the patients whose value is known and differs from the most common value.

    Where all values differ, no value is the most common, and every patient counts.
    """
    ordered = np.sort(values_NC, axis=0)  # NaN comes last
    known = (~np.isnan(ordered)).sum(axis=0)
    longest, run = np.zeros(values_NC.shape[1], dtype=np.int64), np.zeros(values_NC.shape[1], dtype=np.int64)
    for number, row in enumerate(ordered):
        run = np.where(row == ordered[number - 1], run + 1, 1) if number else run + 1
        longest = np.maximum(longest, np.where(np.isnan(row), 0, run))
    return np.asarray(known - np.where(longest > 1, longest, 0))
