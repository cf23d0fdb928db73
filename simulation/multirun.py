"""`flower-simulate --multirun`: folders named by what differs, and one table over seeds and settings."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from server.results import write_json

from .output import mean_and_std
from .summary import METHODS, MethodScores, MultirunGroup, MultirunLine, MultirunSummary, SimulationSummary

__all__ = ["Multirun", "folder_names", "group_by_seed"]

_SEED = "seed"
_LONGEST_NAME = 120  # of a folder; file systems allow 255 bytes
_LABELS = {"federated": "federated", "pooled": "pooled", "local": "each site alone"}


class Multirun:
    """Several runs below one folder, with their table in `multirun.json`.

    Attributes:
        folder: holds a folder per run and the table.
        folders: of the runs, in order; not yet made.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.folders = [folder / name for name in names]
        self._lines: list[MultirunLine] = []

    @classmethod
    def begin(cls, swept: Sequence[Mapping[str, str]]) -> "Multirun":
        """Make a new folder below `outputs/` for runs that differ in these settings."""
        stamp, number = datetime.now(UTC).strftime("%Y%m%d-%H%M%S"), 1
        while True:
            folder = Path("outputs") / (f"multirun-{stamp}" if number == 1 else f"multirun-{stamp}-{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return cls(folder, folder_names(swept))

    def add(self, swept: Mapping[str, str], folder: Path, summary: SimulationSummary) -> None:
        """Add a finished run, and write the table of all finished runs."""
        scores = {method: getattr(summary.c_index, method) for method in METHODS}
        c_index = {method: None if score is None else score.mean for method, score in scores.items()}
        self._lines.append(
            MultirunLine(folder=folder.name, settings=dict(swept), c_index=c_index, seconds=summary.seconds)
        )
        write_json(self.folder / "multirun.json", self.summary().model_dump(mode="json"))

    def summary(self) -> MultirunSummary:
        """Return the table of the finished runs."""
        return MultirunSummary(runs=list(self._lines), over_seeds=group_by_seed(self._lines))

    def show(self, console: Console) -> None:
        """Print the table of the finished runs; remove the folder if there is none."""
        if not self._lines:
            if not any(self.folder.iterdir()):
                self.folder.rmdir()
            return
        console.print("C-index on the test patients of all sites, mean over folds", highlight=False)
        console.print(table(self.summary()))
        console.print(f"results: {self.folder / 'multirun.json'}", highlight=False, soft_wrap=True)


def folder_names(swept: Sequence[Mapping[str, str]]) -> list[str]:
    """Name each run by the settings that differ, such as `seed=1,strategy=fedprox`; no name is given twice."""
    names: list[str] = []
    for settings in swept:
        text = ",".join(f"{key}={value}" for key, value in settings.items())
        name = re.sub(r"[^\w.,=+-]+", "-", text)[:_LONGEST_NAME].strip("-")
        number = 1
        while (unique := name if number == 1 else f"{name}-{number}") in names:
            number += 1
        names.append(unique)
    return names


def group_by_seed(lines: Sequence[MultirunLine]) -> list[MultirunGroup]:
    """Return mean and deviation of the runs that differ in the seed only, where there are several."""
    if not lines or _SEED not in lines[0].settings:
        return []
    groups: dict[tuple[tuple[str, str], ...], list[MultirunLine]] = {}
    for line in lines:
        rest = tuple((key, value) for key, value in line.settings.items() if key != _SEED)
        groups.setdefault(rest, []).append(line)
    return [
        MultirunGroup(
            settings=dict(rest),
            seeds=[line.settings[_SEED] for line in runs],
            c_index=MethodScores(**{m: mean_and_std([run.c_index[m] for run in runs]) for m in METHODS}),
        )
        for rest, runs in groups.items()
        if len(runs) > 1
    ]


def table(summary: MultirunSummary) -> Table:
    """Return the table that is printed: a row per run, and one per group of seeds with mean and deviation."""
    shown = Table()
    keys = list(summary.runs[0].settings)
    methods = [method for method in METHODS if any(run.c_index[method] is not None for run in summary.runs)]
    for key in keys:
        shown.add_column(key)
    for method in methods:
        shown.add_column(_LABELS[method], justify="right")
    shown.add_column("seconds", justify="right")
    for run in summary.runs:
        values = [f"{value:.3f}" if (value := run.c_index[method]) is not None else "-" for method in methods]
        shown.add_row(*(run.settings[key] for key in keys), *values, f"{run.seconds:.0f}")
    if summary.over_seeds:
        shown.add_section()
    for group in summary.over_seeds:
        settings = {**group.settings, _SEED: f"{len(group.seeds)} seeds"}
        scores = [getattr(group.c_index, method) for method in methods]
        cells = [
            "-" if s is None else f"{s.mean:.3f}" + (f" ± {s.std:.3f}" if s.std is not None else "") for s in scores
        ]
        shown.add_row(*(settings[key] for key in keys), *cells, "")
    return shown
