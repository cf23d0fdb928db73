"""Synergistic expert: fuses the tokens of patches and genes.

The abstract of ME-Mamba (arXiv 2509.16900) names its three steps: token-level correspondences by optimal
transport, a global fusion loss by maximum mean discrepancy, and fused features that enter a Mamba backbone.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memamba_core.config.model import ModelConfig
from memamba_core.model.experts import Expert
from memamba_core.model.mmd import squared_mmd
from memamba_core.model.transport import barycentric_projection, cosine_cost, transport_plan

__all__ = ["SynergisticExpert", "SynergisticOutput"]


class SynergisticOutput(NamedTuple):
    """Output of the synergistic expert for patients who have both modalities.

    Attributes:
        pooled_BD: the fused representation.
        mmd_B: squared MMD between the patient's patch tokens and gene tokens.
        transport_cost_B: <plan, cost>, with a gradient to the cost alone. A fixed plan is exact for the entropic
            objective (envelope theorem), and the plans of POT allow no other.
    """

    pooled_BD: Float[Tensor, "B D"]
    mmd_B: Float[Tensor, " B"]
    transport_cost_B: Float[Tensor, " B"]


class SynergisticExpert(nn.Module):
    """Expert that carries one modality's tokens onto the other's and runs a Mamba backbone over the pairs."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._config = config
        self.backbone = Expert(config, config.num_backbone_layers, ("conventional",))

    def forward(
        self, patch_tokens_BPD: Float[Tensor, "B P D"], gene_tokens_BGD: Float[Tensor, "B G D"]
    ) -> SynergisticOutput:
        """Fuse the output tokens of the two unimodal experts."""
        anchor = self._config.anchor
        cost_BPG = cosine_cost(patch_tokens_BPD, gene_tokens_BGD)
        plan_BPG = transport_plan(cost_BPG, self._config)
        own_BAD, other_BMD = gene_tokens_BGD, patch_tokens_BPD
        if anchor == "patches":
            own_BAD, other_BMD = other_BMD, own_BAD
        carried_BAD = barycentric_projection(plan_BPG, other_BMD, anchor)
        pairs_BLD = torch.stack([carried_BAD, own_BAD.to(carried_BAD.dtype)], dim=2).flatten(1, 2)
        return SynergisticOutput(
            pooled_BD=self.backbone(pairs_BLD).pooled_BD,
            mmd_B=self._fusion_loss(patch_tokens_BPD, gene_tokens_BGD, plan_BPG),
            transport_cost_B=(plan_BPG.detach() * cost_BPG).sum((1, 2)),
        )

    def _fusion_loss(self, patch_tokens_BPD: Tensor, gene_tokens_BGD: Tensor, plan_BPG: Tensor) -> Tensor:
        """Compute the squared MMD between patch tokens and gene tokens.

        Carried tokens cannot replace the patch tokens: the plan has just pulled them towards the gene tokens.
        The cost grows with the square of the number of tokens, so at most `mmd_max_tokens` patch tokens take part.
        """
        batch, num_patches, width = patch_tokens_BPD.shape
        most = min(self._config.mmd_max_tokens, num_patches)
        weights_BM = None
        if self._config.mmd_tokens == "plan":
            weights_BP = plan_BPG.sum(2)
            rows_BM = weights_BP.topk(most, dim=1).indices
            weights_BM = weights_BP.gather(1, rows_BM)
            weights_BM = weights_BM / weights_BM.sum(1, keepdim=True)
        elif most == num_patches:
            return squared_mmd(patch_tokens_BPD, gene_tokens_BGD)
        elif self.training:
            rows_BM = torch.rand(batch, num_patches, device=plan_BPG.device).argsort(dim=1)[:, :most]
        else:  # evenly spaced, so that an evaluation can be repeated
            rows_BM = (torch.arange(most, device=plan_BPG.device) * num_patches // most).expand(batch, most)
        chosen_BMD = patch_tokens_BPD.gather(1, rows_BM.unsqueeze(2).expand(batch, most, width))
        return squared_mmd(chosen_BMD, gene_tokens_BGD, weights_BM)
