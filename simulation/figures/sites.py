"""Draw the C-index inside each site."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from memamba_core.figures.canvas import (
    BLUE,
    CHANCE,
    GREEN,
    INK,
    LABEL_BOX,
    MUTED,
    VERMILION,
    caption,
    figure_file,
    label_above,
    say,
)

__all__ = ["SiteBar", "draw_site_bars"]


@dataclass(frozen=True)
class SiteBar:
    """Site in `draw_site_bars`.

    Attributes:
        name: name of the site.
        num_patients: patients of the evaluated set.
        num_events: patients of this set with the event.
        num_pairs: comparable pairs inside the site.
        c_index: C-index of these pairs; None with too few pairs.
    """

    name: str
    num_patients: int
    num_events: int
    num_pairs: int
    c_index: float | None


def draw_site_bars(path: Path, sites: Sequence[SiteBar], overall: float | None) -> None:
    """Draw the C-index inside each site, the largest on top, against guessing and the index over all patients.

    Bars start at 0.5: their length is the gain (or loss) against guessing. There are no error bars, because counts of
    pairs do not give them (pairs share patients); the number of events next to each bar says how much to trust it.

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
    if not drawn:
        with figure_file(path, 6.8, 2.2) as figure:
            axes = figure.subplots()
            axes.set_axis_off()
            axes.set_title("How well each site's patients are ranked")
            say(axes, f"None of the {len(sites)} sites has enough comparable pairs of test patients")
        return
    with figure_file(path, 6.8, 1.9 + 0.24 * max(3, len(drawn))) as figure:
        axes, counts = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1.5])
        rows = list(range(len(drawn)))
        lowest = min([0.4, *(value - 0.08 for value in values)])
        highest = max([0.8, *(value + 0.08 for value in values), (overall or 0) + 0.03])
        axes.barh(
            rows,
            [value - CHANCE for value in values],
            left=CHANCE,
            height=0.66,
            color=[BLUE if value >= CHANCE else VERMILION for value in values],
        )
        for row, value in zip(rows, values, strict=True):
            side = 1 if value >= CHANCE else -1
            axes.annotate(
                f"{value:.2f}",
                (value, row),
                (3 * side, 0),
                textcoords="offset points",
                va="center",
                ha="left" if side > 0 else "right",
                fontsize=7.5,
                bbox=LABEL_BOX,
            )
        axes.axvline(CHANCE, color=INK, linewidth=1.0)
        axes.set_xlim(lowest, highest)
        axes.set_ylim(max(len(drawn), 3) - 0.4, -0.6)  # one bar does not fill the figure
        axes.set_yticks(rows, names)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("C-index inside the site (0.5 = guessing)")
        axes.set_title("How well each site's patients are ranked", pad=26)
        # The two names stand on different sides of the guessing line, so that they cannot meet.
        better = overall is None or overall >= CHANCE
        label_above(axes, CHANCE, "guessing", INK, "right" if better else "left")
        if overall is not None:
            axes.axvline(overall, color=GREEN, linewidth=1.4, linestyle=(0, (4, 2)))
            text = f"all patients {overall:.2f}"
            label_above(axes, overall, text, GREEN, "left" if CHANCE <= overall < 0.75 else "right")
        counts.set_axis_off()
        counts.set_xlim(0, 1)
        columns = {
            0.5: ("patients", [s.num_patients for s in drawn]),
            1.0: ("events", [s.num_events for s in drawn]),
        }
        for x, (heading, numbers) in columns.items():
            label_above(counts, x, heading, MUTED, "right")
            for row, number in zip(rows, numbers, strict=True):
                counts.text(x, row, str(number), ha="right", va="center", fontsize=8)
        left_out = len(sites) - len(drawn)
        if left_out:
            caption(figure, f"{left_out} of {len(sites)} sites with test patients not shown: too few comparable pairs.")


def _shortened(name: str, longest: int) -> str:
    """Keep both ends of a long name: sites of one family differ in the last word as often as in the first."""
    if len(name) <= longest:
        return name
    head = (longest - 1) * 2 // 3
    return f"{name[:head].rstrip()}…{name[head + 1 - longest :].lstrip()}"
