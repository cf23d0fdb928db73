"""Gated attention: one weight per token of a set."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memamba_core.model.precision import at_least_float32, no_autocast

__all__ = ["GatedAttention", "attention_pool"]


class GatedAttention(nn.Module):
    """One score per token: w . (tanh(V h) * sigmoid(U h)), Ilse et al. 2018 (arXiv 1802.04712, eq. 9).

    V and U have biases: the equation has none, the code of its authors does.

    Args:
        d_model: width D of a token, and of the hidden layer.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(d_model, 2 * d_model)
        """V and U, stacked so that one product computes both."""
        self.score = nn.Linear(d_model, 1, bias=False)

    def forward(self, tokens_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L"]:
        """Return scores before the softmax, in float32 even under autocast: in bfloat16 tokens would tie."""
        with no_autocast(tokens_BLD.device):
            content_BLD, gate_BLD = self.hidden(at_least_float32(tokens_BLD)).chunk(2, dim=2)
            scores_BL1: Tensor = self.score(torch.tanh(content_BLD) * torch.sigmoid(gate_BLD))
        return scores_BL1.squeeze(2)


def attention_pool(tokens_BLD: Float[Tensor, "B L D"], scores_BL: Float[Tensor, "B L"]) -> Float[Tensor, "B D"]:
    """Return the mean of the tokens weighted by the softmax of their scores, in float32 or wider."""
    with no_autocast(tokens_BLD.device):
        return torch.bmm(scores_BL.softmax(dim=1).unsqueeze(1), at_least_float32(tokens_BLD)).squeeze(1)
