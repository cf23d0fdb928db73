"""The figures of an audit: membership by event status and attack, inversion by size of the round."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memamba_core.figures.canvas import BLUE, VERMILION, figure_file

__all__ = ["draw_inversion", "draw_membership"]

_LABELS = {"loss": "loss threshold", "lira": "likelihood ratio"}
_GROUPS = {"all": "all", "event": "with event", "censored": "censored"}


def draw_membership(path: Path, found: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> None:
    """AUC of both attacks, for all patients and by event status, with the deviation over models.

    Args:
        path: PNG to write.
        found: attack -> group -> fields of a `Leak`.
        title: of the figure.
    """
    groups = [group for group in _GROUPS if group in found["loss"]]
    with figure_file(path, 6.0, 3.6) as figure:
        axes = figure.subplots()
        for number, (attack, color) in enumerate(zip(_LABELS, (BLUE, VERMILION), strict=True)):
            places = np.arange(len(groups)) + 0.2 * (2 * number - 1)
            values = [found[attack][group]["auc"] for group in groups]
            spread = [found[attack][group]["auc_std"] for group in groups]
            axes.errorbar(places, values, yerr=spread, fmt="o", color=color, label=_LABELS[attack], capsize=3)
        axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
        axes.set_xticks(range(len(groups)), [_GROUPS[group] for group in groups])
        axes.set_xlim(-0.6, len(groups) - 0.4)
        lowest = min(leak["auc"] - leak["auc_std"] for attack in _LABELS for leak in found[attack].values())
        axes.set_ylim(min(0.4, lowest - 0.02), 1.02)
        axes.set_ylabel("AUC, trained on or not (0.5: guessing)")
        axes.set_title(f"Membership inference: {title}")
        axes.legend(loc="upper right")


def draw_inversion(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Share of the patients whose values were recovered, and of outsiders, by size of the round.

    Args:
        path: PNG to write.
        lines: fields of an `InversionReport` each.
    """
    with figure_file(path, 6.0, 3.6) as figure:
        axes = figure.subplots()
        places = np.arange(len(lines))
        axes.bar(
            places - 0.2, [line["recovered"] for line in lines], 0.4, color=VERMILION, label="patients of the round"
        )
        axes.bar(places + 0.2, [line["recovered_by_chance"] for line in lines], 0.4, color=BLUE, label="outsiders")
        axes.set_xticks(places, [str(line["num_patients"]) for line in lines])
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("Patients in the round")
        axes.set_ylabel("Share recovered (correlation > 0.9)")
        axes.set_title("Gradient inversion of one answer")
        axes.legend(loc="upper right")
