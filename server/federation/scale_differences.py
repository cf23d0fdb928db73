"""Warnings about sites whose expression is on another scale: TPM at one site, logarithms at another, or z-scores."""

import logging
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from memamba_core.data.genomics.expression_scale import ColumnScale, ScaleDifference, compare_scales
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.statistics import ColumnMoments

__all__ = ["find_scale_differences"]

_log = logging.getLogger(__name__)
_NAMED = 5
_FEWEST_PATIENTS = 10  # of a site that is compared: the means of fewer say little


def find_scale_differences(genes: Mapping[str, ColumnMoments], columns: Sequence[str]) -> list[str]:
    """Return and log one warning for each site whose expression differs in scale from that of most other sites.

    A site is compared with each other site and not with their sum, because one site on another scale widens the sum. Of
    two sites that differ, the second in alphabetical order is named, against the first.

    Args:
        genes: sums of each site over the columns. A site with fewer than 10 patients with expression is not compared.
        columns: molecular columns of the sums; only those of expression are compared.
    """
    expression = set(continuous_columns(columns))
    chosen = np.array([index for index, column in enumerate(columns) if column in expression], dtype=np.int64)
    scales = {
        site: ColumnScale(sums.count[chosen], sums.mean[chosen], sums.std[chosen])
        for site, sums in sorted(genes.items())
        if sums.count[chosen].max(initial=0.0) >= _FEWEST_PATIENTS
    }
    differences: dict[str, dict[str, ScaleDifference]] = {site: {} for site in scales}
    for site, other in combinations(scales, 2):  # both ways are equally doubtful
        if (difference := compare_scales(scales[site], scales[other])) is not None:
            differences[site][other] = differences[other][site] = difference
    warnings = []
    for site in list(scales)[1:] if len(scales) == 2 else scales:
        known = differences[site]
        apart = {other: abs(difference.shift) for other, difference in known.items() if difference.doubtful}
        if 2 * len(apart) > len(known):
            typical = sorted(apart, key=lambda other: (apart[other], other))[len(apart) // 2]
            numbers = compare_scales(scales[site], scales[typical])
            warnings.append(_describe(site, sorted(apart), len(known), typical, str(numbers)))
    for warning in warnings:
        _log.warning(warning)
    return warnings


def _describe(site: str, apart: Sequence[str], num_compared: int, typical: str, numbers: str) -> str:
    """Say how a site differs: with the numbers against the site from which it differs in the typical way."""
    named = ", ".join(apart[:_NAMED]) + (", ..." if len(apart) > _NAMED else "")
    others = "" if num_compared == 1 else f" ({len(apart)} of {num_compared} sites; the numbers are against {typical})"
    return (
        f"{site}: expression is on another scale than at {named}{others}: {numbers}. One table may hold TPM or counts "
        "where another holds logarithms or z-scores. Compare how the sites' molecular tables were normalised, and "
        "write them the same way"
    )
