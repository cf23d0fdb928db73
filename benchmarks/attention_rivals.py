"""Attention models to compare the Mamba experts with: two layers of attention over the same patch tokens.

Layers, depth and pooling are those of TransMIL (Shao et al. 2021, "TransMIL: Transformer based Correlated Multiple
Instance Learning", arXiv 2106.00908), without a feed-forward part, as there. Here they also lack the positional
encoding between the layers, which favours them.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8


class FullAttention(nn.Module):
    """Attention of every token to every other.

    torch's `scaled_dot_product_attention` computes it and keeps no L x L matrix.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Mix the tokens."""
        q, k, v = _heads(self.qkv(tokens_BLD))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class NystromAttention(nn.Module):
    """Attention through D / 2 landmarks, linear in L.

    Xiong et al. 2021, "Nystromformer" (arXiv 2102.03902), with their iteration for the pseudoinverse (six steps) and
    their depthwise convolution over the values, 33 tokens wide as in TransMIL.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.landmarks = d_model // 2
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model)
        self.skip = nn.Conv2d(HEADS, HEADS, (33, 1), padding=(16, 0), groups=HEADS, bias=False)

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Mix the tokens. Zeros before the first token pad the length to a multiple of the landmarks."""
        length = tokens_BLD.shape[1]
        q, k, v = _heads(self.qkv(F.pad(tokens_BLD, (0, 0, -length % self.landmarks, 0))))
        q = q * q.shape[3] ** -0.5
        q_marks, k_marks = (x.unflatten(2, (self.landmarks, -1)).mean(3) for x in (q, k))
        left, middle, right = (a @ b.mT for a, b in ((q, k_marks), (q_marks, k_marks), (q_marks, k)))
        mixed = left.softmax(3) @ (_pseudoinverse(middle.softmax(3)) @ (right.softmax(3) @ v))
        return self.out((mixed + self.skip(v)).transpose(1, 2).flatten(2)[:, -length:])


def _heads(qkv_BLX: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.unflatten(2, (HEADS, -1)).transpose(1, 2) for x in qkv_BLX.chunk(3, dim=2))
    return q, k, v


def _pseudoinverse(matrix: Tensor) -> Tensor:
    absolute = matrix.abs()
    inverse = matrix.mT / (absolute.sum(3).amax() * absolute.sum(2).amax())
    eye = torch.eye(matrix.shape[3], device=matrix.device)
    for _ in range(6):
        product = matrix @ inverse
        inverse = 0.25 * inverse @ (13 * eye - product @ (15 * eye - product @ (7 * eye - product)))
    return inverse


class AttentionLayers(nn.Module):
    """Residual layers of attention, each after a norm."""

    def __init__(self, attention: Callable[[int], nn.Module], d_model: int, num_layers: int = 2) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(num_layers))
        self.layers = nn.ModuleList(attention(d_model) for _ in range(num_layers))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        """Return the tokens after the layers."""
        for norm, layer in zip(self.norms, self.layers, strict=True):
            tokens_BLD = tokens_BLD + layer(norm(tokens_BLD))
        return tokens_BLD


class AttentionAggregator(nn.Module):
    """Bag of patch features -> class token and tokens -> layers of attention -> logits of K time bins."""

    def __init__(self, attention: Callable[[int], nn.Module], feature_width: int, d_model: int, num_bins: int) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(feature_width, d_model), nn.ReLU())
        self.class_token = nn.Parameter(torch.randn(1, 1, d_model) * 0.02)
        self.layers = AttentionLayers(attention, d_model)
        self.head = nn.Sequential(nn.LayerNorm(d_model), nn.Linear(d_model, num_bins))

    def forward(self, patches_BPF: Tensor) -> Tensor:
        """Compute logits, (B, K)."""
        tokens_BPD = self.tokens(patches_BPF)
        tokens_BLD = torch.cat([self.class_token.expand(len(tokens_BPD), -1, -1), tokens_BPD], dim=1)
        logits_BK: Tensor = self.head(self.layers(tokens_BLD)[:, 0])
        return logits_BK
