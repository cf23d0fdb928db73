"""Evaluation of a federation's weights: the aggregates of the sites, added up."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from memamba_core.errors import NoComparablePairError
from memamba_core.survival.concordance import PairCounts
from memamba_core.survival.histogram import pair_counts_from_histogram
from memamba_core.wire.protocol import Metrics

from .exchange import SiteFailure
from .outcome import Failed, SiteMetrics

__all__ = ["Evaluation", "summarise_metrics"]


@dataclass(frozen=True)
class Evaluation:
    """Aggregates of one set of weights over all sites that disclose theirs.

    Attributes:
        num_patients: of the sites that reach their disclosure thresholds.
        num_events: the same; None where a site of a deployment withholds its events.
        loss: mean negative log-likelihood of those patients; None without any.
        c_index_histogram: concordance from summed risk-by-time counts; None without a comparable pair.
        c_index_within_site: concordance from pairs inside sites, counts added; None without a comparable pair.
        num_pairs: comparable pairs behind the larger of both.
        sites: metrics of each site, or its failure.
    """

    num_patients: int
    num_events: int | None
    loss: float | None
    c_index_histogram: float | None
    c_index_within_site: float | None
    num_pairs: int
    sites: dict[str, SiteMetrics | Failed]


def summarise_metrics(replies: Mapping[str, Metrics], failures: Mapping[str, SiteFailure] | None = None) -> Evaluation:
    """Add up the metrics that sites disclose; a site below its thresholds suppresses its metrics and adds nothing."""
    disclosed = [m for m in replies.values() if m.num_patients]
    withheld = bool(disclosed) and all(m.num_events is None for m in disclosed)
    with_loss = [m for m in disclosed if m.loss_sum is not None]
    patients_with_loss = sum(m.num_patients or 0 for m in with_loss)
    pairs = sum(
        (PairCounts(m.concordant, m.discordant or 0, m.tied_risk or 0) for m in disclosed if m.concordant is not None),
        start=PairCounts(0, 0, 0),
    )
    histograms = [m.counts["histogram"] for m in disclosed if "histogram" in m.counts]
    across = pair_counts_from_histogram(np.sum(histograms, axis=0)) if histograms else PairCounts()
    sites: dict[str, SiteMetrics | Failed] = {site: SiteMetrics.from_metrics(m) for site, m in replies.items()}
    sites |= {site: Failed.from_failure(failure) for site, failure in (failures or {}).items()}
    return Evaluation(
        num_patients=sum(m.num_patients or 0 for m in disclosed),
        num_events=None if withheld else sum(m.num_events or 0 for m in disclosed),
        loss=sum(m.loss_sum or 0.0 for m in with_loss) / patients_with_loss if patients_with_loss else None,
        c_index_histogram=_index(across),
        c_index_within_site=_index(pairs),
        num_pairs=max(across.num_pairs, pairs.num_pairs),
        sites={site: sites[site] for site in sorted(sites)},
    )


def _index(pairs: PairCounts) -> float | None:
    try:
        return pairs.c_index
    except NoComparablePairError:
        return None
