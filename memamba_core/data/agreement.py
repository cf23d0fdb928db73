"""What sites agree on before round 1: time bins, gene columns and groups, scaling; and the sums it is made from.

A site never computes bins or scaling from its own data alone. It sends sums (`column_moments`, `count_events`), the
coordinator adds them up (`merge_moments`, `build_agreement`), and everybody works with the same `Agreement`, whose
digest travels with every later message.
"""

import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memamba_core.config.experiment import AgreementConfig
from memamba_core.data.genomics import build_gene_groups
from memamba_core.errors import AgreementError
from memamba_core.protocol import FactsReply
from memamba_core.records import InputSpec
from memamba_core.survival.time_bins import edges_from_event_counts, grid_cells

__all__ = [
    "Agreement",
    "ColumnMoments",
    "agree_on_time_bins",
    "build_agreement",
    "check_declarations",
    "column_moments",
    "common_gene_columns",
    "count_events",
    "merge_moments",
    "scales_features",
    "transform_genes",
]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_log = logging.getLogger(__name__)
_FEATURE_CLIP = 15.0  # of log-transformed slide-level features, before summing: areas reach 1e8, log1p(1e8) = 18


@dataclass(frozen=True)
class ColumnMoments:
    """Count, mean and summed squared deviation (M2) of each column; NaN cells are not counted.

    Sums of different sites are added with `merge_moments`.
    """

    count: FloatArray
    mean: FloatArray
    m2: FloatArray

    @classmethod
    def zeros(cls, width: int) -> Self:
        """What a site under its floor sends."""
        return cls(np.zeros(width), np.zeros(width), np.zeros(width))

    def arrays(self) -> dict[str, FloatArray]:
        """As they travel."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}

    @property
    def std(self) -> FloatArray:
        """Population standard deviation; 0 where nothing was counted."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1.0))


@dataclass(frozen=True)
class Agreement:
    """What everybody works with. Compared and sent by `digest`.

    Attributes:
        time_bin_edges: the K-1 inner edges in months, ascending.
        gene_columns: the columns in the order of `PatientInputs.genes_C`.
        gene_groups: group name -> indices into `gene_columns`.
        encoder: declared encoder of the features, "" without slides.
        feature_width: width of a feature row, 0 without slides.
        feature_columns: names of the columns of a slide-level table, empty for patch features.
        feature_groups: family name -> indices into those columns; empty where a row is one token.
        gene_center, gene_scale: of transformed gene values.
        feature_center, feature_scale: of features; empty where they are not scaled.
    """

    time_bin_edges: tuple[float, ...]
    gene_columns: tuple[str, ...] = ()
    gene_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    encoder: str = ""
    feature_width: int = 0
    feature_columns: tuple[str, ...] = ()
    feature_groups: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    gene_center: FloatArray = field(default_factory=lambda: np.zeros(0))
    gene_scale: FloatArray = field(default_factory=lambda: np.zeros(0))
    feature_center: FloatArray = field(default_factory=lambda: np.zeros(0))
    feature_scale: FloatArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        for name, array, allowed in (
            ("gene_center", self.gene_center, {len(self.gene_columns)}),
            ("gene_scale", self.gene_scale, {len(self.gene_columns)}),
            ("feature_center", self.feature_center, {0, self.feature_width}),
            ("feature_scale", self.feature_scale, {0, self.feature_width}),
        ):
            if array.shape not in {(n,) for n in allowed}:
                raise AgreementError(f"{name} has shape {array.shape}, wanted one of lengths {sorted(allowed)}")
            if not np.isfinite(array).all() or (name.endswith("scale") and (array <= 0).any()):
                raise AgreementError(f"{name} holds values that are not finite, or a scale that is not positive")
        edges = self.time_bin_edges
        if not edges or not all(a < b < math.inf for a, b in zip((0.0, *edges), edges, strict=False)):
            raise AgreementError(f"time_bin_edges must be positive, finite and ascending, got {list(edges)}")
        self.input_spec()

    def input_spec(self) -> InputSpec:
        """The sizes that the model is built for."""
        return InputSpec(
            num_bins=len(self.time_bin_edges) + 1,
            num_genes=len(self.gene_columns),
            gene_groups=self.gene_groups,
            feature_width=self.feature_width,
            feature_groups=self.feature_groups,
        )

    def scaling(self) -> dict[str, FloatArray]:
        """The arrays, as they travel."""
        return {
            "gene-center": self.gene_center,
            "gene-scale": self.gene_scale,
            "feature-center": self.feature_center,
            "feature-scale": self.feature_scale,
        }

    def to_json(self) -> str:
        """Everything but the arrays, as canonical JSON."""
        plain: dict[str, Any] = {
            "time_bin_edges": self.time_bin_edges,
            "gene_columns": self.gene_columns,
            "gene_groups": self.gene_groups,
            "encoder": self.encoder,
            "feature_width": self.feature_width,
            "feature_columns": self.feature_columns,
            "feature_groups": self.feature_groups,
        }
        return json.dumps(plain, separators=(",", ":"))  # groups keep their order: it is the order of tokens

    @classmethod
    def from_json(cls, text: str, scaling: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The inverse of `to_json` and `scaling`.

        Raises:
            AgreementError: a field is missing, unknown or does not fit the others.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            for name in ("gene_groups", "feature_groups"):
                values[name] = {g: tuple(int(i) for i in columns) for g, columns in values[name].items()}
            for name in ("time_bin_edges", "gene_columns", "feature_columns"):
                values[name] = tuple(values[name])
            for name, array in scaling.items():
                values[name.replace("-", "_")] = np.asarray(array, dtype=np.float64)
            if missing := sorted({f.name for f in fields(cls)} - set(values)):
                raise AgreementError(f"the agreement does not have the agreed fields: {missing} missing")
            return cls(**values)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise AgreementError(f"the agreement does not have the agreed fields: {error}") from None

    def digest(self) -> str:
        """SHA-256 (hex) over the fields and the scaling."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256(self.to_json().encode())
        for name, array in self.scaling().items():
            sha.update(name.encode())
            sha.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return sha.hexdigest()


# At a site -----------------------------------------------------------------------------------------------------------


def transform_genes(values_NC: npt.NDArray[Any], config: AgreementConfig) -> FloatArray:
    """Molecular values before scaling: sign(x) log(1 + |x|) by default, clipped to +-`gene_statistics_clip`."""
    values = np.asarray(values_NC, dtype=np.float64)
    if config.gene_transform == "signed_log":
        values = signed_log(values)
    return np.clip(values, -config.gene_statistics_clip, config.gene_statistics_clip)


def signed_log(values: FloatArray) -> FloatArray:
    """sign(x) log(1 + |x|): linear near zero, logarithmic in the tails."""
    return np.sign(values) * np.log1p(np.abs(values))


def transform_features(rows_PF: npt.NDArray[Any]) -> FloatArray:
    """Features that get z-scores, before scaling: signed log (their scales differ by 1e8), clipped."""
    return np.clip(signed_log(np.asarray(rows_PF, dtype=np.float64)), -_FEATURE_CLIP, _FEATURE_CLIP)


def column_moments(blocks: Iterable[npt.NDArray[Any]], width: int) -> ColumnMoments:
    """Moments of columns over blocks of rows (each [n, width], NaN where not measured), read one after the other."""
    return merge_moments([_moments_of(np.asarray(block, dtype=np.float64)) for block in blocks], width)


def _moments_of(block_NC: FloatArray) -> ColumnMoments:
    known = ~np.isnan(block_NC)
    count = known.sum(axis=0).astype(np.float64)
    filled = np.where(known, block_NC, 0.0)
    mean = filled.sum(axis=0) / np.maximum(count, 1.0)
    return ColumnMoments(count, mean, (np.where(known, filled - mean, 0.0) ** 2).sum(axis=0))


def count_events(times: Sequence[float], events: Sequence[bool], config: AgreementConfig) -> dict[str, IntArray]:
    """Events and censored patients per cell of the coarse time grid (`grid_step_months` wide, the last cell open)."""
    cells = grid_cells(np.asarray(times, dtype=np.float64), config.grid_step_months, config.grid_num_cells)
    happened = np.asarray(events, dtype=bool)
    return {
        "event": np.bincount(cells[happened], minlength=config.grid_num_cells).astype(np.int64),
        "censored": np.bincount(cells[~happened], minlength=config.grid_num_cells).astype(np.int64),
    }


# At the coordinator --------------------------------------------------------------------------------------------------


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


def check_declarations(facts: Sequence[FactsReply]) -> None:
    """Compare what sites declare: encoder, width and columns of features.

    Units and event coding may differ (each site converts its own); what must be the same is what the model sees.

    Raises:
        AgreementError: naming the sites on either side and the remedy.
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
    return f"{len(value)} columns" if isinstance(value, tuple) else repr(value)


def common_gene_columns(facts: Sequence[FactsReply]) -> tuple[str, ...]:
    """The columns that every site with molecular data has, in alphabetical order; logs how many are left out.

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
    if len(common) < len(union):
        _log.warning(
            "%d of %d molecular columns are not at every site and are left out",
            len(union - common),
            len(union),
        )
    return tuple(sorted(common))


def scales_features(config: AgreementConfig, facts: Sequence[FactsReply]) -> bool:
    """Whether features get z-scores: as set, or (`auto`) for slide-level tables only."""
    if config.feature_scaling == "auto":
        return any(f.feature_columns for f in facts)
    return config.feature_scaling == "zscore" and any(f.feature_width for f in facts)


def build_agreement(
    config: AgreementConfig,
    facts: Sequence[FactsReply],
    *,
    gene_columns: tuple[str, ...],
    genes: ColumnMoments,
    features: ColumnMoments | None,
    time_bin_edges: tuple[float, ...],
    signatures: Mapping[str, tuple[str, ...]] | None,
) -> Agreement:
    """The agreement from the sites' declarations and their summed statistics.

    Columns that are constant over the federation, or were measured nowhere, are left out.

    Args:
        config: the experiment's settings.
        facts: the sites' declarations, already checked with `check_declarations`.
        gene_columns: the columns that `genes` counts.
        genes: summed moments of transformed gene values.
        features: summed moments of transformed features, None where they are not scaled.
        time_bin_edges: from `agree_on_time_bins`.
        signatures: gene groups, symbol lists by name; needed for `gene_groups=signatures`.

    Raises:
        AgreementError: no group catches a column.
    """
    varies = genes.m2 > 1e-12 * np.maximum(genes.count, 1.0)
    if gene_columns and not varies.all():
        _log.warning("%d molecular columns are constant over the federation and are left out", int((~varies).sum()))
    columns = tuple(c for c, v in zip(gene_columns, varies, strict=True) if v)
    groups = build_gene_groups(columns, signatures, by=config.gene_groups) if columns else {}
    used = sorted({i for members in groups.values() for i in members})
    position = {old: new for new, old in enumerate(used)}  # columns in no group are dropped
    kept = np.flatnonzero(varies)[used] if used else np.zeros(0, dtype=np.int64)
    with_slides = [f for f in facts if f.feature_width]
    first = with_slides[0] if with_slides else None
    families: dict[str, tuple[int, ...]] = {}
    if first is not None and first.feature_families:
        members: dict[str, list[int]] = {}
        for index, family in enumerate(first.feature_families):
            members.setdefault(family, []).append(index)
        families = {family: tuple(indices) for family, indices in members.items()}
    return Agreement(
        time_bin_edges=time_bin_edges,
        gene_columns=tuple(columns[i] for i in used),
        gene_groups={name: tuple(position[i] for i in indices) for name, indices in groups.items()},
        encoder=first.encoder if first else "",
        feature_width=first.feature_width if first else 0,
        feature_columns=first.feature_columns if first else (),
        feature_groups=families,
        gene_center=genes.mean[kept],
        gene_scale=np.maximum(genes.std[kept], config.gene_scale_floor),
        feature_center=features.mean if features is not None else np.zeros(0),
        feature_scale=_feature_scale(features) if features is not None else np.zeros(0),
    )


def _feature_scale(features: ColumnMoments) -> FloatArray:
    """Pooled standard deviation; a constant column is divided by one and so becomes zero."""
    std = features.std
    return np.where(std > 1e-6, std, 1.0)


def agree_on_time_bins(config: AgreementConfig, event_counts: IntArray) -> tuple[float, ...] | None:
    """The K-1 inner edges from events summed over sites; None where too few are over the floors.

    Then the public edges of the settings apply, and whoever asked says so.
    """
    return edges_from_event_counts(event_counts, config.grid_step_months, config.num_bins)
