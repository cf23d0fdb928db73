"""An expert: scores tokens, scans them in two orders, pools them.

The abstract of ME-Mamba (arXiv 2509.16900) says that both unimodal experts are Mamba with conventional and
with attention-based scanning. How the two are made and merged is this project's reading (docs/explanation/model.md).
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
    """What an expert makes of tokens.

    Attributes:
        tokens_BLD: the tokens after its layers, in the order in which they came.
        pooled_BD: their mean, weighted by the softmax of the scores.
        scores_BL: one score per token, before the softmax.
    """

    tokens_BLD: Float[Tensor, "B L D"]
    pooled_BD: Float[Tensor, "B D"]
    scores_BL: Float[Tensor, "B L"]


class Expert(nn.Module):
    """Gated attention scores, `num_layers` residual layers of Mamba scans, and pooling by the scores.

    Scores are computed once, from the tokens as they come in: they set the order and the gate of every
    layer's attention-based scan, and the weights of the pooling.

    Args:
        config: widths, and `attention_order`.
        num_layers: number of layers; with no `scans` there are none, and attention pooling is all that is
            left.
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
        """Runs on sequences of equal length; no patient's result depends on another's."""
        scores_BL = _run(self.attention, tokens_BLD, recompute=self._recompute)
        order_BL = None
        if self._sorts:
            order_BL = torch.argsort(scores_BL.detach(), dim=1, descending=self._descending, stable=True)
        gate_BL1 = scores_BL.sigmoid().unsqueeze(2)
        for layer in self.layers:
            tokens_BLD = layer(tokens_BLD, gate_BL1, order_BL)
        return ExpertOutput(tokens_BLD, attention_pool(tokens_BLD, scores_BL), scores_BL)


class ScanLayer(nn.Module):
    """tokens + conventional scan + sigmoid(score) x attention-based scan, both of the normalised tokens.

    A sort passes no gradient to the scores; the gate does. It is the sigmoid and not the softmax of the
    score, because that is about 1/L and vanishes on long bags.
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
        """One residual layer. `order_BL` is that of the attention-based scan; without one it is None."""
        normed_BLD = self.norm(tokens_BLD)
        if self.conventional is not None:
            tokens_BLD = tokens_BLD + _run(self.conventional, normed_BLD, None, recompute=self._recompute)
        if self.attention is not None:
            assert order_BL is not None
            scanned_BLD = _run(self.attention, normed_BLD, order_BL, recompute=self._recompute)
            tokens_BLD = torch.addcmul(tokens_BLD, gate_BL1, scanned_BLD)
        return tokens_BLD


def _run(module: nn.Module, *arguments: Tensor | None, recompute: bool) -> Tensor:
    """Calls a module; with `recompute` the graph keeps its arguments only, and the backward pass calls it again.

    One Mamba block at a time: a whole layer would hold both again in the backward pass.
    """
    if recompute and torch.is_grad_enabled():
        return cast("Tensor", checkpoint(module, *arguments, use_reentrant=False, preserve_rng_state=False))
    return cast("Tensor", module(*arguments))
