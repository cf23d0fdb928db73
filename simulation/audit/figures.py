"""Draw the figures of an audit: membership by event status and attack, inversion by size of the round."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memamba_core.figures.canvas import BLUE, VERMILION, figure_file

from .records import InversionReport, MembershipReport

__all__ = ["draw_inversion", "draw_membership"]

_LABELS = {"loss": "loss threshold", "lira": "likelihood ratio"}
_GROUPS = {"all": "all", "event": "with event", "censored": "censored"}


def draw_membership(path: Path, membership: MembershipReport, title: str) -> None:
    """Draw the AUC of both attacks, for all patients and by event status, with the deviation over models.

    Args:
        path: PNG to write.
        membership: results of both attacks.
        title: title of the figure.
    """
    leaks = {"loss": membership.loss, "lira": membership.lira}
    groups = [group for group in _GROUPS if group in membership.loss]
    with figure_file(path, 6.0, 3.6) as figure:
        axes = figure.subplots()
        for number, (attack, color) in enumerate(zip(_LABELS, (BLUE, VERMILION), strict=True)):
            places = np.arange(len(groups)) + 0.2 * (2 * number - 1)
            values = [leaks[attack][group].auc for group in groups]
            spread = [leaks[attack][group].auc_std for group in groups]
            axes.errorbar(places, values, yerr=spread, fmt="o", color=color, label=_LABELS[attack], capsize=3)
        axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(groups)), [_GROUPS[group] for group in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        lowest = min(leak.auc - leak.auc_std for found in leaks.values() for leak in found.values())
        axes.set_ylim(min(0.4, lowest - 0.02), 1.02)
        axes.set_ylabel("AUC, trained on or not (0.5: guessing)")
        axes.set_title(f"Membership inference: {title}")
        axes.legend(loc="upper right")


def draw_inversion(path: Path, lines: Sequence[InversionReport]) -> None:
    """Draw the share of patients whose values were recovered, and of outsiders, by size of the round.

    Args:
        path: PNG to write.
        lines: one attack per size of the round.
    """
    with figure_file(path, 6.0, 3.6) as figure:
        axes = figure.subplots()
        places = np.arange(len(lines))
        axes.bar(places - 0.2, [line.recovered for line in lines], 0.4, color=VERMILION, label="patients of the round")
        axes.bar(places + 0.2, [line.recovered_by_chance for line in lines], 0.4, color=BLUE, label="outsiders")
        axes.set_xticks(places, [str(line.num_patients) for line in lines])
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("Patients in the round")
        axes.set_ylabel("Share recovered (correlation > 0.9)")
        axes.set_title("Gradient inversion of one answer")
        axes.legend(loc="upper right")
