"""Settings of the handshake before round 1: time bins, gene columns, scaling, groups (docs/explanation/contract.md)."""

from typing import Literal, Self

from pydantic import Field, model_validator

from memamba_core.config.base import Settings

__all__ = ["AgreementConfig"]


class AgreementConfig(Settings):
    """Time bins, gene columns and scaling."""

    num_bins: int = Field(4, ge=2, le=64)
    """Number K of time intervals of the discrete-time model."""
    time_bins: Literal["event_quantiles", "public"] = "event_quantiles"
    """`event_quantiles`: edges at quantiles of the federation's event times, read off summed counts on a coarse grid.
    `public`: `public_edges` as given; nothing is computed from patients."""
    public_edges: tuple[float, ...] = (12.0, 24.0, 48.0)
    """Months, ascending, K-1 of them. Also the fall-back when the data give fewer than K-1 distinct edges."""
    grid_step_months: float = Field(6.0, gt=0)
    """Width of a cell of the coarse time grid on which events are counted, in months."""
    grid_num_cells: int = Field(60, ge=2, le=1000)
    """Number of cells; the last is open."""
    gene_groups: Literal["signatures", "kind"] = "signatures"
    """`signatures`: groups of the coordinator's signatures table; a symbol joins with all its kinds of measurement.
    `kind`: one group for each of RNA, copy number and mutations."""
    gene_transform: Literal["signed_log", "none"] = "signed_log"
    """Before scaling: sign(x) log(1 + |x|), or nothing."""
    gene_statistics_clip: float = Field(10.0, gt=0)
    """Transformed values are clipped to +-this before they are summed (RNA z-scores reach 36,893)."""
    gene_scaling: Literal["statistics", "public"] = "statistics"
    """`statistics`: centred and divided by mean and standard deviation of the federation's patients. `public`: left as
    they are after the transform, so that nothing is computed from patients."""
    gene_scale_floor: float = Field(0.3, gt=0)
    """Lower bound of the pooled standard deviation, so that a rare mutation is not scaled up."""
    scaled_clip: float = Field(5.0, gt=0)
    """Scaled values, of genes and of scaled features, are clipped to +-this."""
    feature_scaling: Literal["auto", "none", "zscore", "public"] = "auto"
    """`auto`: z-scores for slide-level tables, nothing for patch features of an encoder. `public`: slide-level tables
    are mapped into +-`scaled_clip` by a signed log and a constant, so that nothing is computed from patients."""

    @model_validator(mode="after")
    def _edges_fit(self) -> Self:
        if len(self.public_edges) != self.num_bins - 1:
            raise ValueError(
                f"public_edges has {len(self.public_edges)} edges, num_bins={self.num_bins} needs {self.num_bins - 1}"
            )
        if any(b <= a for a, b in zip((0.0, *self.public_edges), self.public_edges, strict=False)):
            raise ValueError(f"public_edges must be positive and ascending, got {list(self.public_edges)}")
        return self
