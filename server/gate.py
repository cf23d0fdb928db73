"""Every reply is checked before it is averaged.

Flower's strategies believe whatever arrives: one NaN poisons a mean and a median, a huge count takes the model over.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.federation import FederationConfig
from memamba_core.data.statistics import FEATURE_CLIP
from memamba_core.model import parameter_group
from memamba_core.protocol import SIZE_BANDS, FactsReply, Metrics, StatisticsReply, TrainReply
from memamba_core.survival.histogram import NUM_RISK_BINS

__all__ = ["most_patients", "objection_to", "objection_to_facts", "objection_to_metrics", "objection_to_sums"]

_WIDEST = 65_536  # columns of features: a model of any width could be claimed for
_MOST_ROWS = 1_000_000  # of features, of one patient
_WORST_LOSS = 1e6  # of one patient: no model that can be used comes near it
_ROUNDING = 1 + 1e-9
Weights = Mapping[str, npt.NDArray[Any]]


def objection_to(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> str | None:
    """Why a training reply may not be averaged, in words for the coordinator's log; None if it may.

    Checks the set of names, shapes, dtypes and finiteness of the weights; counts that are negative, of unknown groups,
    or larger than the size band the site declared; and the norm of the update where a bound is set.
    """
    return _objection_to_counts(reply, sent, config, facts) or _objection_to_weights(reply.weights, sent, config)


def most_patients(facts: FactsReply, config: FederationConfig) -> int:
    """The most training patients that a site can have by the size band it declared."""
    above = [lower - 1 for lower in SIZE_BANDS if lower > facts.size_band]
    return min([config.max_patients_per_site, *above])


def objection_to_facts(facts: FactsReply, config: FederationConfig) -> str | None:
    """Why what a site declares of its size cannot be; None if it can."""
    for name in ("size_band", "pathology_band", "genomics_band"):
        if getattr(facts, name) not in SIZE_BANDS:
            return f"declares the {name} {getattr(facts, name)}; there are {', '.join(map(str, SIZE_BANDS))}"
    if not 0 <= facts.feature_width <= _WIDEST:
        return f"declares features of {facts.feature_width} columns; {_WIDEST} at most can be used"
    for name in ("num_patients", "num_events"):
        count = getattr(facts, name)
        if count is not None and not 0 <= count <= config.max_patients_per_site:
            return f"declares {name} {count}; federation.max_patients_per_site is {config.max_patients_per_site}"
    return None


def objection_to_sums(
    reply: StatisticsReply, num_genes: int, num_features: int, most: int, config: AgreementConfig
) -> str | None:
    """Why a site's sums may not be added up; None if they may.

    Args:
        reply: of the site.
        num_genes: gene columns that it was asked for.
        num_features: feature columns, likewise.
        most: patients that its size band allows.
        config: whether events were counted on which grid, and where values are clipped before they are summed.
    """
    for name, arrays, width, clip in (
        ("genes", reply.genes, num_genes, config.gene_statistics_clip),
        ("features", reply.features, num_features, FEATURE_CLIP),
    ):
        if set(arrays) != {"count", "mean", "m2"} or any(
            a.shape != (width,) or a.dtype != np.float64 for a in arrays.values()
        ):
            return f"sums of {name} do not have the agreed shape"
        count, mean, m2 = arrays["count"], arrays["mean"], arrays["m2"]
        if not all(np.isfinite(a).all() for a in (count, mean, m2)) or (count < 0).any() or (m2 < 0).any():
            return f"sums of {name} hold values that are negative or not finite"
        if (np.abs(mean) > clip * _ROUNDING).any() or (m2 > count * clip**2 * _ROUNDING).any():
            return f"sums of {name} are of values beyond {clip:g}, where each is clipped"
    counts_events = config.time_bins == "event_quantiles"
    if set(reply.events) != ({"event", "censored"} if counts_events else set()):
        return "counts of events do not have the agreed names"
    for counts in reply.events.values():
        if counts.shape != (config.grid_num_cells,) or counts.dtype != np.int64 or (counts < 0).any():
            return "counts of events do not have the agreed form"
    claimed = max([a.max(initial=0) for a in (reply.genes["count"], *reply.events.values())])
    if claimed > most or sum(int(c.sum()) for c in reply.events.values()) > most:
        return f"counts more patients than its size band, which ends at {most}"
    if reply.features["count"].max(initial=0) > most * _MOST_ROWS:
        return f"counts more rows of features than {most} patients can have"
    return None


def objection_to_metrics(metrics: Metrics, num_cells: int, most: int) -> str | None:
    """Why a site's metrics may not be added up, or even written down; None if they may.

    Args:
        metrics: of an evaluation, or of the weights that came into a round.
        num_cells: of the agreed time grid.
        most: patients that a site can have: `federation.max_patients_per_site`.
    """
    for name, value in metrics.model_dump(include={*Metrics.model_fields} - {"counts"}).items():
        if value is not None and not 0 <= value < math.inf:
            return f"{name} is {value}"
    num_patients = metrics.num_patients or 0
    if num_patients > most:
        return f"{num_patients} patients; federation.max_patients_per_site is {most}"
    if (metrics.loss_sum or 0.0) > _WORST_LOSS * num_patients:
        return f"loss_sum is {metrics.loss_sum} over {num_patients} patients"
    if (metrics.num_events or 0) > num_patients:
        return f"{metrics.num_events} events among {num_patients} patients"
    pairs = (metrics.concordant or 0) + (metrics.discordant or 0) + (metrics.tied_risk or 0)
    if pairs > num_patients * (num_patients - 1) // 2:
        return f"{pairs} comparable pairs among {num_patients} patients"
    if set(metrics.counts) - {"histogram"}:
        return f"counts by other names than 'histogram': {sorted(metrics.counts)[:3]}"
    for counts in metrics.counts.values():
        if counts.shape != (2, NUM_RISK_BINS, num_cells) or counts.dtype != np.int64 or (counts < 0).any():
            return "the histogram does not have the agreed form"
        if (counts > num_patients).any() or counts.sum() != num_patients:
            return f"the histogram does not count the {num_patients} patients"
    return None


def _objection_to_counts(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> str | None:
    known = {parameter_group(name) for name in sent}
    strange = sorted(set(reply.trained) - known)
    if strange:
        return f"counts for parameter groups that the model does not have: {strange[:3]}"
    most = most_patients(facts, config)
    for group, count in reply.trained.items():
        if not 0 <= count <= most:
            return f"claims {count} patients for {group}; it declared a band that ends at {most}"
    if not any(reply.trained.values()):
        return "trained on nobody"
    return None


def _objection_to_weights(got: Weights, sent: Weights, config: FederationConfig) -> str | None:
    if set(got) != set(sent):
        first = sorted(set(got) ^ set(sent))[:3]
        return f"weights with {len(got)} names, sent {len(sent)}; first differences: {first}"
    square = 0.0
    for name, reference in sent.items():
        array = got[name]
        if array.shape != reference.shape or array.dtype != np.float32:
            return f"{name} is {array.dtype} {array.shape}, sent float32 {reference.shape}"
        if not np.isfinite(array).all():
            return f"{name} holds values that are not finite"
        square += float(((array.astype(np.float64) - reference) ** 2).sum())
    norm = math.sqrt(square)
    if config.max_update_norm is not None and norm > config.max_update_norm:
        return f"the update has norm {norm:.3g}, federation.max_update_norm is {config.max_update_norm:g}"
    return None
