"""Sort the training replies of a round: accepted, left out, rejected.

A reply that is left out is an answer of its site, which adds nothing to the average: the site trained on no patient, or
its update is far larger than those of the others. A rejected reply is no answer.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from memamba_core.config.federation import FederationConfig
from memamba_core.errors import ProtocolError, RejectedReplyError
from memamba_core.training.update_norm import ROUNDING, update_norm
from memamba_core.wire.protocol import TrainReply
from memamba_core.wire.weight_deltas import decode_delta

from .exchange import Answers, SiteFailure
from .expected_way import expected_way
from .handshake import Handshake, Run
from .validation import check_metrics, check_training_reply, max_patients

__all__ = ["SortedReplies", "Update", "outlying_updates", "sort_replies"]

_FEWEST_FOR_MEDIAN = 3
"""Replies of which the median is taken: of two, neither can be called the outlier."""
_IDLE = SiteFailure(0, "answered with the weights that it received and trained on no patient; its log says why")
Weights = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class SortedReplies:
    """Training replies of a round.

    Attributes:
        accepted: replies to be averaged, weights in float32.
        norms: L2 norm of the update of each accepted reply.
        idle: answers of sites that trained on no patient.
        outliers: answers whose update is too large, with the reason.
        rejected: replies that cannot be used, with the reason.
    """

    accepted: dict[str, TrainReply]
    norms: dict[str, float]
    idle: dict[str, SiteFailure]
    outliers: dict[str, SiteFailure]
    rejected: dict[str, SiteFailure]

    @property
    def left_out(self) -> dict[str, SiteFailure]:
        """Answers that add nothing to the average."""
        return self.idle | self.outliers

    @property
    def answered(self) -> set[str]:
        """Sites that answered."""
        return {*self.accepted, *self.left_out}


def sort_replies(
    answers: Answers[TrainReply], server_round: int, sent: Weights, run: Run, handshake: Handshake
) -> SortedReplies:
    """Sort the replies of a round.

    Args:
        answers: replies by site.
        server_round: from 1.
        sent: weights of the request.
        run: settings.
        handshake: declarations of the sites.
    """
    experiment = run.experiment
    config, cells = experiment.federation, experiment.agreement.grid_num_cells
    accepted: dict[str, TrainReply] = {}
    idle: dict[str, SiteFailure] = {}
    rejected: dict[str, SiteFailure] = {}
    for site, answer in answers.replies.items():
        try:
            reply = _as_weights(answer, sent, config)
            check_training_reply(reply, sent, config, handshake.facts[site])
            check_metrics(reply, cells, config.max_patients_per_site)
        except (ProtocolError, RejectedReplyError) as error:
            rejected[site] = SiteFailure(0, str(error))
            continue
        if any(reply.trained.values()):
            accepted[site] = reply
        else:
            idle[site] = _IDLE
    updates = {}
    for site, reply in accepted.items():
        facts, count = handshake.facts[site], max(reply.trained.values())
        updates[site] = Update(
            update_norm(reply.weights, sent),
            expected_way(experiment, server_round, count, facts.size_band),
            expected_way(experiment, server_round, max_patients(facts, config), facts.size_band),
        )
    outliers = outlying_updates(updates, config)
    for site in outliers:
        del accepted[site], updates[site]
    norms = {site: update.norm for site, update in updates.items()}
    return SortedReplies(accepted, norms, idle, outliers, rejected)


@dataclass(frozen=True)
class Update:
    """Size of an update.

    Attributes:
        norm: L2 norm.
        way: way that the settings prescribe for the patients on which the site says it trained.
        longest_way: the same for the largest number of patients in the band that the site declared.
    """

    norm: float
    way: float = 1.0
    longest_way: float = 1.0


def outlying_updates(updates: Mapping[str, Update], config: FederationConfig) -> dict[str, SiteFailure]:
    """Name the updates that are too large to be averaged.

    An update is too large if its norm is beyond `federation.update_norm_factor` times the median norm, and remains so
    when each norm is divided by the way that the settings prescribe for a site of that size. The median of an even
    number is the lower one of the middle two: as long as no more than half of the sites send large updates, it is not
    larger than the largest honest norm.

    Args:
        updates: update of each site.
        config: largest norm, and largest multiple of the median.
    """
    outlying: dict[str, SiteFailure] = {}
    factor = config.update_norm_factor if len(updates) >= _FEWEST_FOR_MEDIAN else None
    median = statistics.median_low(update.norm for update in updates.values()) if updates else 0.0
    per_way = statistics.median_low(update.norm / update.way for update in updates.values()) if updates else 0.0
    for site, update in updates.items():
        if config.update_norm is not None and update.norm > config.update_norm * ROUNDING:
            outlying[site] = SiteFailure(
                0,
                f"its update has norm {update.norm:.3g}; expected at most federation.update_norm="
                f"{config.update_norm:g}",
            )
            continue
        if factor is None or not median:
            continue
        largest = factor * max(median, per_way * update.longest_way)
        if update.norm > largest:
            outlying[site] = SiteFailure(
                0,
                f"its update has norm {update.norm:.3g}, {update.norm / median:.3g} times the round's median "
                f"{median:.3g}; expected at most {largest:.3g} of a site of its size (federation.update_norm_factor="
                f"{factor:g})",
            )
    return outlying


def _as_weights(reply: TrainReply, sent: Weights, config: FederationConfig) -> TrainReply:
    """Return the reply with float32 weights, decoded from the format in which they travelled.

    Raises:
        ProtocolError: the weights are not in the agreed format.
    """
    if config.wire == "bfloat16_delta":
        return reply.model_copy(update={"weights": decode_delta(reply.weights, sent)})
    return reply
