"""Check an agreement against the settings of its run: what a site can verify without the other sites.

The site's policy was applied to the settings; without this check an agreement could have other time bins, scaling or
gene groups than the settings say.
"""

import numpy as np

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.agreement import Agreement
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.genomics.table import continuous_columns
from memamba_core.data.statistics import FEATURE_CLIP, public_gene_scale
from memamba_core.errors import AgreementError

__all__ = ["check_against_settings"]

_ROUNDING = 1 + 1e-9


def check_against_settings(agreement: Agreement, config: AgreementConfig, *, public_constants: bool = False) -> None:
    """Check time bins, scaling and gene groups.

    Args:
        agreement: of the coordinator.
        config: settings of the run.
        public_constants: whether no event was counted and only continuous columns were summed, as in a deployment.

    Raises:
        AgreementError: the agreement does not follow the settings.
    """
    _check_time_bins(agreement, config, public_only=public_constants)
    _check_genes(agreement, config)
    if public_constants:
        _check_discrete_genes(agreement, config)
    _check_features(agreement, config)


def _check_time_bins(agreement: Agreement, config: AgreementConfig, *, public_only: bool) -> None:
    edges = agreement.time_bin_edges
    if len(edges) != config.num_bins - 1:
        raise AgreementError(f"there are {len(edges) + 1} time bins; expected agreement.num_bins={config.num_bins}")
    lines = {line * config.grid_step_months for line in range(1, config.grid_num_cells)}
    from_data = config.time_bins == "event_quantiles" and not public_only and lines.issuperset(edges)
    if edges != config.public_edges and not from_data:
        raise AgreementError(
            f"time_bin_edges are {list(edges)}; expected agreement.public_edges"
            + (" or lines of the time grid" if config.time_bins == "event_quantiles" and not public_only else "")
        )


def _check_genes(agreement: Agreement, config: AgreementConfig) -> None:
    center, scale = agreement.gene_center, agreement.gene_scale
    if config.gene_scaling == "public" and (center.any() or (scale != public_gene_scale(config)).any()):
        raise AgreementError("gene values are scaled; agreement.gene_scaling is public, which leaves them as they are")
    if (scale * _ROUNDING < config.gene_scale_floor).any():
        raise AgreementError(f"gene_scale is below agreement.gene_scale_floor={config.gene_scale_floor:g}")
    if (np.abs(center) > config.gene_statistics_clip * _ROUNDING).any():
        raise AgreementError(f"gene_center is beyond agreement.gene_statistics_clip={config.gene_statistics_clip:g}")
    if (
        config.gene_groups == "kind"
        and agreement.gene_columns
        and dict(agreement.gene_groups) != build_gene_groups(agreement.gene_columns, None, by="kind")
    ):
        raise AgreementError("the gene groups are not one for each kind; agreement.gene_groups is kind")


def _check_discrete_genes(agreement: Agreement, config: AgreementConfig) -> None:
    continuous = set(continuous_columns(agreement.gene_columns))
    discrete = np.array([column not in continuous for column in agreement.gene_columns], dtype=bool)
    center, scale = agreement.gene_center[discrete], agreement.gene_scale[discrete]
    if center.any() or (scale != public_gene_scale(config)).any():
        raise AgreementError(
            "copy number or mutations are scaled; without a sum over several sites only expression is, and the others "
            "have center 0 and one public scale"
        )


def _check_features(agreement: Agreement, config: AgreementConfig) -> None:
    center, scale = agreement.feature_center, agreement.feature_scale
    kind = config.feature_scaling
    if kind == "auto":
        kind = "zscore" if agreement.feature_columns else "none"
    if kind == "public" and not agreement.feature_columns:
        kind = "none"
    if len(center) != (0 if kind == "none" else agreement.feature_width):
        raise AgreementError(
            f"{len(center)} feature columns are scaled; agreement.feature_scaling is {config.feature_scaling}"
        )
    if kind == "public" and (center.any() or (scale != FEATURE_CLIP / config.scaled_clip).any()):
        raise AgreementError("features are scaled by other constants than agreement.feature_scaling=public has")
    if (scale <= 1e-6).any() or (np.abs(center) > FEATURE_CLIP * _ROUNDING).any():
        raise AgreementError("features are scaled by values that no site's sums can give")
