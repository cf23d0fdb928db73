"""Unimodal branches: tokens, an expert over them, a linear path and a head of one modality."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memamba_core.config.model import ModelConfig
from memamba_core.model.experts import Expert, ExpertOutput
from memamba_core.model.precision import at_least_float32, no_autocast
from memamba_core.model.tokens import FeatureGroupTokens, GeneGroupTokens, PatchTokens
from memamba_core.patient import InputSpec

__all__ = ["GenomicsBranch", "LinearSkip", "PathologyBranch", "hazard_layer"]


def hazard_layer(config: ModelConfig, spec: InputSpec) -> nn.Linear:
    """Build a linear map to the K logits, with a bias that makes the first hazards low.

    Most patients survive most bins.
    """
    layer = nn.Linear(config.d_model, spec.num_bins)
    nn.init.constant_(layer.bias, config.hazard_bias)
    return layer


class PathologyBranch(nn.Module):
    """Bag -> tokens -> expert, and a separate small head if the settings train one together with the fused head.

    Slide-level vectors may have an additional linear path, as genes have: they are a table, and few patients have them.
    """

    def __init__(self, config: ModelConfig, spec: InputSpec, *, own_head: bool) -> None:
        super().__init__()
        self.tokens: PatchTokens | FeatureGroupTokens
        if spec.feature_groups:
            self.tokens = FeatureGroupTokens(spec.feature_groups, config)
        else:
            self.tokens = PatchTokens(spec.feature_width, config)
        self.expert = Expert(config, config.num_layers, config.scans)
        self.linear_skip = LinearSkip(spec.feature_width) if config.slide_skip else None
        self.head = hazard_layer(config, spec) if own_head else None

    def forward(self, patches_BPF: Float[Tensor, "B P F"]) -> ExpertOutput:
        """Read bags of equal size, with rows in the order of the slides."""
        output: ExpertOutput = self.expert(self.tokens(patches_BPF))
        return output

    def row_attention(self, patches_BPF: Float[Tensor, "B P F"]) -> Float[Tensor, "B P"]:
        """Return the share of each row in the pooled vector, summed over the row's tokens. Run no scan."""
        weights_BL = self.expert.attention(self.tokens(patches_BPF)).softmax(dim=1)
        shares_BP: Tensor = weights_BL.unflatten(1, (-1, self.tokens.tokens_per_row)).sum(2)
        return shares_BP


class GenomicsBranch(nn.Module):
    """Genes -> group tokens -> expert, and a linear path to the logits if the settings ask for one."""

    def __init__(self, config: ModelConfig, spec: InputSpec, *, own_head: bool) -> None:
        super().__init__()
        self.tokens = GeneGroupTokens(spec.gene_groups, config)
        self.expert = Expert(config, config.num_layers, config.scans)
        self.linear_skip = LinearSkip(spec.num_genes) if config.linear_skip else None
        self.head = hazard_layer(config, spec) if own_head else None

    def forward(self, genes_BC: Float[Tensor, "B C"]) -> ExpertOutput:
        """Read the agreed gene columns of patients who have them."""
        output: ExpertOutput = self.expert(self.tokens(genes_BC))
        return output


class LinearSkip(nn.Module):
    """Linear path 15 / sqrt(C) x w . columns: one shift of all logits of a patient.

    This project's own, not the paper's. The factor lets w learn at the pace of the networks, at the same learning rate.
    w starts at zero. It carries `_skip_weight_decay`, because it needs a stronger decay than the other parameters.
    """

    def __init__(self, num_columns: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_columns))
        self.weight._skip_weight_decay = True  # type: ignore[attr-defined]

    def forward(self, columns_BC: Float[Tensor, "B C"]) -> Float[Tensor, " B"]:
        """Return one shift per patient, in float32 even under autocast."""
        with no_autocast(columns_BC.device):
            shift_B: Tensor = at_least_float32(columns_BC) @ self.weight * (15 * len(self.weight) ** -0.5)
        return shift_B
