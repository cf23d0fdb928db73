"""Suppress columns of tables in which few patients of a block differ from all others.

The gradient of a weight that one column feeds is a sum over the patients with a value there. If one patient of a block
carries a mutation, the update of that weight is this patient's residual: it discloses the carrier and the outcome. A
column therefore counts as not measured in a block unless at least `min_patients` patients have another value than the
most common one. The rule holds for molecular columns and for the columns of a slide-level table.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.data.features.slide_tables import SlideTable
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
    if fewest <= 1:
        return cohort
    members = [[r for r in cohort.records if r.case_id in block.case_ids] for block in blocks]
    if (table := cohort.genes) is not None:
        rows_of_blocks = [[[r.gene_row] for r in block if r.gene_row is not None] for block in members]
        values_NC = _without_rare(table.values_NC, rows_of_blocks, fewest, fewest_known)
        cohort = replace(cohort, genes=replace(table, values_NC=values_NC))
    if isinstance(slides := cohort.features, SlideTable):
        rows_of_blocks = [[list(rows) for r in block if (rows := slides.rows_of(r))] for block in members]
        values_SF = _without_rare(slides.values_SF, rows_of_blocks, fewest, fewest_known)
        cohort = replace(cohort, features=slides.with_values(values_SF))
    return cohort


def _without_rare(
    values_NC: npt.NDArray[np.float32],
    rows_of_blocks: Sequence[Sequence[Sequence[int]]],
    fewest: int,
    fewest_known: int,
) -> npt.NDArray[np.float32]:
    """Return the values with NaN in the rare columns of each block, whose patients have one or several rows each."""
    values_NC = values_NC.copy()
    for patients in rows_of_blocks:
        if not patients:
            continue
        rows = np.concatenate([np.asarray(own, dtype=np.int64) for own in patients])
        block_NC, first = values_NC[rows], np.cumsum([0, *(len(own) for own in patients[:-1])])
        differs_NC = np.isfinite(block_NC) & (block_NC != _most_common(block_NC))
        others = np.logical_or.reduceat(differs_NC, first, axis=0).sum(axis=0)
        known = np.logical_or.reduceat(np.isfinite(block_NC), first, axis=0).sum(axis=0)
        values_NC[np.ix_(rows, np.flatnonzero((others < fewest) | (known < fewest_known)))] = np.nan
    return values_NC


def count_others(values_NC: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Count in each column the patients (one row each) whose value is known and differs from the most common value.

    Where all values differ, no value is the most common, and every patient counts.
    """
    known_NC = ~np.isnan(values_NC)
    return np.asarray((known_NC & (values_NC != _most_common(values_NC))).sum(axis=0))


def _most_common(values_NC: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return the most common value of each column, the smallest of equally common ones; NaN where all values differ."""
    ordered = np.sort(values_NC, axis=0)  # NaN comes last
    longest, run = np.ones(values_NC.shape[1], dtype=np.int64), np.ones(values_NC.shape[1], dtype=np.int64)
    common = np.full(values_NC.shape[1], np.nan)
    for number, row in enumerate(ordered):
        if number:
            run = np.where(row == ordered[number - 1], run + 1, 1)
        longer = (run > longest) & ~np.isnan(row)
        longest, common = np.where(longer, run, longest), np.where(longer, row, common)
    return common
