"""Common parts of all figures: colours, style, captions, and a PNG that is written whole or not at all.

Matplotlib is imported where a figure is drawn: a command without figures starts without it.
"""

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from memamba_core.io.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "CHANCE",
    "FAINT",
    "GREEN",
    "INK",
    "LABEL_BOX",
    "MUTED",
    "SERIES",
    "VERMILION",
    "caption",
    "figure_file",
    "label_above",
    "readable",
    "say",
    "with_gaps",
]

# Okabe & Ito (2008): distinguishable with any colour vision, and by lightness in grey print.
BLUE, VERMILION, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9"
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#C9C9C9"
SERIES = (BLUE, VERMILION, GREEN, PURPLE, SKY)

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}
_DPI = 150
CHANCE = 0.5
LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}


@contextmanager
def figure_file(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """Open a figure of a size in inches; write it whole when the block ends without an error."""
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The defaults first, so that a user's matplotlibrc does not restyle the figures; pyplot, its current
    # figure and its interactive backends are not involved.
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
        FigureCanvasAgg(figure)
        yield figure
        with write_atomically(path) as partial:
            # No software version or date in the file: the same data give the same bytes.
            figure.savefig(partial, format="png", dpi=_DPI, facecolor="white", metadata={"Software": None})


def with_gaps(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    """Return a line to plot that is broken where a value is None."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def label_above(axes: "Axes", x: float, text: str, color: str, side: Literal["left", "right"]) -> None:
    """Write a name above the panel at `x`; `side` is the end of the text that stands at `x`."""
    axes.annotate(
        text,
        (x, 1),
        (0, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha=side,
        fontsize=8,
        color=color,
    )


def say(axes: "Axes", text: str) -> None:
    """Write a sentence into a panel without data, so that an empty panel is not taken for a fault."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=MUTED)


def caption(figure: "Figure", text: str) -> None:
    """Write a caption under a figure, wrapped to its width."""
    text = "\n".join(textwrap.wrap(text, width=int(16 * figure.get_figwidth())))  # characters per inch
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.01, ha="left")


def readable(name: str) -> str:
    """Turn a key of the summary into words."""
    return name.replace("c_index", "C-index").replace("_", " ")
