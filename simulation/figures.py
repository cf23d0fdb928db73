"""The figures of an output folder: learning curves, Kaplan-Meier curves, sites, and a comparison of methods.

Plain data in, a PNG out. Nothing here computes a result that is not also in the summary, except what a figure
is made of (survival curves, means). Matplotlib and lifelines are imported where a figure is drawn.
"""

import statistics
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from memamba_core.atomic import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "VERMILION",
    "SiteBar",
    "draw_comparison",
    "draw_kaplan_meier",
    "draw_learning_curves",
    "draw_site_bars",
    "figure_file",
]

# Okabe & Ito (2008): told apart with any colour vision, and by lightness in grey print.
BLUE, VERMILION, _GREEN, _PURPLE, _SKY = "#0072B2", "#D55E00", "#009E73", "#AA4499", "#56B4E9"
_INK, _MUTED, _FAINT = "#222222", "#6B6B6B", "#C9C9C9"
_SERIES = (BLUE, VERMILION, _GREEN, _PURPLE, _SKY)

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib: the same figure on every machine
    "font.size": 9,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.7,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}
_DPI = 150
_CHANCE = 0.5
_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}


@dataclass(frozen=True)
class SiteBar:
    """One site in `draw_site_bars`.

    Attributes:
        name: as enrolled.
        num_patients: of the evaluated set.
        num_events: how many of them had the event.
        num_pairs: comparable pairs inside the site.
        c_index: of these pairs; None where there is none, or where it is under the site's floor.
    """

    name: str
    num_patients: int
    num_events: int
    num_pairs: int
    c_index: float | None


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
        _draw_lines(panels[0], rounds, losses, _SERIES)
        panels[0].set_ylabel("Loss per patient")
        panels[0].set_title(title)
        if series:
            _draw_lines(panels[1], rounds, series, _SERIES[1:] + _SERIES[:1])
            panels[1].set_ylabel("On held-out patients")
        panels[-1].set_xlabel("Round")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if rounds:
            panels[-1].set_xlim(rounds[0] - 0.5, rounds[-1] + 0.5)


def draw_kaplan_meier(
    path: Path,
    time_months: npt.NDArray[np.floating[Any]],
    event: npt.NDArray[np.bool_],
    risk: npt.NDArray[np.floating[Any]],
    title: str,
) -> None:
    """Survival of the patients with higher and lower predicted risk, and how many of them were at risk.

    The groups are cut at the median risk of these very patients: a look at separation, blind to outcomes but
    not a threshold that could be used on the next patient. Curves and 95 % bands are Kaplan-Meier estimates
    with exponential Greenwood intervals, as lifelines gives them.

    Args:
        path: PNG to write.
        time_months: months from diagnosis to the event or to the last visit.
        event: True: it happened at that time. False: censored then, drawn as a tick.
        risk: out-of-fold predictions, higher is worse. If all are equal there is one group and no test.
        title: of the figure.
    """
    from memamba_core.survival.curves import log_rank_p

    groups = _median_groups(risk)
    # A shared grid of months under curves and table, with the table's columns far enough apart to be read.
    longest = float(time_months.max()) if len(time_months) else 0.0
    ticks = _month_ticks(longest)
    with figure_file(path, 6.4, 5.2) as figure:
        top, table = figure.subplots(2, 1, sharex=True, height_ratios=[5.2, 0.45 + 0.4 * len(groups)])
        for name, color, members in groups:
            label = f"{name} (n = {int(members.sum())})"
            _draw_survival(top, time_months[members], event[members], label, color)
        top.set_ylim(0, 1.03)
        top.set_xlim(0, ticks[-1])
        top.set_xticks(ticks)
        top.tick_params(labelbottom=True)
        top.set_ylabel("Survival probability")
        top.set_xlabel("Months since diagnosis")
        top.set_title(title)
        p_value = log_rank_p(time_months, event, groups[0][2])
        heading = "No log-rank test" if p_value is None else f"Log-rank {_p_text(p_value)}"
        if len(event):
            top.legend(loc="best", title=heading, title_fontsize=8.5, alignment="left")
        else:
            _say(top, "No patients")
        _draw_numbers_at_risk(table, time_months, groups, ticks)
        num_events = int(event.sum())
        cut = "cut at the median out-of-fold prediction" if len(groups) > 1 else "none, predictions are equal"
        counted = f"{len(event)} patients, {num_events} events"
        _caption(figure, f"Risk groups: {cut}. {counted}. Ticks: censored. Bands: 95 %.")


def draw_site_bars(path: Path, sites: Sequence[SiteBar], overall: float | None) -> None:
    """C-index inside each site, the largest on top, against guessing and the index over all patients.

    Bars start at 0.5: their length is what was gained (or lost) against guessing. There are no error bars,
    because counts of pairs do not give them (pairs share patients); the number of events beside each bar says
    how much to trust it.

    Args:
        path: PNG to write.
        sites: those without an index are counted in the caption and not drawn.
        overall: C-index over all patients, dashed; None draws no line.
    """
    drawn = sorted(
        (site for site in sites if site.c_index is not None),
        key=lambda site: (-site.num_patients, -site.num_events, site.name),
    )
    names = [_shortened(site.name, 30) for site in drawn]
    values = [site.c_index for site in drawn if site.c_index is not None]
    with figure_file(path, 6.8, 1.9 + 0.24 * max(3, len(drawn))) as figure:
        axes, counts = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1.5])
        rows = list(range(len(drawn)))
        lowest = min([0.4, *(value - 0.08 for value in values)])
        highest = max([0.8, *(value + 0.08 for value in values), (overall or 0) + 0.03])
        axes.barh(
            rows,
            [value - _CHANCE for value in values],
            left=_CHANCE,
            height=0.66,
            color=[BLUE if value >= _CHANCE else VERMILION for value in values],
        )
        for row, value in zip(rows, values, strict=True):
            side = 1 if value >= _CHANCE else -1
            axes.annotate(
                f"{value:.2f}",
                (value, row),
                (3 * side, 0),
                textcoords="offset points",
                va="center",
                ha="left" if side > 0 else "right",
                fontsize=7.5,
                bbox=_LABEL_BOX,
            )
        axes.axvline(_CHANCE, color=_INK, linewidth=1.0)
        axes.set_xlim(lowest, highest)
        axes.set_ylim(max(len(drawn), 1) - 0.4, -0.6)
        axes.set_yticks(rows, names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("C-index inside the site (0.5 = guessing)")
        axes.set_title("How well each site's patients are ranked", pad=26)
        # The two names stand on different sides of the guessing line, so that they cannot meet.
        better = overall is None or overall >= _CHANCE
        _label_above(axes, _CHANCE, "guessing", _INK, "right" if better else "left")
        if overall is not None:
            axes.axvline(overall, color=_GREEN, linewidth=1.4, linestyle=(0, (4, 2)))
            text = f"all patients {overall:.2f}"
            _label_above(axes, overall, text, _GREEN, "left" if _CHANCE <= overall < 0.75 else "right")
        counts.set_axis_off()
        counts.set_xlim(0, 1)
        columns = {
            0.5: ("patients", [s.num_patients for s in drawn]),
            1.0: ("events", [s.num_events for s in drawn]),
        }
        for x, (heading, numbers) in columns.items():
            _label_above(counts, x, heading, _MUTED, "right")
            for row, number in zip(rows, numbers, strict=True):
                counts.text(x, row, str(number), ha="right", va="center", fontsize=8)
        if not drawn:
            _say(axes, "No site has enough comparable pairs")
        left_out = len(sites) - len(drawn)
        if left_out:
            _caption(figure, f"{left_out} of {len(sites)} sites not shown: too few comparable pairs or patients.")


def draw_comparison(path: Path, table: Mapping[str, Sequence[float | None]], oracle: float | None) -> None:
    """C-index of each method: test folds as points, the same fold joined by a line, mean and spread beside.

    Args:
        path: PNG to write.
        table: method -> C-index per fold, folds in the same order everywhere; None where a method has none.
        oracle: the best index that can be reached (known for planted data only), dashed; None draws no line.
    """
    methods = list(table)
    num_folds = max((len(values) for values in table.values()), default=0)
    with figure_file(path, max(4.8, 1.6 + 1.35 * len(methods)), 4.0) as figure:
        axes = figure.subplots()
        for fold in range(num_folds):
            points = [table[method][fold] if fold < len(table[method]) else None for method in methods]
            axes.plot(range(len(methods)), _with_gaps(points), color=_FAINT, linewidth=0.9, zorder=1)
        for column, method in enumerate(methods):
            values = [value for value in table[method] if value is not None]
            color = _SERIES[column % len(_SERIES)]
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
                    bbox=_LABEL_BOX,
                    zorder=4,
                )
        axes.axhline(_CHANCE, color=_MUTED, linewidth=0.9)
        present = [value for values in table.values() for value in values if value is not None]
        bounds = [_CHANCE, *present, *([] if oracle is None else [oracle])]
        margin = 0.08 * (max(bounds) - min(bounds)) + 0.01
        axes.set_ylim(min(bounds) - margin, max(bounds) + margin)
        axes.set_xlim(-0.45, max(len(methods), 1) - 0.3)
        if oracle is not None:
            axes.axhline(oracle, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)))
            _label_level(axes, oracle, f"best reachable {oracle:.3f}")
        _label_level(axes, _CHANCE, "guessing")
        axes.set_xticks(range(len(methods)), [_wrapped(method) for method in methods])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("C-index on the test fold")
        axes.set_title("Methods compared on the same folds")
        if not present:
            _say(axes, "No fold has a C-index")
        folds = f"{num_folds} test fold" + ("" if num_folds == 1 else "s, joined by grey lines")
        spread_text = " Diamonds: mean ± standard deviation over folds." if num_folds > 1 else ""
        _caption(figure, f"Points: {folds}.{spread_text}")


@contextmanager
def figure_file(path: Path, width: float, height: float) -> "Iterator[Figure]":
    """A figure of so many inches, written whole when the block ends without an error."""
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


def _draw_lines(
    axes: "Axes", rounds: Sequence[int], lines: Mapping[str, Sequence[float | None]], colors: Sequence[str]
) -> None:
    """Lines with gaps where a value is None; markers show a value that stands between two gaps."""
    handles = []
    for number, (name, values) in enumerate(lines.items()):
        points = _with_gaps(values)
        if not np.isfinite(points).any():
            continue
        handles += axes.plot(
            rounds,
            points,
            color=colors[number % len(colors)],
            marker="o",
            markersize=3.2,
            label=_readable(name),
        )
    if handles:
        axes.legend(handles=handles, loc="best")
    else:
        _say(axes, "Nothing was reported")


def _draw_survival(
    axes: "Axes",
    time_months: npt.NDArray[np.floating[Any]],
    event: npt.NDArray[np.bool_],
    label: str,
    color: str,
) -> None:
    """One Kaplan-Meier curve with its band and a tick per censored patient."""
    from lifelines import KaplanMeierFitter

    if not len(time_months):
        return
    fitter = KaplanMeierFitter().fit(time_months, event)
    curve = fitter.survival_function_.iloc[:, 0]
    band = fitter.confidence_interval_
    axes.step(curve.index, curve.to_numpy(), where="post", color=color, label=label)
    axes.fill_between(band.index, band.iloc[:, 0], band.iloc[:, 1], step="post", color=color, alpha=0.15, linewidth=0)
    censored = time_months[~event]
    axes.plot(
        censored,
        fitter.predict(censored) if len(censored) else [],
        "|",
        color=color,
        markersize=5,
        markeredgewidth=0.9,
    )


def _draw_numbers_at_risk(
    axes: "Axes", time_months: npt.NDArray[np.floating[Any]], groups: "Sequence[_Group]", ticks: Sequence[int]
) -> None:
    """A row per group with the patients still under observation at each tick of the x axis above."""
    axes.set_ylim(len(groups) - 0.4, -0.6)
    axes.set_title("Number at risk", fontsize=8.5, fontweight="normal", pad=3)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(axis="both", length=0, labelbottom=False)
    axes.tick_params(axis="y", pad=18)  # the first column of numbers is centred on the axis
    axes.set_yticks(range(len(groups)), [name for name, _, _ in groups])
    for row, (label, (_, color, members)) in enumerate(zip(axes.get_yticklabels(), groups, strict=True)):
        label.set_color(color)
        for tick in ticks:
            at_risk = int(np.count_nonzero(time_months[members] >= tick))
            axes.text(tick, row, str(at_risk), ha="center", va="center", fontsize=8.5, color=color, clip_on=False)


_Group = tuple[str, str, npt.NDArray[np.bool_]]


def _median_groups(risk: npt.NDArray[np.floating[Any]]) -> list[_Group]:
    """Higher and lower risk, or all patients where risk does not tell any two of them apart."""
    if not len(risk) or risk.min() == risk.max():
        return [("All patients", BLUE, np.ones(len(risk), dtype=np.bool_))]
    median = np.median(risk)
    # With many ties the median may be the largest risk; then the ties are the higher group.
    high = risk > median if (risk > median).any() else risk >= median
    return [("Higher risk", VERMILION, high), ("Lower risk", BLUE, ~high)]


def _month_ticks(longest: float) -> list[int]:
    """At most nine ticks from 0 to just past the longest follow-up, in half years or years where possible."""
    for step in (1, 2, 3, 6, 12, 24, 36, 48, 60, 120, 240, 600, 1200):
        if longest <= 8 * step:
            break
    return list(range(0, max(step, int(-(-longest // step)) * step) + 1, step))


def _with_gaps(values: Sequence[float | None]) -> npt.NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _label_above(axes: "Axes", x: float, text: str, color: str, side: Literal["left", "right"]) -> None:
    """A name above the panel at `x`; `side` is the end of the text that stands there."""
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


def _label_level(axes: "Axes", y: float, text: str) -> None:
    """A name on a horizontal line, at its left end."""
    axes.annotate(
        text,
        (0, y),
        (3, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        fontsize=8,
        color=_MUTED,
    )


def _say(axes: "Axes", text: str) -> None:
    """Words in place of what could not be drawn, so that an empty panel is not taken for a fault."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_MUTED)


def _caption(figure: "Figure", text: str) -> None:
    """Small print under a figure, wrapped to its width."""
    text = "\n".join(textwrap.wrap(text, width=int(16 * figure.get_figwidth())))  # characters per inch
    figure.supxlabel(text, fontsize=7.5, color=_MUTED, x=0.01, ha="left")


def _shortened(name: str, longest: int) -> str:
    """Both ends of a long name: hospitals of one family differ in the last word as often as in the first."""
    if len(name) <= longest:
        return name
    head = (longest - 1) * 2 // 3
    return f"{name[:head].rstrip()}…{name[head + 1 - longest :].lstrip()}"


def _readable(name: str) -> str:
    return name.replace("c_index", "C-index").replace("_", " ")


def _wrapped(name: str) -> str:
    """Words of a method's name on lines of their own, so that neighbours do not run into each other."""
    return "\n".join(textwrap.wrap(_readable(name), width=14)) or name


def _p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
