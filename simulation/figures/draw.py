"""Which figures an output folder gets, and from which numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memamba_core.figures.learning_curves import draw_rounds
from memamba_core.survival.concordance import count_pairs
from simulation.methods import MIN_PAIRS

from .comparison import draw_comparison
from .sites import SiteBar, draw_site_bars
from .survival import draw_kaplan_meier

__all__ = ["draw_figures", "rank_within_fold"]


def draw_figures(
    folder: Path, summary: Mapping[str, Any], predictions: pd.DataFrame | None, lines: Sequence[Mapping[str, Any]]
) -> None:
    """Draw what the finished folds allow, into `folder/figures`.

    Args:
        folder: output folder.
        summary: contents of `summary.json`.
        predictions: out-of-fold predictions of the methods that were run.
        lines: of `metrics.jsonl`.
    """
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    name = f"{summary['cohort']}, {summary['num_sites']} hospitals"
    if lines:
        draw_rounds(figures / "learning_curves.png", lines, name)
    ran = {m: [fold[m] for fold in summary["folds"]] for m in summary["c_index"] if summary["details"][0][m]}
    if len(ran) > 1:
        named = {"each hospital alone" if method == "local" else method: values for method, values in ran.items()}
        draw_comparison(figures / "comparison.png", named, summary["oracle_c_index"])
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
    overall = summary["c_index"][method]  # None where no fold has a comparable pair
    draw_site_bars(figures / "sites.png", _site_bars(shown), overall and overall["mean"])


def rank_within_fold(predictions: pd.DataFrame) -> np.ndarray:
    """Risk as a rank in (0, 1] among the patients of the same fold: each fold has a model, and a scale, of its own."""
    ranks = predictions.groupby("fold")["risk"].rank(pct=True)
    return np.asarray(ranks, dtype=np.float64)


def _site_bars(predictions: pd.DataFrame) -> list[SiteBar]:
    """A bar per hospital from its out-of-fold predictions; pairs inside hospital and fold are counted."""
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
