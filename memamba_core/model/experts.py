"""Expert: a module that scores tokens, scans them in two orders and pools them.

The abstract of ME-Mamba (arXiv 2509.16900) says that both unimodal experts are Mamba with conventional and
with attention-based scanning. How the scans are made and merged is this project's reading (docs/explanation/model.md).
"""

from collections.abc import Collection
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from memamba_core.config.model import ModelConfig
from memamba_core.model.attention import GatedAttention, attention_pool
from memamba_core.model.mamba import Mamba

__all__ = ["Expert", "ExpertOutput"]


class ExpertOutput(NamedTuple):
    """Output of an expert.

    Attributes:
        tokens_BLD: the tokens after the layers, in the order of the input.
        pooled_BD: their mean, weighted by the softmax of the scores.
        scores_BL: one score per token, before the softmax.
    """

    tokens_BLD: Float[Tensor, "B L D"]
    pooled_BD: Float[Tensor, "B D"]
    scores_BL: Float[Tensor, "B L"]


class Expert(nn.Module):
    """Gated attention scores, `num_layers` residual layers of Mamba scans, and pooling by the scores.

    Scores are computed once, from the input tokens. They set the order and the gate of every layer's attention-based
    scan, and the weights of the pooling.

    Args:
        config: widths, and `attention_order`.
        num_layers: number of layers. Without `scans` there are no layers, and the expert is attention pooling alone.
        scans: `conventional` (the given order), `attention` (sorted by score), or both.
    """

    def __init__(self, config: ModelConfig, num_layers: int, scans: Collection[str]) -> None:
        super().__init__()
        self.attention = GatedAttention(config.d_model)
        self.layers = nn.ModuleList(ScanLayer(config, scans) for _ in range(num_layers if scans else 0))
        self._sorts = "attention" in scans
        self._descending = config.attention_order == "descending"
        self._recompute = config.recompute

    def forward(self, tokens_BLD: Float[Tensor, "B L D"]) -> ExpertOutput:
        """Compute sequences of equal length; no patient's result depends on another's."""
        scores_BL = _run(self.attention, tokens_BLD, recompute=self._recompute)
        order_BL = None
        if self._sorts:
            order_BL = torch.argsort(scores_BL.detach(), dim=1, descending=self._descending, stable=True)
        gate_BL1 = scores_BL.sigmoid().unsqueeze(2)
        for layer in self.layers:
            tokens_BLD = layer(tokens_BLD, gate_BL1, order_BL)
        return ExpertOutput(tokens_BLD, attention_pool(tokens_BLD, scores_BL), scores_BL)


class ScanLayer(nn.Module):
    """Residual layer: tokens + conventional scan + sigmoid(score) x attention-based scan, of normalised tokens.

    A sort passes no gradient to the scores; the gate does. The gate is the sigmoid of the score and not its softmax,
    because the softmax is about 1/L and vanishes on long bags.
    """

    def __init__(self, config: ModelConfig, scans: Collection[str]) -> None:
        super().__init__()

        def scan(name: str) -> Mamba | None:
            if name not in scans:
                return None
            sizes = (config.d_model, config.d_state, config.d_conv, config.expand)
            return Mamba(*sizes, scan_backend=config.scan_backend)

        self.norm = nn.LayerNorm(config.d_model)
        self.conventional = scan("conventional")
        self.attention = scan("attention")
        self._recompute = config.recompute

    def forward(
        self,
        tokens_BLD: Float[Tensor, "B L D"],
        gate_BL1: Float[Tensor, "B L 1"],
        order_BL: Int[Tensor, "B L"] | None,
    ) -> Float[Tensor, "B L D"]:
        """Add the scans to the tokens. `order_BL` is the order of the attention-based scan, None without that scan."""
        normed_BLD = self.norm(tokens_BLD)
        if self.conventional is not None:
            tokens_BLD = tokens_BLD + _run(self.conventional, normed_BLD, None, recompute=self._recompute)
        if self.attention is not None:
            assert order_BL is not None
            scanned_BLD = _run(self.attention, normed_BLD, order_BL, recompute=self._recompute)
            tokens_BLD = torch.addcmul(tokens_BLD, gate_BL1, scanned_BLD)
        return tokens_BLD


def _run(module: nn.Module, *arguments: Tensor | None, recompute: bool) -> Tensor:
    """Call a module. With `recompute` the graph keeps only its arguments, and the backward pass calls it again.

    The unit is one Mamba block: recomputing a whole layer would hold both of its blocks in the backward pass.
    """
    if recompute and torch.is_grad_enabled():
        return cast("Tensor", checkpoint(module, *arguments, use_reentrant=False, preserve_rng_state=False))
    return cast("Tensor", module(*arguments))
