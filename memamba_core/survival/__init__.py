"""Discrete-time survival: time bins, hazards, the likelihood, and measures of how risks rank patients.

Conventions, the same in every file:

* `event=True`: the event happened at `time_months`. `event=False`: the patient was last seen alive then
  (right-censored).
* A higher `risk` is worse. It lies in [-K, 0]: minus the sum of the K survival probabilities.
* Time is in months; a bin or grid cell is [a, b), the last one is open.
* A measure that cannot be computed never looks like a number: a concordance index without a comparable pair raises
  `NoComparablePairError`, and any other measure that is not defined is None.

Pair counts and histograms of several sites are added up. A mean of the sites' C-indices would be a different and wrong
quantity, because a site's index rests on few pairs and leaves out every pair across sites.
"""

from memamba_core.survival.concordance import PairCounts, concordance_index, concordance_interval, count_pairs
from memamba_core.survival.curves import integrated_brier_score, log_rank_p, time_dependent_auc
from memamba_core.survival.hazards import hazards_from_logits, risk_from_logits, survival_from_logits
from memamba_core.survival.histogram import NUM_RISK_BINS, pair_counts_from_histogram, risk_edges, risk_time_histogram
from memamba_core.survival.losses import nll_loss
from memamba_core.survival.time_bins import (
    assign_time_bin,
    assign_time_bins,
    edges_from_event_counts,
    grid_cell,
    grid_cells,
)

__all__ = [
    "NUM_RISK_BINS",
    "PairCounts",
    "assign_time_bin",
    "assign_time_bins",
    "concordance_index",
    "concordance_interval",
    "count_pairs",
    "edges_from_event_counts",
    "grid_cell",
    "grid_cells",
    "hazards_from_logits",
    "integrated_brier_score",
    "log_rank_p",
    "nll_loss",
    "pair_counts_from_histogram",
    "risk_edges",
    "risk_from_logits",
    "risk_time_histogram",
    "survival_from_logits",
    "time_dependent_auc",
]
