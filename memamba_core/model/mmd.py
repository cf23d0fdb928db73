"""Maximum mean discrepancy (MMD): a distance between the distributions of two sets of tokens.

The abstract of ME-Mamba (arXiv 2509.16900) says that its fusion loss is an MMD. The choice of tokens and of the
kernel is this project's.
"""

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from memamba_core.model.precision import at_least_float32, no_autocast

__all__ = ["MMD_BANDWIDTHS", "squared_mmd"]

MMD_BANDWIDTHS: Final = (4.0, 2.0, 1.0, 0.5, 0.25)
"""Multiples of the median squared distance, each half of the one before. The kernel is the sum of one Gaussian each."""

# Layer-normalised tokens have a squared norm of about their width; smaller squared distances are rounding errors.
_SMALLEST_MEDIAN: Final = 1e-3


def squared_mmd(
    first_BLD: Float[Tensor, "B L D"],
    second_BGD: Float[Tensor, "B G D"],
    weights_BL: Float[Tensor, "B L"] | None = None,
) -> Float[Tensor, " B"]:
    """Compute the squared MMD between two layer-normalised sets of tokens, for each patient separately.

    This is the biased V-statistic of Gretton et al. (2012, JMLR 13, eq. 5): the mean of k within the first set, plus
    the mean within the second, minus twice the mean across the sets; pairs of a token with itself are included.
    k(x, y) is the sum of exp(-|x - y|^2 / (c m)) over c in `MMD_BANDWIDTHS`, where m is the median squared distance
    between different tokens of both sets together. No gradient passes through m. The value is not negative, up to
    rounding.

    Args:
        first_BLD: the first set.
        second_BGD: the second set.
        weights_BL: weights of the first set's tokens, each row with sum 1; None: equal weights.

    Returns:
        One value per patient. It is 0 if a set has fewer than 2 tokens, which say nothing about a distribution.
    """
    batch, length, width = first_BLD.shape
    others = second_BGD.shape[1]
    first_BLD, second_BGD = at_least_float32(first_BLD), at_least_float32(second_BGD)
    if length < 2 or others < 2:
        return first_BLD.new_zeros(batch)
    if weights_BL is None:
        weights_BL = first_BLD.new_full((batch, length), 1 / length)
    with no_autocast(first_BLD.device):
        tokens_BMD = F.layer_norm(torch.cat([first_BLD, second_BGD], dim=1), (width,))
        # With signed weights w, the three means are one quadratic form: w' K w.
        signed_BM = torch.cat([weights_BL, weights_BL.new_full((batch, others), -1 / others)], dim=1)
        norms_BM1 = tokens_BMD.square().sum(2, keepdim=True)
        distances_BMM = torch.baddbmm(norms_BM1 + norms_BM1.mT, tokens_BMD, tokens_BMD.mT, alpha=-2).clamp_min(0)
        scale_B11 = _median_distance(distances_BMM.detach()).clamp_min(_SMALLEST_MEDIAN)[:, None, None]
        # Each bandwidth is half of the one before, so its kernel is the square: one exponential serves all.
        widest, *narrower = MMD_BANDWIDTHS
        kernel_BMM = torch.exp(distances_BMM * (-1 / (widest * scale_B11)))
        sum_BMM = kernel_BMM
        for _ in narrower:
            kernel_BMM = kernel_BMM.square()
            sum_BMM = sum_BMM + kernel_BMM
        return torch.einsum("bi,bij,bj->b", signed_BM, sum_BMM, signed_BM)


def _median_distance(distances_BMM: Tensor) -> Tensor:
    """Return the median over pairs i < j of each patient; for an even number of pairs, the lower middle one."""
    size = distances_BMM.shape[1]
    rows, columns = torch.triu_indices(size, size, offset=1, device=distances_BMM.device)
    return distances_BMM[:, rows, columns].median(dim=1).values
