"""Build one agreement from the declarations of the sites and their sums: the coordinator's half of the handshake."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.statistics import FEATURE_CLIP, ColumnMoments, public_gene_scale
from memamba_core.errors import AgreementError
from memamba_core.survival.time_bins import edges_from_event_counts
from memamba_core.wire.protocol import FactsReply

from .exchange import quote

__all__ = ["build_agreement", "check_declarations", "choose_time_bins", "common_gene_columns", "scales_features"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)


def check_declarations(facts: Sequence[FactsReply]) -> None:
    """Check that sites declare the same encoder, width and columns of features.

    Units and event coding may differ, because each site converts its own; the model's inputs must be the same.

    Raises:
        AgreementError: sites differ; the text names the sites on either side and the remedy.
    """
    with_slides = [f for f in facts if f.feature_width]
    for name, remedy in (
        (
            "encoder",
            "extract all features with one encoder at one magnification, or correct features.encoder in site.yaml",
        ),
        ("feature_width", "extract all features with one encoder"),
        ("feature_columns", "export the slide-level tables with the same columns in the same order"),
        ("feature_families", "use the same groups_file at every site"),
    ):
        by_value: dict[Any, list[str]] = {}
        for fact in with_slides:
            by_value.setdefault(getattr(fact, name), []).append(fact.site)
        if len(by_value) > 1:
            sides = "; ".join(f"{_short(value)} at {', '.join(sites)}" for value, sites in by_value.items())
            raise AgreementError(f"sites differ in {name}: {sides}. Remedy: {remedy}")


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{len(value)} columns"
    return quote(value) if isinstance(value, str) else str(value)


def common_gene_columns(facts: Sequence[FactsReply]) -> tuple[str, ...]:
    """Return the columns that every site with molecular data has, in alphabetical order.

    `find_lost_columns` warns about the others.

    Raises:
        AgreementError: the sites have no column in common.
    """
    with_genes = [f for f in facts if f.gene_columns]
    if not with_genes:
        return ()
    union = set().union(*(f.gene_columns for f in with_genes))
    common = set(with_genes[0].gene_columns).intersection(*(f.gene_columns for f in with_genes))
    if not common:
        poorest = min(with_genes, key=lambda f: len(f.gene_columns))
        raise AgreementError(
            f"the {len(with_genes)} sites with molecular data have no column in common ({len(union)} different ones, "
            f"fewest at {poorest.site}: {len(poorest.gene_columns)}). Columns are SYMBOL_rnaseq, SYMBOL_cnv, SYMBOL_mut"
        )
    return tuple(sorted(common))


def scales_features(config: AgreementConfig, facts: Sequence[FactsReply]) -> bool:
    """Decide whether features are scaled to z-scores: as set, or (`auto`) for slide-level tables only."""
    if config.feature_scaling == "auto":
        return any(f.feature_columns for f in facts)
    return config.feature_scaling == "zscore" and any(f.feature_width for f in facts)


def build_agreement(
    config: AgreementConfig,
    facts: Sequence[FactsReply],
    *,
    gene_columns: tuple[str, ...],
    summed: tuple[str, ...],
    genes: ColumnMoments,
    features: ColumnMoments | None,
    time_bin_edges: tuple[float, ...],
    signatures: Mapping[str, tuple[str, ...]] | None,
) -> Agreement:
    """Build the agreement from the sites' declarations and their summed statistics.

    Columns that are constant over the federation, or that no site measured, are left out.

    Args:
        config: the experiment's settings.
        facts: the sites' declarations, already checked with `check_declarations`.
        gene_columns: the columns that the sites have in common.
        summed: those of them that `genes` counts, in the same order; the others are kept, with a public scale.
        genes: summed moments of transformed gene values.
        features: summed moments of transformed features; None where no site was asked for them.
        time_bin_edges: from `choose_time_bins`.
        signatures: gene groups, symbol lists by name; needed for `gene_groups=signatures`.

    Raises:
        AgreementError: no gene group contains a column.
    """
    position = {column: index for index, column in enumerate(gene_columns)}
    at = np.array([position[column] for column in summed], dtype=np.int64)
    mean_C, scale_C = np.zeros(len(gene_columns)), np.full(len(gene_columns), public_gene_scale(config))
    varies = np.ones(len(gene_columns), dtype=bool)
    mean_C[at], scale_C[at] = genes.mean, np.maximum(genes.std, config.gene_scale_floor)
    varies[at] = genes.m2 > 1e-12 * np.maximum(genes.count, 1.0)
    if gene_columns and not varies.all():
        _log.warning("%d molecular columns are constant over the federation and are left out", int((~varies).sum()))
    columns = tuple(c for c, v in zip(gene_columns, varies, strict=True) if v)
    groups = build_gene_groups(columns, signatures, by=config.gene_groups) if columns else {}
    used = sorted({i for members in groups.values() for i in members})
    place = {old: new for new, old in enumerate(used)}  # columns in no group are dropped
    kept = np.flatnonzero(varies)[used] if used else np.zeros(0, dtype=np.int64)
    with_slides = [f for f in facts if f.feature_width]
    first = with_slides[0] if with_slides else None
    families: dict[str, tuple[int, ...]] = {}
    if first is not None and first.feature_families:
        members: dict[str, list[int]] = {}
        for index, family in enumerate(first.feature_families):
            members.setdefault(family, []).append(index)
        families = {family: tuple(indices) for family, indices in members.items()}
    center, scale = _feature_scaling(config, first, features)
    return Agreement(
        time_bin_edges=time_bin_edges,
        gene_columns=tuple(columns[i] for i in used),
        gene_groups={name: tuple(place[i] for i in indices) for name, indices in groups.items()},
        encoder=first.encoder if first else "",
        feature_width=first.feature_width if first else 0,
        feature_columns=first.feature_columns if first else (),
        feature_groups=families,
        gene_center=mean_C[kept],
        gene_scale=scale_C[kept],
        feature_center=center,
        feature_scale=scale,
    )


def _feature_scaling(
    config: AgreementConfig, declared: FactsReply | None, features: ColumnMoments | None
) -> tuple[FloatArray, FloatArray]:
    """Return center and scale of features; both empty where features are not scaled.

    With moments: mean and pooled standard deviation; a constant column is divided by one and so becomes zero. With
    public scaling of slide-level tables: the constant that brings the whole range of their logs into the clip.
    """
    if features is not None:
        std = features.std
        return features.mean, np.where(std > 1e-6, std, 1.0)
    if config.feature_scaling == "public" and declared is not None and declared.feature_columns:
        width = declared.feature_width
        return np.zeros(width), np.full(width, FEATURE_CLIP / config.scaled_clip)
    return np.zeros(0), np.zeros(0)


def choose_time_bins(config: AgreementConfig, event_counts: IntArray) -> tuple[float, ...] | None:
    """Return the K-1 inner edges from events summed over sites; None where the disclosed events are too few.

    Without edges the public edges of the settings apply; the caller must log that.
    """
    return edges_from_event_counts(event_counts, config.grid_step_months, config.num_bins)
