"""Show a simulation to a person: the cohort, a bar per method, time-stamped lines without a terminal, a table."""

import logging
import shlex
import statistics
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

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
from rich.status import Status
from rich.table import Table

from memamba_core.config.simulation import SimulationConfig
from memamba_core.wire.protocol import Phase
from server.federation.journal import RoundRecord

from .cohort import SimulatedCohort
from .summary import METHODS, SimulationSummary

__all__ = ["ProgressReporter", "StepReporter"]

_log = logging.getLogger(__name__)
_PHASES = {
    Phase.FACTS: "asking sites for their facts",
    Phase.EVALUATE: "closing evaluation",
}
_METHODS = {
    "federated": "Federated",
    "pooled": "Pooled",
    "local": "Each site alone",
}


class ProgressReporter:
    """Progress bars on a terminal, a time-stamped line per round elsewhere, nothing if `quiet`.

    Each finished round, epoch of pooled training and site alone also goes to the log. Use as a context manager around
    `simulate`.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self._console = console or Console(quiet=quiet)
        self._lines = not quiet and not self._console.is_terminal
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
        self._label, self._total, self._done = "", 0, 0
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

    def how_to_continue(self) -> str:
        """Return the sentence for an interrupted run: the command that resumes it, or that nothing is left."""
        if self.folder is None or not self.folder.is_dir():
            return "interrupted; no round was finished, and nothing is left behind"
        command = shlex.join(["flower-simulate", f"resume={self.folder}"])
        return f"interrupted; finished rounds are kept; continue with: {command}"

    # Called by `simulate`
    # --------------------------------------------------------------------------------------------------

    def start(self, config: SimulationConfig, cohort: SimulatedCohort, folder: Path) -> None:
        """Print the cohort, its sites, warnings and disclosure thresholds."""
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
        if cohort.num_gene_columns and "genomics" in config.experiment.model.experts:
            say(f"{cohort.num_grouped_columns} of {cohort.num_gene_columns} gene columns are in a gene group")
        say(
            f"{len(sizes)} site{'s' * (len(sizes) > 1)} by partition {config.partition.name}: {sizes[0]} to "
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
        """Note which fold the next methods belong to."""
        self._fold = fold

    def start_method(self, method: str, total: int) -> None:
        """Begin the bar of a method of `total` rounds, epochs or sites."""
        self._end_method()
        prefix = f"fold {self._fold} " if self._num_folds > 1 else ""
        self._label, self._total, self._done = prefix + _METHODS[method], total, 0
        self._task = self._bars.add_task(self._label, total=total, note="")

    def on_epoch(self, epoch: int, loss: float) -> None:
        """Show a finished epoch of pooled training."""
        self._advance("epoch", f"loss {loss:.3f}", completed=epoch)

    def on_site(self, site: str) -> None:
        """Show that a site's own model is trained and evaluated."""
        self._advance("site", site)

    # Called by the round loop and the grid
    # -------------------------------------------------------------------------------------

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """Show that a phase begins."""
        self._answers, self._asked, self._round = 0, num_sites, server_round
        if phase in _PHASES:
            self._note(_PHASES[phase])

    def on_reply(self, site: str) -> None:
        """Count a site's answer."""
        self._answers += 1
        if self._round:
            self._note(f"{min(self._answers, self._asked)} of {self._asked} sites")

    def on_round(self, record: RoundRecord) -> None:
        """Show a round that is finished and in the journal."""
        failed = [*record.failed]
        note = "" if record.train_loss is None else f"loss {record.train_loss:.3f}"
        if failed:
            note += f", without {', '.join(failed[:3])}" + (" ..." if len(failed) > 3 else "")
        self._of_round = note
        self._advance("round", note, completed=record.server_round)

    # At the end
    # --------------------------------------------------------------------------------------------------------------

    def finish(self, summary: SimulationSummary, folder: Path) -> None:
        """Print the table of results, warnings that are new, privacy spent, and the paths of the results."""
        table = Table()
        table.add_column("method")
        for fold in summary.folds:
            table.add_column(f"fold {fold.fold}", justify="right")
        if len(summary.folds) > 1:
            table.add_column("mean ± std", justify="right")
        for method in METHODS:
            if getattr(summary.details[0], method) is None:
                continue
            cells = [_number(getattr(fold, method)) for fold in summary.folds]
            if len(cells) > 1:
                stats = getattr(summary.c_index, method)  # None: no fold has a comparable pair
                cells.append("" if stats is None or stats.std is None else f"{stats.mean:.3f} ± {stats.std:.3f}")
            table.add_row(_METHODS[method], *cells)
        if summary.oracle_c_index is not None:
            # the mean over folds, in the last column: the only fold, or the mean
            empty = [""] * (len(table.columns) - 2)
            table.add_row("[dim]best reachable[/]", *empty, f"{summary.oracle_c_index:.3f}")
        self._say(f"C-index on the test patients of all sites, {summary.cohort}{_genes_used(summary)}")
        self._console.print(table)
        for details in summary.details:
            if details.federated and (attended := details.federated.attendance) and not attended.is_complete:
                self._say(f"fold {details.fold}: {attended.text}")
        for warning in summary.warnings:
            if warning not in self._warned:
                self._say(f"[yellow]warning:[/] {warning}")
        for details in summary.details:
            if details.federated and (spent := details.federated.privacy):
                self._say(
                    f"fold {details.fold}: epsilon {spent.epsilon:.2f} at delta {spent.delta:g} spent, by the "
                    f"sites' ledgers (a patient of two sites: {spent.epsilon_in_two_sites:.2f})"
                    + ("; pooled and local training is without privacy" if details.pooled or details.local else "")
                )
        sent = summary.bytes_per_round
        about = f"{summary.seconds:.0f} s of training" + (f", {sent / 1e6:.1f} MB a round" if sent else "")
        self._say(f"{about}\nresults: {folder / 'summary.json'}\nfigures: {folder / 'figures'}")

    def _end_method(self) -> None:
        """Leave the note of the last round on a finished bar, in place of the closing evaluation."""
        if self._of_round is not None:
            self._note(self._of_round)
        self._of_round = None

    def _advance(self, unit: str, note: str, completed: int | None = None) -> None:
        self._done = self._done + 1 if completed is None else completed
        if self._task is not None:
            self._bars.update(self._task, note=note, completed=self._done)
            line = f"{self._label}: {unit} {self._done} of {self._total}" + (f", {note}" if note else "")
            _log.info(line)
            if self._lines:
                self._say(_stamped(line))

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)  # a path or a sentence stays whole when it is copied

    def _note(self, note: str) -> None:
        if self._task is not None:
            self._bars.update(self._task, note=note)


class StepReporter:
    """Progress of an audit: a status line on a terminal, a time-stamped line per step elsewhere; both also logged."""

    def __init__(self, console: Console, what: str) -> None:
        self._console = console
        self._status: Status | None = console.status(what) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def on_step(self, step: str) -> None:
        """Show the step that begins."""
        if self._status is not None:
            self._status.update(step)
        else:
            self._console.print(_stamped(step), highlight=False, soft_wrap=True)


def _genes_used(summary: SimulationSummary) -> str:
    used = {fold.federated.num_gene_columns for fold in summary.details if fold.federated}
    if not summary.num_gene_columns or not any(used):
        return ""
    span = str(max(used)) if len(used) == 1 else f"{min(used)} to {max(used)}"
    return f", {span} of {summary.num_gene_columns} gene columns used"


def _stamped(text: str) -> str:
    return f"{datetime.now().astimezone():%H:%M:%S} {text}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
