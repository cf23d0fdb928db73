"""What a person sees of a simulation: the cohort, a bar per method with the sites of the round, a table at the end."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from memamba_core.config.simulation import SimulationConfig
from memamba_core.wire.protocol import Phase
from server.federation.journal import RoundRecord

from .cohort import SimulatedCohort

__all__ = ["ProgressReporter"]

_PHASES = {
    Phase.FACTS: "asking sites what they have",
    Phase.EVALUATE: "closing evaluation",
}
_METHODS = {
    "federated": "Federated",
    "pooled": "Pooled",
    "local": "Each hospital alone",
}


class ProgressReporter:
    """Progress bars on a terminal, lines in a log file, nothing if `quiet`.

    Use as a context manager around `simulate`.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(quiet=quiet)
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self.folder: Path | None = None
        """Output folder of the run, once there is one."""
        self._task: TaskID | None = None
        self._fold = 0
        self._num_folds = 1
        self._answers, self._asked, self._round = 0, 0, 0
        self._of_round: str | None = None
        self._warned: tuple[str, ...] = ()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_method()
        self._bars.stop()

    # Told by `simulate`
    # --------------------------------------------------------------------------------------------------

    def start(self, config: SimulationConfig, cohort: SimulatedCohort, folder: Path) -> None:
        """Say what is run on what."""
        self.folder, self._warned = folder, cohort.warnings
        self._num_folds = len(config.folds)
        sizes = sorted((len(site.cohort.records) for site in cohort.sites.values()), reverse=True)
        records = cohort.cohort.records
        events = cohort.cohort.num_events
        both = sum(cohort.cohort.has_genes(r) and cohort.cohort.has_slides(r) for r in records)
        genes, slides = (sum(f(r) for r in records) for f in (cohort.cohort.has_genes, cohort.cohort.has_slides))
        say = self._say
        say(
            f"[bold]{config.data.name}[/]: {len(records)} patients, {events} event{'s' * (events != 1)}; "
            f"genes {genes}, slides {slides}, both {both}"
        )
        say(
            f"{len(sizes)} hospital{'s' * (len(sizes) > 1)} by partition {config.partition.name}: {sizes[0]} to "
            f"{sizes[-1]} patients, median {statistics.median(sizes):g}"
        )
        for warning in cohort.warnings:
            say(f"[yellow]warning:[/] {warning}")
        thresholds = config.disclosure
        say(
            f"disclosure thresholds: {thresholds.min_patients} patients, {thresholds.min_events} events, "
            f"{thresholds.min_pairs} pairs"
            + (" (permissive: nothing leaves this machine)" if thresholds.min_patients == 1 else "")
        )
        if config.experiment.privacy.name == "none":
            say(
                "no differential privacy: weights of a small round can be turned back into patients "
                "(docs/explanation/privacy.md); "
                f"rounds from {thresholds.min_round_patients} patients on are allowed here"
            )

    def start_fold(self, fold: int) -> None:
        """A fold begins."""
        self._fold = fold

    def start_method(self, method: str, total: int) -> None:
        """A method begins, of `total` rounds, epochs or sites."""
        self._end_method()
        prefix = f"fold {self._fold} " if self._num_folds > 1 else ""
        self._task = self._bars.add_task(prefix + _METHODS[method], total=total, note="")

    def on_epoch(self, epoch: int, loss: float) -> None:
        """An epoch of pooled training is finished."""
        self._advance(f"loss {loss:.3f}", completed=epoch)

    def on_site(self, site: str) -> None:
        """A hospital's own model is trained and judged."""
        self._advance(site)

    # Told by the round loop and the grid
    # -------------------------------------------------------------------------------------

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """A phase begins."""
        self._answers, self._asked, self._round = 0, num_sites, server_round
        if phase in _PHASES:
            self._note(_PHASES[phase])

    def on_reply(self, site: str) -> None:
        """A site answered."""
        self._answers += 1
        if self._round:
            self._note(f"{min(self._answers, self._asked)} of {self._asked} sites")

    def on_round(self, record: RoundRecord) -> None:
        """A round is finished and in the journal."""
        failed = [*record.failed]
        note = "" if record.train_loss is None else f"loss {record.train_loss:.3f}"
        if failed:
            note += f", without {', '.join(failed[:3])}" + (" ..." if len(failed) > 3 else "")
        self._of_round = note
        self._advance(note, completed=record.server_round)

    # At the end
    # --------------------------------------------------------------------------------------------------------------

    def finish(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Print the table and where everything lies."""
        table = Table()
        table.add_column("method")
        for fold in summary["folds"]:
            table.add_column(f"fold {fold['fold']}", justify="right")
        if len(summary["folds"]) > 1:
            table.add_column("mean ± std", justify="right")
        for method, label in _METHODS.items():
            if not summary["details"][0][method]:
                continue
            cells = [_number(fold[method]) for fold in summary["folds"]]
            if len(cells) > 1:
                stats = summary["c_index"][method] or {"std": None}  # None: no fold has a comparable pair
                cells.append(f"{stats['mean']:.3f} ± {stats['std']:.3f}" if stats["std"] is not None else "")
            table.add_row(label, *cells)
        if summary["oracle_c_index"] is not None:
            # the mean over folds, in the last column: the only fold, or the mean
            empty = [""] * (len(table.columns) - 2)
            table.add_row("[dim]best reachable[/]", *empty, f"{summary['oracle_c_index']:.3f}")
        self._say(f"C-index on the test patients of all hospitals, {summary['cohort']}")
        self._console.print(table)
        for warning in summary["warnings"]:
            if warning not in self._warned:
                self._say(f"[yellow]warning:[/] {warning}")
        for fold in summary["details"]:
            if fold["federated"] and (spent := fold["federated"]["privacy"]):
                self._say(
                    f"fold {fold['fold']}: epsilon {spent['epsilon']:.2f} at delta {spent['delta']:g} spent, by the "
                    f"hospitals' ledgers (a patient of two hospitals: {spent['epsilon_in_two_sites']:.2f})"
                    + ("; pooled and local training is without privacy" if fold["pooled"] or fold["local"] else "")
                )
        sent = summary["bytes_per_round"]
        about = f"{summary['seconds']:.0f} s of training" + (f", {sent / 1e6:.1f} MB a round" if sent else "")
        self._say(f"{about}\nresults: {folder / 'summary.json'}\nfigures: {folder / 'figures'}")

    def _end_method(self) -> None:
        """A bar that stays says how the last round went, and not that the closing evaluation goes on."""
        if self._of_round is not None:
            self._note(self._of_round)
        self._of_round = None

    def _advance(self, note: str, completed: int | None = None) -> None:
        if self._task is not None:
            step = {"advance": 1} if completed is None else {"completed": completed}
            self._bars.update(self._task, note=note, **step)  # type: ignore[arg-type]

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)  # a path or a sentence stays whole when it is copied

    def _note(self, note: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, note=note)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
