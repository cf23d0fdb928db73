"""Draw learning curves by round, of training and of held-out patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from memamba_core.figures.canvas import SERIES, figure_file, readable, say, with_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_learning_curves", "draw_rounds"]

_INCOMING = ("num_patients", "loss_sum", "concordant", "discordant", "tied_risk")


def draw_rounds(path: Path, lines: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw the learning curves of a run, or of its folds.

    No file is written without values: under differential privacy, sites disclose neither losses nor metrics.

    Args:
        path: PNG to write.
        lines: lines of `metrics.jsonl`; at least one.
        name: name of the run.
    """
    rounds, train_loss, holdout = _learning_curve(lines)
    if not any(value is not None for values in (train_loss, *holdout.values()) for value in values):
        return
    folds = len({line["fold"] for line in lines})
    title = f"{name}: mean over {folds} folds" if folds > 1 else name
    draw_learning_curves(path, rounds, train_loss, holdout, title)


def draw_learning_curves(
    path: Path,
    rounds: Sequence[int],
    train_loss: Sequence[float | None],
    holdout: Mapping[str, Sequence[float | None]] | None,
    title: str,
) -> None:
    """Draw training loss by round and, below it, the metrics of held-out patients.

    Args:
        path: PNG to write.
        rounds: numbers of the rounds, ascending.
        train_loss: mean loss per patient in each round; None where it was suppressed.
        holdout: name -> values by round, with None for gaps. A name with "loss" in it is drawn with the
            training loss, all others (a C-index) below.
        title: title of the figure.
    """
    from matplotlib.ticker import MaxNLocator

    series = dict(holdout or {})
    held_out_losses = {name: series.pop(name) for name in list(series) if "loss" in name.lower()}
    losses = {"training": train_loss} | held_out_losses
    with figure_file(path, 6.4, 5.6 if series else 3.6) as figure:
        panels = figure.subplots(2 if series else 1, 1, sharex=True, squeeze=False)[:, 0]
        _draw_lines(panels[0], rounds, losses, SERIES)
        panels[0].set_ylabel("Loss per patient")
        panels[0].set_title(title)
        if series:
            _draw_lines(panels[1], rounds, series, SERIES[1:] + SERIES[:1])
            panels[1].set_ylabel("On held-out patients")
        panels[-1].set_xlabel("Round")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if rounds:
            panels[-1].set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)


def _draw_lines(
    axes: "Axes", rounds: Sequence[int], lines: Mapping[str, Sequence[float | None]], colors: Sequence[str]
) -> None:
    """Draw lines with gaps where a value is None; markers show a value between two gaps."""
    handles = []
    for number, (name, values) in enumerate(lines.items()):
        points = with_gaps(values)
        if not np.isfinite(points).any():
            continue
        handles += axes.plot(
            rounds,
            points,
            color=colors[number % len(colors)],
            marker="o",
            markersize=3.2,
            label=readable(name),
        )
    if handles:
        axes.legend(handles=handles, loc="best")
    else:
        say(axes, "Nothing was reported")


def _learning_curve(
    lines: Sequence[Mapping[str, Any]],
) -> tuple[list[int], list[float | None], dict[str, list[float | None]]]:
    """Return rounds, training loss and, where a holdout was evaluated, its loss and C-index inside sites.

    Means are over patients of all sites. Metrics in line r belong to the weights that came into round r, so they are
    drawn at r - 1.
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


def _none_if_nan(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)
