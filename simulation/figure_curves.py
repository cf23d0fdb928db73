"""Learning curves by round, of training and of held-out patients."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .canvas import SERIES, figure_file, readable, say, with_gaps

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_learning_curves"]


def draw_learning_curves(
    path: Path,
    rounds: Sequence[int],
    train_loss: Sequence[float | None],
    holdout: Mapping[str, Sequence[float | None]] | None,
    title: str,
) -> None:
    """Training loss by round and, below it, what was measured on held-out patients.

    Args:
        path: PNG to write.
        rounds: the server's rounds, ascending.
        train_loss: mean loss per patient in each of them; None where it was not told.
        holdout: name -> values by round, with None gaps. A name with "loss" in it is drawn beside the
            training loss, all others (a C-index) below.
        title: of the figure.
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
    """Lines with gaps where a value is None; markers show a value that stands between two gaps."""
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
