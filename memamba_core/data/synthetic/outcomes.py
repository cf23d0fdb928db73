"""Draw risk and follow-up of a generated cohort."""

from typing import assert_never

import numpy as np
import numpy.typing as npt

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.synthetic.slides import GeneratedSlides

__all__ = ["draw_outcomes", "planted_risk"]

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def planted_risk(
    config: SyntheticConfig,
    gene_scores_NG: FloatArray,
    slides: GeneratedSlides,
    has_genes_N: BoolArray,
    has_slides_N: BoolArray,
) -> tuple[FloatArray, FloatArray]:
    """Compute the log hazard ratio of every patient, and its expectation given the measured modalities.

    `config.risk` decides how the scores of the planted gene groups and kinds of patches make the log hazard ratio.
    """
    has_both_N = has_genes_N & has_slides_N
    gene_score_N, patch_score_N = gene_scores_NG[:, 0], slides.scores_NK[:, 0]
    match config.risk:
        case "genes":
            score_N, known_N = gene_score_N, gene_score_N * has_genes_N
        case "patches" | "order":
            score_N, known_N = patch_score_N, patch_score_N * has_slides_N
        case "both":
            score_N = gene_score_N + patch_score_N
            known_N = gene_score_N * has_genes_N + patch_score_N * has_slides_N
        case "interaction":
            score_N = np.sign(gene_score_N) * np.where(slides.high_NK[:, 0], 1.0, -1.0)
            known_N = score_N * has_both_N
        case "correspondence":
            score_N = (gene_scores_NG * slides.scores_NK).sum(axis=1)
            known_N = score_N * has_both_N
        case _:
            assert_never(config.risk)
    scale = config.effect / score_N.std()
    return scale * score_N, scale * known_N


def draw_outcomes(
    config: SyntheticConfig, log_hazard_N: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, BoolArray]:
    """Draw the follow-up in months, and whether the event happened at its end."""
    rate_N = np.log(2) / config.median_months * np.exp(log_hazard_N)
    event_time_N = rng.exponential(1.0 / rate_N)
    draw_N = rng.exponential(1.0, size=config.num_patients)
    if config.censoring == 0:
        return event_time_N, np.ones(config.num_patients, dtype=np.bool_)
    censoring_time_N = draw_N / _censoring_rate(rate_N, config.censoring)
    return np.minimum(event_time_N, censoring_time_N), event_time_N <= censoring_time_N


def _censoring_rate(rate_N: FloatArray, share: float) -> float:
    """Solve for the rate c of an exponential censoring time: the mean over patients of c / (c + rate) is `share`.

    c / (c + rate) is the probability that an exponential time of rate c comes before one of rate `rate`. This
    probability grows with c, and c = share / (1 - share) * rate is the solution for one patient, so the solution for
    all lies between the extremes.
    """
    odds = share / (1 - share)
    low, high = np.log(odds * rate_N.min()), np.log(odds * rate_N.max())
    for _ in range(60):
        middle = (low + high) / 2
        if np.mean(1 / (1 + rate_N * np.exp(-middle))) < share:
            low = middle
        else:
            high = middle
    return float(np.exp((low + high) / 2))
