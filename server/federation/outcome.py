"""Outcome of a site in a round: `Trained` with its numbers, or `Failed` with the reason.

The distinction is the class, in memory, in the journal and in `metrics.jsonl`: the two share no key.
"""

from typing import Self

from memamba_core.io.json_model import JsonModel
from memamba_core.wire.protocol import Metrics, TrainReply

from .exchange import SiteFailure

__all__ = ["Failed", "SiteMetrics", "Trained"]


class SiteMetrics(JsonModel):
    """Aggregates over one set of a site's patients; a number that the site suppresses is null."""

    num_patients: int | None = None
    """Patients of the set."""
    num_events: int | None = None
    """Patients of the set with the event."""
    loss_sum: float | None = None
    """Negative log-likelihood, summed over the patients."""
    concordant: int | None = None
    """Comparable pairs inside the site that the risks order correctly (Harrell)."""
    discordant: int | None = None
    """Comparable pairs inside the site that the risks order the wrong way round."""
    tied_risk: int | None = None
    """Comparable pairs inside the site with equal risks."""

    @classmethod
    def from_metrics(cls, metrics: Metrics) -> Self:
        """Copy the numbers of a reply, without its histogram."""
        return cls(**{name: getattr(metrics, name) for name in cls.model_fields})


class Trained(JsonModel):
    """Accepted training reply of a site."""

    trained: dict[str, int]
    """Parameter group -> number of patients whose gradient moved it; a band (its lower end) from a small site."""
    train_loss: float | None
    """Mean loss per patient over the local epochs; null where the site suppresses it."""
    incoming: SiteMetrics
    """Metrics of the weights that came into the round, on the site's `federation.curve_holdout` patients."""
    update_norm: float | None = None
    """L2 norm of the site's update; null in the records of earlier versions."""

    @classmethod
    def from_reply(cls, reply: TrainReply, update_norm: float | None = None) -> Self:
        """Keep everything of a training reply but the weights and the histogram.

        Args:
            reply: accepted reply.
            update_norm: L2 norm of its update.
        """
        return cls(
            trained=dict(reply.trained),
            train_loss=reply.train_loss,
            incoming=SiteMetrics.from_metrics(reply),
            # nine digits: the last ones depend on the order in memory, in which a resumed run differs
            update_norm=None if update_norm is None else float(f"{update_norm:.9g}"),
        )


class Failed(JsonModel):
    """Reason why a site that was asked gave no usable reply."""

    failure: str
    """Printable text, one line."""
    code: int
    """Code of the site's refusal (from 101) or of Flower's error; 0 for a reply that the coordinator rejected or left
    out."""

    @classmethod
    def from_failure(cls, failure: SiteFailure) -> Self:
        """Keep a failure of an exchange."""
        return cls(failure=failure.text, code=failure.code)
