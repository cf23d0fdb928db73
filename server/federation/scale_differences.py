"""Warnings about sites whose expression is on another scale: TPM at one site, logarithms at another, or z-scores."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from memamba_core.data.expression_scale import ColumnScale, ScaleDifference, compare_scales
from memamba_core.data.genomics import continuous_columns
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
    judged = list(scales)[1:] if len(scales) == 2 else list(scales)
    warnings = []
    for site in judged:
        pairs = {other: compare_scales(scales[site], scales[other]) for other in scales if other != site}
        known = {other: difference for other, difference in pairs.items() if difference is not None}
        apart = {other: difference for other, difference in known.items() if difference.doubtful}
        if 2 * len(apart) > len(known):
            warnings.append(_describe(site, apart, len(known)))
    for warning in warnings:
        _log.warning(warning)
    return warnings


def _describe(site: str, apart: Mapping[str, ScaleDifference], num_compared: int) -> str:
    """Say with the numbers how a site differs: those against the site from which it differs in the typical way."""
    ranked = sorted(apart, key=lambda other: (abs(apart[other].shift), other))
    typical = ranked[len(ranked) // 2]
    named = ", ".join(sorted(apart)[:_NAMED]) + (", ..." if len(apart) > _NAMED else "")
    others = "" if num_compared == 1 else f" ({len(apart)} of {num_compared} sites; the numbers are against {typical})"
    return (
        f"{site}: expression is on another scale than at {named}{others}: {apart[typical]}. One table may hold TPM or "
        "counts where another holds logarithms or z-scores. Compare how the sites' molecular tables were normalised, "
        "and write them the same way"
    )
