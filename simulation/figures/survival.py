"""Kaplan-Meier curves of patients with higher and lower predicted risk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from memamba_core.figures.canvas import BLUE, VERMILION, caption, figure_file, say

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_kaplan_meier"]

_FEWEST_SHOWN = 5  # patients; a single survivor of twenty years would squeeze all others into the left margin


def draw_kaplan_meier(
    path: Path,
    time_months: npt.NDArray[np.floating[Any]],
    event: npt.NDArray[np.bool_],
    risk: npt.NDArray[np.floating[Any]],
    title: str,
) -> None:
    """Draw survival of the patients with higher and lower predicted risk, and the numbers at risk.

    The groups are cut at the median risk of the patients drawn: this shows separation and is blind to outcomes, but the
    median is not a threshold that could be used on the next patient. Curves and 95 % bands are Kaplan-Meier estimates
    with exponential Greenwood intervals from lifelines.

    Args:
        path: PNG to write.
        time_months: follow-up in months, to the event or to the last visit.
        event: True: it happened at that time. False: censored then, drawn as a tick.
        risk: rank of each patient's out-of-fold prediction within its test fold, higher is worse. If all are equal,
            there is one group and no test.
        title: title of the figure.
    """
    from memamba_core.survival.curves import log_rank_p

    groups = _median_groups(risk)
    # A shared grid of months under curves and table, with the table's columns far enough apart to be read.
    end = _last_month(time_months)
    ticks = _month_ticks(end)
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
        top.set_xlabel("Months of follow-up")
        top.set_title(title)
        p_value = log_rank_p(time_months, event, groups[0][2])
        heading = "No log-rank test" if p_value is None else f"Log-rank {_p_text(p_value)}"
        if len(event):
            top.legend(loc="best", title=heading, title_fontsize=8.5, alignment="left")
        else:
            say(top, "No patients")
        _draw_numbers_at_risk(table, time_months, groups, ticks)
        num_events = int(event.sum())
        cut = "ranks of risk within each test fold, cut at their median" if len(groups) > 1 else "none, ranks are equal"
        beyond = int(np.count_nonzero(time_months > ticks[-1]))
        cut_off = f" Not shown: follow-up of {beyond} patients beyond the last month drawn." if beyond else ""
        counted = f"{len(event)} patients, {num_events} event{'s' * (num_events != 1)}"
        caption(figure, f"Risk groups: {cut}. {counted}. Ticks: censored. Bands: 95 %.{cut_off}")


def _draw_survival(
    axes: "Axes",
    time_months: npt.NDArray[np.floating[Any]],
    event: npt.NDArray[np.bool_],
    label: str,
    color: str,
) -> None:
    """Draw one Kaplan-Meier curve with its band and a tick per censored patient."""
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
    """Write a row per group with the patients still under observation at each tick of the x axis above."""
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
    """Split into higher and lower risk, or return all patients as one group where all risks are equal."""
    if not len(risk) or risk.min() == risk.max():
        return [("All patients", BLUE, np.ones(len(risk), dtype=np.bool_))]
    median = np.median(risk)
    # With many ties the median may be the largest risk; then the ties are the higher group.
    high = risk > median if (risk > median).any() else risk >= median
    return [("Higher risk", VERMILION, high), ("Lower risk", BLUE, ~high)]


def _last_month(time_months: npt.NDArray[np.floating[Any]]) -> float:
    """Return the month where the curves end: the last with `_FEWEST_SHOWN` patients (or all of fewer) in follow-up."""
    if not len(time_months):
        return 0.0
    return float(np.sort(time_months)[-min(_FEWEST_SHOWN, len(time_months))])


def _month_ticks(longest: float) -> list[int]:
    """Return at most nine ticks from 0 to just past `longest`, in half years or years where possible."""
    for step in (1, 2, 3, 6, 12, 24, 36, 48, 60, 120, 240, 600, 1200):
        if longest <= 8 * step:
            break
    return list(range(0, max(step, int(-(-longest // step)) * step) + 1, step))


def _p_text(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
