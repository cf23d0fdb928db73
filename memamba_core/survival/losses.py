"""Negative log-likelihood of discrete-time survival, which training minimises."""

from typing import Literal, assert_never

import torch
from jaxtyping import Bool, Float, Int64
from torch.nn.functional import logsigmoid, pad

__all__ = ["nll_loss"]


def nll_loss(
    logits_BK: Float[torch.Tensor, "B K"],
    time_bin_B: Int64[torch.Tensor, " B"],
    event_B: Bool[torch.Tensor, " B"],
    *,
    alpha: float = 0.0,
    censored_bin: Literal["through", "before"] = "through",
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Float[torch.Tensor, "..."]:
    """Compute the negative log-likelihood of right-censored survival in discrete time.

    With hazards h_k = sigmoid(logit k) (Zadeh & Schmid 2020, with MCAT's convention for the censored bin)::

        event in bin k:      -log h_k - sum over j < k of log(1 - h_j)
        censored in bin k:   -sum over j <= k of log(1 - h_j)      (censored_bin="through")
                             -sum over j <  k of log(1 - h_j)      (censored_bin="before")

    All logarithms are `logsigmoid` of a logit: no probability is clamped, so a badly mispredicted
    patient still has a gradient. The loss depends on the logits in every batch, also in a batch without an event.

    Args:
        logits_BK: one row per patient, one column per time bin.
        time_bin_B: bin in 0...K-1 that holds the time (months) of the event or of the last visit.
        event_B: True: the event happened in that bin. False: the patient was censored in it.
        alpha: (1 - alpha) x all patients + alpha x patients with an event (Zadeh & Schmid 2020): a censored
            patient weighs 1 - alpha, a patient with an event 1.
        censored_bin: whether a censored patient is credited with surviving the bin of the last visit.
            "through" is optimistic by the part of the bin that was not observed, "before" pessimistic by the
            part that was; with "before" a patient censored in bin 0 adds nothing.
        reduction: "mean" over the patients (not over the weights), their "sum", or "none": one value per
            patient.

    Returns:
        A scalar, or B values for "none", in the dtype of the logits.

    Raises:
        ValueError: "mean" of no patients.
    """
    log_survived_BK = logsigmoid(-logits_BK)
    # Column k of the padded sums is log survival before bin k, column k + 1 log survival through bin k.
    # Padding loses no digits; subtracting the bin's own term would.
    log_survived_before = pad(torch.cumsum(log_survived_BK, dim=1), (1, 0))
    bin_B1 = time_bin_B.unsqueeze(1)
    before_B = log_survived_before.gather(1, bin_B1).squeeze(1)
    through_B = log_survived_before.gather(1, bin_B1 + 1).squeeze(1)
    log_hazard_B = logsigmoid(logits_BK).gather(1, bin_B1).squeeze(1)

    censored_B = through_B if censored_bin == "through" else before_B
    nll_B = -torch.where(event_B, log_hazard_B + before_B, (1.0 - alpha) * censored_B)
    match reduction:
        case "none":
            return nll_B
        case "sum":
            return nll_B.sum()
        case "mean":
            if not nll_B.numel():
                raise ValueError(
                    "the batch has no patients; expected at least one for a mean loss. Skip empty batches."
                )
            return nll_B.mean()
        case _:
            assert_never(reduction)
