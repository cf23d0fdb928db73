"""Check every reply before it is averaged.

Flower's strategies check nothing: one NaN makes a mean and a median NaN, and a huge count replaces the model.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.federation import FederationConfig
from memamba_core.data.statistics import FEATURE_CLIP
from memamba_core.errors import RejectedReplyError
from memamba_core.model import parameter_group
from memamba_core.survival.histogram import NUM_RISK_BINS
from memamba_core.wire.protocol import SIZE_BANDS, FactsReply, Metrics, StatisticsReply, TrainReply

__all__ = ["check_facts", "check_metrics", "check_sums", "check_training_reply", "max_patients"]

_MAX_WIDTH = 65_536  # columns of features; without a limit a site could claim a model of any width
_MAX_ROWS = 1_000_000  # rows of features of one patient
_MAX_LOSS = 1e6  # of one patient; the loss of a usable model is far smaller
_ROUNDING = 1 + 1e-9
Weights = Mapping[str, npt.NDArray[Any]]


def check_training_reply(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> None:
    """Check that a training reply can be averaged.

    Check names, shapes, dtypes and finiteness of the weights; counts, which must not be negative, of unknown groups, or
    larger than the size band that the site declared. Counts may all be 0: such a reply adds nothing to the average.

    Raises:
        RejectedReplyError: the reply cannot be averaged; the text may stand in the coordinator's log.
    """
    _check_counts(reply, sent, config, facts)
    _check_weights(reply.weights, sent)


def max_patients(facts: FactsReply, config: FederationConfig) -> int:
    """Return the largest number of training patients in the size band that a site declared."""
    above = [lower - 1 for lower in SIZE_BANDS if lower > facts.size_band]
    return min([config.max_patients_per_site, *above])


def check_facts(facts: FactsReply, config: FederationConfig) -> None:
    """Check the sizes that a site declares.

    Raises:
        RejectedReplyError: a size is impossible.
    """
    for name in ("size_band", "pathology_band", "genomics_band"):
        if getattr(facts, name) not in SIZE_BANDS:
            allowed = ", ".join(map(str, SIZE_BANDS))
            raise RejectedReplyError(f"{name} is {getattr(facts, name)}; expected one of {allowed}")
    if not 0 <= facts.feature_width <= _MAX_WIDTH:
        raise RejectedReplyError(f"feature_width is {facts.feature_width}; expected 0 to {_MAX_WIDTH} columns")
    for name in ("num_patients", "num_events"):
        count = getattr(facts, name)
        if count is not None and not 0 <= count <= config.max_patients_per_site:
            raise RejectedReplyError(
                f"{name} is {count}; expected 0 to federation.max_patients_per_site={config.max_patients_per_site}"
            )


def check_sums(
    reply: StatisticsReply,
    num_genes: int,
    num_features: int,
    most: int,
    config: AgreementConfig,
    *,
    count_events: bool,
) -> None:
    """Check that a site's sums can be added up.

    Args:
        reply: sums of the site.
        num_genes: gene columns that the site was asked for.
        num_features: feature columns that the site was asked for.
        most: largest number of patients in the site's size band.
        config: time grid, and the bound at which values are clipped before they are summed.
        count_events: whether the site was asked for counts of events.

    Raises:
        RejectedReplyError: a shape, type or value is impossible.
    """
    for name, arrays, width, clip in (
        ("genes", reply.genes, num_genes, config.gene_statistics_clip),
        ("features", reply.features, num_features, FEATURE_CLIP),
    ):
        if set(arrays) != {"count", "mean", "m2"} or any(
            a.shape != (width,) or a.dtype != np.float64 for a in arrays.values()
        ):
            raise RejectedReplyError(f"sums of {name} do not have the agreed shape")
        count, mean, m2 = arrays["count"], arrays["mean"], arrays["m2"]
        if not all(np.isfinite(a).all() for a in (count, mean, m2)) or (count < 0).any() or (m2 < 0).any():
            raise RejectedReplyError(f"sums of {name} hold values that are negative or not finite")
        if (np.abs(mean) > clip * _ROUNDING).any() or (m2 > count * clip**2 * _ROUNDING).any():
            raise RejectedReplyError(f"sums of {name} hold values beyond {clip:g}, at which each value is clipped")
    if set(reply.events) != ({"event", "censored"} if count_events else set()):
        raise RejectedReplyError("counts of events do not have the agreed names")
    for counts in reply.events.values():
        if counts.shape != (config.grid_num_cells,) or counts.dtype != np.int64 or (counts < 0).any():
            raise RejectedReplyError("counts of events do not have the agreed form")
    claimed = max([a.max(initial=0) for a in (reply.genes["count"], *reply.events.values())])
    if claimed > most or sum(int(c.sum()) for c in reply.events.values()) > most:
        raise RejectedReplyError(f"counts more patients than its size band allows: expected at most {most}")
    if reply.features["count"].max(initial=0) > most * _MAX_ROWS:
        raise RejectedReplyError(f"counts more rows of features than {most} patients can have")


def check_metrics(metrics: Metrics, num_cells: int, most: int) -> None:
    """Check that a site's metrics can be added up and written down.

    Args:
        metrics: metrics of an evaluation, or of the weights that came into a round.
        num_cells: cells of the agreed time grid.
        most: largest number of patients of a site, `federation.max_patients_per_site`.

    Raises:
        RejectedReplyError: a value is impossible.
    """
    for name, value in metrics.model_dump(include={*Metrics.model_fields} - {"counts"}).items():
        if value is not None and not 0 <= value < math.inf:
            raise RejectedReplyError(f"{name} is {value}; expected a finite number of at least 0")
    num_patients = metrics.num_patients or 0
    if num_patients > most:
        raise RejectedReplyError(f"{num_patients} patients; federation.max_patients_per_site is {most}")
    if (metrics.loss_sum or 0.0) > _MAX_LOSS * num_patients:
        raise RejectedReplyError(f"loss_sum is {metrics.loss_sum} over {num_patients} patients")
    if (metrics.num_events or 0) > num_patients:
        raise RejectedReplyError(f"{metrics.num_events} events among {num_patients} patients")
    pairs = (metrics.concordant or 0) + (metrics.discordant or 0) + (metrics.tied_risk or 0)
    if pairs > num_patients * (num_patients - 1) // 2:
        raise RejectedReplyError(f"{pairs} comparable pairs among {num_patients} patients")
    if set(metrics.counts) - {"histogram"}:
        raise RejectedReplyError(f"counts are named {sorted(metrics.counts)[:3]}; expected 'histogram' only")
    for counts in metrics.counts.values():
        if counts.shape != (2, NUM_RISK_BINS, num_cells) or counts.dtype != np.int64 or (counts < 0).any():
            raise RejectedReplyError("the histogram does not have the agreed form")
        if (counts > num_patients).any() or counts.sum() != num_patients:
            raise RejectedReplyError(f"the histogram does not count the {num_patients} patients")


def _check_counts(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> None:
    known = {parameter_group(name) for name in sent}
    unknown = sorted(set(reply.trained) - known)
    if unknown:
        raise RejectedReplyError(f"counts for parameter groups that the model does not have: {unknown[:3]}")
    most = max_patients(facts, config)
    for group, count in reply.trained.items():
        if not 0 <= count <= most:
            raise RejectedReplyError(f"claims {count} patients for {group}; its declared size band ends at {most}")


def _check_weights(got: Weights, sent: Weights) -> None:
    if set(got) != set(sent):
        first = sorted(set(got) ^ set(sent))[:3]
        raise RejectedReplyError(
            f"{len(got)} weights; expected the {len(sent)} that were sent. First differences: {first}"
        )
    for name, reference in sent.items():
        array = got[name]
        if array.shape != reference.shape or array.dtype != np.float32:
            raise RejectedReplyError(f"{name} is {array.dtype} {array.shape}; expected float32 {reference.shape}")
        if not np.isfinite(array).all():
            raise RejectedReplyError(f"{name} holds values that are not finite")
