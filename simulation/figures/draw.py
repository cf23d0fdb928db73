"""Choose the figures of an output folder and the numbers they are drawn from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memamba_core.figures.learning_curves import draw_rounds
from memamba_core.survival.concordance import count_pairs
from simulation.methods import MIN_PAIRS
from simulation.summary import METHODS, SimulationSummary

from .comparison import draw_comparison
from .sites import SiteBar, draw_site_bars
from .survival import draw_kaplan_meier

__all__ = ["draw_figures", "rank_within_fold"]


def draw_figures(
    folder: Path, summary: SimulationSummary, predictions: pd.DataFrame | None, lines: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the figures that the finished folds allow, into `folder/figures`.

    Args:
        folder: output folder.
        summary: contents of `summary.json`.
        predictions: out-of-fold predictions of the methods that were run; None without any.
        lines: of `metrics.jsonl`.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    name = f"{summary.cohort}, {summary.num_sites} sites"
    if lines:
        draw_rounds(figures / "learning_curves.png", lines, name)
    ran = {m: [fold.c_index(m) for fold in summary.details] for m in METHODS if getattr(summary.details[0], m)}
    if len(ran) > 1:
        named = {"each site alone" if method == "local" else method: values for method, values in ran.items()}
        draw_comparison(figures / "comparison.png", named, summary.oracle_c_index)
    if predictions is None:
        return
    method = "federated" if "federated" in ran else "pooled"
    shown = predictions[predictions["method"] == method]
    draw_kaplan_meier(
        figures / "kaplan_meier.png",
        shown["time_months"].to_numpy(dtype=np.float64),
        shown["event"].to_numpy(dtype=bool),
        rank_within_fold(shown),
        f"{name}: {method} model",
    )
    overall = getattr(summary.c_index, method)  # None where no fold has a comparable pair
    draw_site_bars(figures / "sites.png", _site_bars(shown), overall and overall.mean)


def rank_within_fold(predictions: pd.DataFrame) -> np.ndarray:
    """Return risk as a rank in (0, 1] among the patients of the same fold: each fold has its own model and scale."""
    ranks = predictions.groupby("fold")["risk"].rank(pct=True)
    return np.asarray(ranks, dtype=np.float64)


def _site_bars(predictions: pd.DataFrame) -> list[SiteBar]:
    """Build a bar per site from its out-of-fold predictions; pairs inside site and fold are counted."""
    bars = []
    for site, rows in predictions.groupby("site"):
        pairs = [
            count_pairs(
                fold["risk"].to_numpy(dtype=np.float64),
                fold["time_months"].to_numpy(dtype=np.float64),
                fold["event"].to_numpy(dtype=bool),
            )
            for _, fold in rows.groupby("fold")
        ]
        total = sum(pairs[1:], start=pairs[0])
        c_index = total.c_index if total.num_pairs >= MIN_PAIRS else None
        bars.append(SiteBar(str(site), len(rows), int(rows["event"].sum()), total.num_pairs, c_index))
    return bars
