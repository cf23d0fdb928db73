"""Draw the C-index of several methods on the same folds."""

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memamba_core.figures.canvas import (
    CHANCE,
    FAINT,
    INK,
    LABEL_BOX,
    MUTED,
    SERIES,
    caption,
    figure_file,
    readable,
    say,
    with_gaps,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_comparison"]


def draw_comparison(path: Path, table: Mapping[str, Sequence[float | None]], oracle: float | None) -> None:
    """Draw the C-index of each method: test folds as points, the same fold joined by a line, mean and spread.

    Args:
        path: PNG to write.
        table: method -> C-index per fold, folds in the same order everywhere; None where a method has none.
        oracle: best reachable index (known for planted data only), dashed; None draws no line.
    """
    methods = list(table)
    num_folds = max((len(values) for values in table.values()), default=0)
    with figure_file(path, max(4.8, 1.6 + 1.35 * len(methods)), 4.0) as figure:
        axes = figure.subplots()
        for fold in range(num_folds if num_folds > 1 else 0):  # a single line would look like a course over methods
            points = [table[method][fold] if fold < len(table[method]) else None for method in methods]
            axes.plot(range(len(methods)), with_gaps(points), color=FAINT, linewidth=0.9, zorder=1)
        for column, method in enumerate(methods):
            values = [value for value in table[method] if value is not None]
            color = SERIES[column % len(SERIES)]
            axes.scatter(
                [column] * len(values),
                values,
                s=22,
                color=color,
                alpha=0.75,
                edgecolor="white",
                linewidth=0.6,
                zorder=2,
            )
            if values:  # one value is its own mean and needs no second mark
                mean = statistics.fmean(values)
                spread = statistics.stdev(values) if len(values) > 1 else None
                if spread is not None:
                    axes.errorbar(
                        column + 0.17,
                        mean,
                        yerr=spread,
                        fmt="D",
                        color=color,
                        markersize=6,
                        capsize=4,
                        zorder=3,
                    )
                text = f"{mean:.3f}" if spread is None else f"{mean:.3f}\n± {spread:.3f}"
                x = column if spread is None else column + 0.17
                axes.annotate(
                    text,
                    (x, mean),
                    (9, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                    bbox=LABEL_BOX,
                    zorder=4,
                )
        axes.axhline(CHANCE, color=MUTED, linewidth=0.9)
        present = [value for values in table.values() for value in values if value is not None]
        bounds = [CHANCE, *present, *([] if oracle is None else [oracle])]
        margin = 0.08 * (max(bounds) - min(bounds)) + 0.01
        axes.set_ylim(min(bounds) - margin, max(bounds) + margin)
        axes.set_xlim(-0.45, max(len(methods), 1) - 0.3)
        if oracle is not None:
            axes.axhline(oracle, color=INK, linewidth=1.2, linestyle=(0, (4, 2)))
            _label_level(axes, oracle, f"best reachable {oracle:.3f}")
        _label_level(axes, CHANCE, "guessing")
        axes.set_xticks(range(len(methods)), [_wrapped(method) for method in methods])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("C-index on the test fold")
        axes.set_title("Methods compared on the same folds")
        if not present:
            say(axes, "No fold has a C-index")
        folds = f"{num_folds} test fold" + ("" if num_folds == 1 else "s, joined by grey lines")
        spread_text = " Diamonds: mean ± standard deviation over folds." if num_folds > 1 else ""
        caption(figure, f"Points: {folds}.{spread_text}")


def _label_level(axes: "Axes", y: float, text: str) -> None:
    """Write a name on a horizontal line, at its left end."""
    axes.annotate(
        text,
        (0, y),
        (3, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
        color=MUTED,
    )


def _wrapped(name: str) -> str:
    """Break a method's name into lines, so that neighbours do not overlap."""
    return "\n".join(textwrap.wrap(readable(name), width=14)) or name
