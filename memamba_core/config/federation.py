"""Rounds: their number, the work of a site in a round, and the longest waits for replies."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from memamba_core.config.base import Settings
from memamba_core.config.training import OptimizerConfig, SGDConfig

__all__ = ["FederationConfig"]


class FederationConfig(Settings):
    """Rounds, and the work of a site in a round."""

    num_rounds: int = Field(20, ge=1, le=10_000)
    """Number of training rounds."""
    local_epochs: int = Field(1, ge=1, le=100)
    """Passes over a site's patients in a round."""
    optimizer: OptimizerConfig = SGDConfig(learning_rate=0.3, weight_decay=0.0, skip_weight_decay=0.0)
    """The sites' optimizer; its state is new in each round. Plain SGD did better than AdamW where sites have a handful
    of patients (docs/results/survival.md). Its weight decay is not decoupled from so large a learning rate, so the
    default is none."""
    min_results: int | None = Field(None, ge=1)
    """Fewest sites that must answer in a round. None: every site that was asked, unless `required_sites` or
    `min_patients_share` says otherwise."""
    required_sites: tuple[str, ...] = Field((), max_length=1000)
    """Names of sites that must answer in every round, whatever the others do."""
    min_patients_share: float = Field(0.0, ge=0, le=1)
    """Smallest share of all training patients, by the lower ends of the sites' size bands, that the sites which answer
    must hold. A named site of unknown size counts as large as the largest known one. 0: no such condition."""
    round_timeout_s: float = Field(3600.0, gt=0)
    """Longest wait for the replies of a training round, in seconds."""
    agreement_timeout_s: float = Field(3600.0, gt=0)
    """Longest wait for each step of the agreement, in seconds (statistics may read every bag once)."""
    curve_holdout: float = Field(0.0, ge=0, le=0.5)
    """Share of each site's training patients kept out of training for learning curves; with 0, curves show training
    loss."""
    curve_on_test_fold: bool = False
    """Also evaluate every round on the test fold. For inspection only: nothing is chosen by it."""
    max_patients_per_site: int = Field(100_000, ge=1)
    """Most patients that a reply may claim to have trained on; a reply that claims more is rejected."""
    update_norm: float | None = Field(1.0, gt=0)
    """Largest L2 norm of a site's update over all parameters. A site scales a larger update down to this norm before it
    leaves; a site in a deployment also derives from it how far the weights may move between rounds, and refuses null,
    which sets no bound. How the default was chosen: with the default optimizer the largest update had norm 0.52 (median
    0.15) on the synthetic cohort, BLCA, LUAD and BRCA, in 2 to 13 sites of up to 383 patients; so the default scales
    none of them. `federation=adamw` sets 10: its largest update had norm 5.7 (median 1.3). Null under differential
    privacy, where the norm is that of the noise."""
    update_norm_factor: float | None = Field(10.0, gt=1)
    """An update beyond this multiple of the round's median norm is left out of the round, by name, where three or more
    sites replied. Larger sites take more steps: a norm that the steps of a site of that size explain is left in. None:
    no such rule."""
    wire: Literal["float32", "bfloat16_delta"] = "float32"
    """Format of the weights that a site returns: `float32`, unchanged; `bfloat16_delta`, the rounded change, which is
    half the size."""

    @field_validator("required_sites")
    @classmethod
    def _names(cls, sites: tuple[str, ...]) -> tuple[str, ...]:
        if not all(sites) or len(set(sites)) < len(sites):
            raise ValueError("expected names of sites, each once")
        return sites

    @model_validator(mode="after")
    def _one_curve(self) -> Self:
        if self.curve_on_test_fold and self.curve_holdout:
            raise ValueError("curve_on_test_fold and curve_holdout exclude each other: a round has one curve")
        return self
