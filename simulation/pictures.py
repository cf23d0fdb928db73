"""Which figures an output folder gets, and from which numbers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from memamba_core.errors import NoComparablePairError
from memamba_core.survival.concordance import count_pairs

from .figure_comparison import draw_comparison
from .figure_curves import draw_learning_curves
from .figure_sites import SiteBar, draw_site_bars
from .figure_survival import draw_kaplan_meier

__all__ = ["draw_figures", "learning_curve", "rank_within_fold"]

MIN_PAIRS = 50
"""A site's bar needs this many comparable pairs: fewer say nothing, and an 11-patient site with one death reports
1.000."""


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
        rounds, train_loss, holdout = learning_curve(lines)
        folds = len({line["fold"] for line in lines})
        title = f"{name}: mean over {folds} folds" if folds > 1 else name
        draw_learning_curves(figures / "learning_curves.png", rounds, train_loss, holdout, title)
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


def learning_curve(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[list[int], list[float | None], dict[str, list[float | None]]]:
    """Rounds, training loss and, where a holdout was evaluated, its loss and C-index inside sites.

    Means are over patients, whatever their site. Metrics in line r are of the weights that came into round r, so they
    are drawn at r - 1.
    """
    table = pd.json_normalize([dict(line) for line in lines], sep=".")
    for column in ("train_loss", "trained.head", *(f"incoming.{c}" for c in _INCOMING)):
        if column not in table:
            table[column] = np.nan
    rounds = sorted(int(r) for r in table["round"].unique())
    by_round = table.groupby("round")
    weight = table["trained.head"].where(table["train_loss"].notna())
    loss = (table["train_loss"] * weight).groupby(table["round"]).sum(min_count=1) / weight.groupby(
        table["round"]
    ).sum()
    train_loss = [_none_if_nan(loss.get(r)) for r in rounds]
    sums = by_round[[f"incoming.{c}" for c in _INCOMING]].sum(min_count=1).rename(columns=lambda c: c.split(".")[1])
    if sums["num_patients"].isna().all():
        return rounds, train_loss, {}
    pairs = sums["concordant"] + sums["discordant"] + sums["tied_risk"]
    c_index = (sums["concordant"] + 0.5 * sums["tied_risk"]) / pairs.where(pairs > 0)
    held_out_loss = sums["loss_sum"] / sums["num_patients"]
    return (
        [r - 1 for r in rounds],
        [None, *train_loss[:-1]],
        {
            "held-out loss": [_none_if_nan(held_out_loss.get(r)) for r in rounds],
            "C-index inside sites": [_none_if_nan(c_index.get(r)) for r in rounds],
        },
    )


_INCOMING = ("num_patients", "loss_sum", "concordant", "discordant", "tied_risk")


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
        try:
            c_index = total.c_index if total.num_pairs >= MIN_PAIRS else None
        except NoComparablePairError:
            c_index = None
        bars.append(SiteBar(str(site), len(rows), int(rows["event"].sum()), total.num_pairs, c_index))
    return bars


def _none_if_nan(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
