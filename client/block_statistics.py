"""Sums of a strict site over its blocks: means and squares of continuous columns, computed once.

The moments of a block are computed for all its columns at once and kept on disk, so that every request over the block
gets the same bytes. Clip and transform are constants (`client.request_checks`). A block in which fewer patients than
the threshold have the modality gives zeros. Within a modality the count of each column is that of the modality, so that
the count does not say who lacks a value; a column that many patients lack gives its own count, or zeros.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.records import Cohort
from memamba_core.data.statistics import (
    ColumnMoments,
    column_moments,
    merge_moments,
    transform_features,
    transform_genes,
)
from memamba_core.errors import DataError
from memamba_core.io.atomic import write_atomically

from .cohort_status import UsableBlock
from .rare_values import count_others
from .site import Site

__all__ = ["sum_features", "sum_genes"]

_log = logging.getLogger(__name__)
FloatArray = npt.NDArray[np.float64]


def sum_genes(
    site: Site, blocks: Sequence[UsableBlock], columns: Sequence[str], config: AgreementConfig
) -> ColumnMoments:
    """Sum molecular columns over blocks.

    Args:
        site: a strict site.
        blocks: of the site.
        columns: continuous columns that the site declared.
        config: transform and clip, at their installed values.
    """
    declared = site.gene_columns
    position = {column: index for index, column in enumerate(declared)}
    chosen = np.array([position[column] for column in columns], dtype=np.int64)
    constants = f"{config.gene_transform}-{config.gene_statistics_clip:g}"
    parts, fewest = [], site.config.disclosure.min_patients
    for block in blocks:
        cohort = site.cohort.subset(block.case_ids)
        moments = _kept_once(
            site, f"{block.name}-genes-{constants}", partial(_genes_of, cohort, declared, config, fewest)
        )
        parts.append(_suppressed(moments, site, sum(map(cohort.has_genes, cohort.records))))
    total = merge_moments(parts, len(declared))
    return ColumnMoments(total.count[chosen], total.mean[chosen], total.m2[chosen])


def sum_features(site: Site, blocks: Sequence[UsableBlock]) -> ColumnMoments:
    """Sum feature columns over blocks; the rows of a patient count as one patient together.

    A block with a file that cannot be read gives zeros; the site's own log says which file.
    """
    assert site.cohort.features is not None
    width, parts = site.cohort.features.width, []
    for block in blocks:
        cohort = site.cohort.subset(block.case_ids)
        try:
            moments = _kept_once(site, f"{block.name}-features", partial(_features_of, site, cohort))
        except DataError as error:
            _log.error("the features of a block are left out of the sums: %s", error)
            continue
        parts.append(_suppressed(moments, site, sum(map(cohort.has_slides, cohort.records))))
    return merge_moments(parts, width)


def _genes_of(cohort: Cohort, columns: Sequence[str], config: AgreementConfig, fewest: int) -> ColumnMoments:
    assert cohort.genes is not None
    position = {column: index for index, column in enumerate(cohort.genes.columns)}
    rows = [record.gene_row for record in cohort.records if record.gene_row is not None]
    values = cohort.genes.values_NC[np.ix_(rows, [position[column] for column in columns])]
    transformed = transform_genes(values, config)
    return _without_rare(column_moments([transformed], len(columns)), transformed, fewest)


def _features_of(site: Site, cohort: Cohort) -> ColumnMoments:
    assert cohort.features is not None
    means, within = [], []
    for record in cohort.records:
        if not cohort.has_slides(record):
            continue
        bag = cohort.features.load(record, site.config.limits.max_patches)
        if bag is None:
            continue
        values = transform_features(bag.patches_PF.numpy())
        known = ~np.isnan(values)
        count = np.maximum(known.sum(axis=0), 1)
        filled = np.where(known, values, 0.0)
        mean = filled.sum(axis=0) / count
        means.append(np.where(known.any(axis=0), mean, np.nan))
        within.append(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    if not means:
        return ColumnMoments.zeros(cohort.features.width)
    between = column_moments([np.stack(means)], cohort.features.width)
    moments = ColumnMoments(between.count, between.mean, between.m2 + np.sum(within, axis=0))
    return _without_rare(moments, np.stack(means), site.config.disclosure.min_patients)


def _without_rare(moments: ColumnMoments, values_NC: FloatArray, fewest: int) -> ColumnMoments:
    """Suppress columns in which few patients differ from all others: mean and squares would give their values."""
    enough = count_others(values_NC) >= (fewest if fewest > 1 else 0)
    return ColumnMoments(*(np.where(enough, part, 0.0) for part in moments.arrays().values()))


def _suppressed(moments: ColumnMoments, site: Site, with_modality: int) -> ColumnMoments:
    """Give a column the count of its modality; suppress a column that too few patients have, or too few lack."""
    assert site.registry is not None
    fewest, lacking_at_most = site.registry.smallest.patients, site.config.disclosure.min_patients
    if with_modality < fewest:
        return ColumnMoments.zeros(len(moments.count))
    lacking = with_modality - moments.count
    count = np.where(lacking < lacking_at_most, with_modality, moments.count)
    scale = np.where(moments.count > 0, count / np.maximum(moments.count, 1.0), 0.0)
    enough = moments.count >= fewest
    return ColumnMoments(
        np.where(enough, count, 0.0), np.where(enough, moments.mean, 0.0), np.where(enough, moments.m2 * scale, 0.0)
    )


def _kept_once(site: Site, name: str, compute: Callable[[], ColumnMoments]) -> ColumnMoments:
    """Return kept moments; compute and keep them where there are none."""
    assert site.registry is not None
    if site.registry.folder is None:
        return compute()
    path = site.registry.folder / "cohort-sums" / f"{name}.npz"
    if not path.is_file():
        moments = compute()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with write_atomically(path) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **moments.arrays())
    with np.load(path, allow_pickle=False) as kept:
        return ColumnMoments(**{name: kept[name] for name in kept.files})
