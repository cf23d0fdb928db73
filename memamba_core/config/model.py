"""Shape and computation of ME-Mamba.

docs/explanation/model.md marks which parts are the paper's and which are this project's.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from memamba_core.config.base import Settings

__all__ = ["ModelConfig"]

ExpertName = Literal["pathology", "genomics", "synergistic"]
ScanName = Literal["conventional", "attention"]
_UNBALANCED_EPSILON = 0.003
"""POT solves this plan outside of the log domain; a cost is at most 2, and exp(-2 / 0.003) is nearly 0 in float64."""


class ModelConfig(Settings):
    """Shape and computation of one ME-Mamba model."""

    experts: tuple[ExpertName, ...] = ("pathology", "genomics", "synergistic")
    """Experts to build; leaving one out is an ablation. Synergistic needs the other two."""
    d_model: int = Field(32, ge=4, le=4096)
    """Width D of a token."""
    num_layers: int = Field(1, ge=1, le=24)
    """Layers in each unimodal expert; more than 1 needs scans."""
    num_backbone_layers: int = Field(1, ge=1, le=24)
    """Mamba layers behind the fused tokens."""
    scans: tuple[ScanName, ...] = ("conventional", "attention")
    """Scans in a unimodal expert; an empty list leaves attention pooling alone."""
    attention_order: Literal["ascending", "descending"] = "ascending"
    """Order of the attention-based scan. A causal scan has seen most tokens at its end: ascending puts the highest
    scores there."""
    d_state: int = Field(16, ge=1, le=256)
    """State size N of the Mamba block."""
    d_conv: int = Field(4, ge=2, le=4)
    """Width of the Mamba block's causal convolution."""
    expand: int = Field(2, ge=1, le=8)
    """Inner width E of the Mamba block as a multiple of D."""
    scan_backend: Literal["auto", "reference", "chunked", "cpu", "cuda", "triton", "mamba_ssm"] = "auto"
    """Implementation of the selective scan (docs/explanation/model.md). The results agree; the speed differs."""
    recompute: bool = False
    """Compute scores and Mamba blocks of the experts again in the backward pass instead of keeping their intermediate
    values: a third more time, and the memory of one block instead of all. For bags of 100,000 patches."""
    group_hidden: int = Field(64, ge=1)
    """Hidden width of each gene group's network."""
    gene_activation: Literal["selu", "elu"] = "selu"
    """SELU self-normalises (Klambauer 2017); ELU is what MCAT's code does."""
    gene_dropout: Literal["plain", "alpha"] = "plain"
    """Dropout in the group networks. Alpha dropout is the self-normalising choice; plain did better on real cohorts."""
    dropout: float = Field(0.5, ge=0, lt=1)
    """Dropout rate in token networks and head; cohorts of a few hundred patients need a high rate."""
    linear_skip: bool = True
    """A linear path from the scaled genes to one shift of all logits (this project's own)."""
    slide_skip: bool = False
    """The same from slide-level features, for cohorts whose slides are rows of a table with families of columns."""
    transport: Literal["relaxed", "sinkhorn", "unbalanced", "exact"] = "relaxed"
    """Optimal transport plan between patch and gene tokens."""
    transport_epsilon: float = Field(0.1, ge=1e-6)
    """Entropic regularisation of the plan (unused by `exact`)."""
    transport_marginal: float = Field(1.0, ge=0.01)
    """Marginal relaxation of the `unbalanced` plan; below 0.01 the plan may carry almost no mass, or be no number."""
    transport_exact_limit: int = Field(1_000_000, ge=1)
    """Largest P x G for which `exact` is allowed; above it is an error."""
    anchor: Literal["genes", "patches"] = "genes"
    """Tokens onto which the other modality is projected."""
    mmd_tokens: Literal["subsample", "plan"] = "subsample"
    """Patch tokens in the fusion loss: a random subsample, or those with most mass in the plan, weighted by it."""
    mmd_max_tokens: int = Field(512, ge=2)
    """Most patch tokens in the fusion loss, which costs their square."""
    hazard_bias: float = -1.5
    """Initial bias of the logits: hazards start near 0.18."""

    @model_validator(mode="after")
    def _experts_fit(self) -> Self:
        if not self.experts:
            raise ValueError("experts is empty; name at least one of pathology, genomics, synergistic")
        if "synergistic" in self.experts and not {"pathology", "genomics"} <= set(self.experts):
            raise ValueError("the synergistic expert needs experts pathology and genomics, too")
        for name in ("experts", "scans"):
            names = getattr(self, name)
            if len(set(names)) != len(names):
                raise ValueError(f"{name} names one twice: {list(names)}")
        if self.num_layers > 1 and not self.scans:
            raise ValueError(f"num_layers={self.num_layers} with scans=[] would change nothing; layers are scans")
        if self.transport == "unbalanced" and self.transport_epsilon < _UNBALANCED_EPSILON:
            raise ValueError(
                f"transport=unbalanced needs transport_epsilon >= {_UNBALANCED_EPSILON}; below, it underflows"
            )
        return self
