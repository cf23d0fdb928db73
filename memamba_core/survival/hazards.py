"""Hazards, survival and one risk per patient from the model's logits.

The model gives one logit per time bin. Bin k is [edge k, edge k+1), in months; the last bin is open.
"""

import torch
from jaxtyping import Float

__all__ = ["hazards_from_logits", "risk_from_logits", "survival_from_logits"]


def hazards_from_logits(logits_BK: Float[torch.Tensor, "B K"]) -> Float[torch.Tensor, "B K"]:
    """Compute discrete hazards: P(event in bin k | alive at its start) (Zadeh & Schmid 2020).

    Args:
        logits_BK: one row per patient, one column per time bin, any floating dtype.

    Returns:
        Probabilities in the same dtype.
    """
    return torch.sigmoid(logits_BK)


def survival_from_logits(logits_BK: Float[torch.Tensor, "B K"]) -> Float[torch.Tensor, "B K"]:
    """Compute survival: P(no event up to the end of bin k), the product of (1 - hazard) over bins 0...k.

    The product is a sum of logarithms, because 1 - sigmoid(x) is 0 in float32 from x = 17 on and a product of
    such factors has no gradient; log sigmoid(-x) keeps its value and its gradient.

    Args:
        logits_BK: one row per patient, one column per time bin, any floating dtype.

    Returns:
        Probabilities in the same dtype, never rising along a row. Column k is survival at interior edge k;
        the last column belongs to the open bin and to no time in months.
    """
    return torch.exp(torch.cumsum(torch.nn.functional.logsigmoid(-logits_BK), dim=1))


def risk_from_logits(logits_BK: Float[torch.Tensor, "B K"]) -> Float[torch.Tensor, " B"]:
    """Compute one risk per patient: minus the sum of survival over the bins. Higher is worse.

    The sum of survival is the expected number of bins survived, so risk is in [-K, 0]: a patient with risk 0 dies at
    once, a patient with risk -K survives all bins.

    Args:
        logits_BK: one row per patient, one column per time bin. Widen half precision before the call:
            bfloat16 has 128 values between -4 and -2, and ties in risk count half in a concordance
            index.

    Returns:
        Risks in the same dtype.
    """
    return -survival_from_logits(logits_BK).sum(dim=1)
