"""Display of a run: one live line on a terminal, lines in a log, and a file for `flower-server status`."""

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console

from memamba_core.io.atomic import write_atomically
from memamba_core.wire.protocol import Phase
from server.federation.handshake import Run
from server.federation.journal import RoundRecord

__all__ = ["RunProgress", "read_status"]

_log = logging.getLogger(__name__)
_STATUS_FILE = "status.json"
_LOG_EVERY_S = 60.0
_MAX_NAMED = 5
_PHASES = {
    Phase.FACTS: "Handshake",
    Phase.EVALUATE: "Closing evaluation",
}


@dataclass
class _Now:
    """Current step of a run, and the sites that have answered."""

    step: str = "Starting"
    asked: tuple[str, ...] = ()
    answered: set[str] = field(default_factory=set)
    verb: str = "returned"
    since: float = field(default_factory=time.time)

    def sentence(self) -> str:
        """Return `Round 7 of 20: 4 of 5 sites returned, waiting for st-elsewhere, 38 s`."""
        missing = [site for site in self.asked if site not in self.answered]
        parts = [f"{len(self.answered)} of {len(self.asked)} sites {self.verb}"] if self.asked else []
        if missing:
            parts.append(f"waiting for {_list(missing)}")
        return f"{self.step}: " + ", ".join([*parts, f"{time.time() - self.since:.0f} s"])


class RunProgress:
    """Progress display, called by the round loop (its `Observer`), the wait for sites and the grid; a context manager.

    Args:
        state: folder of the status file.
        run: in progress.
        console: shows the live line if it is a terminal.
        on_round: called after each finished round.
    """

    def __init__(self, state: Path, run: Run, console: Console, on_round: Callable[[RoundRecord], None]) -> None:
        self._file = state / _STATUS_FILE
        self._run, self._num_rounds = run.run_id, run.experiment.federation.num_rounds
        self._live = console.status("") if console.is_terminal else None
        self._on_round = on_round
        self._now = _Now()
        self._step = "Handshake"
        self._approving: tuple[str, ...] = ()
        self._site_of: dict[int, str] = {}
        self._away: set[str] = set()
        self._stopped = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._ticker.start()
        self._show(_Now())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._ticker.join()
        if self._live is not None:
            self._live.stop()
        self._file.unlink(missing_ok=True)

    def know(self, nodes: Mapping[str, int]) -> None:
        """Store the site of each node id."""
        self._site_of = {node: site for site, node in nodes.items()}

    def on_connected(self, wanted: Iterable[str], connected: Collection[str]) -> None:
        """Show the sites that are connected; called repeatedly during the wait for sites."""
        now = self._now
        if now.step != "Waiting for sites":
            now = _Now("Waiting for sites", tuple(wanted), verb="connected")
        if set(connected) != now.answered or now is not self._now:
            now.answered = set(connected)
            self._show(now)
            _log.info(now.sentence())

    def on_approval(self, sites: tuple[str, ...]) -> None:
        """Show the sites whose operators have not approved the run; none: the wait is over."""
        since = self._now.since if self._approving else time.time()
        self._approving = sites
        step = f"Waiting for approval at {_list(sites)}" if sites else self._step
        self._show(_Now(step, since=since if sites else time.time()))

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """Show the phase that begins."""
        self._step = _PHASES.get(phase, f"Round {server_round} of {self._num_rounds}")
        if phase in _PHASES:
            _log.info(_PHASES[phase].lower())
        self._show(_Now(self._step))

    def on_asked(self, nodes: Iterable[int]) -> None:
        """Show the sites that were asked; not while they are asked again and again for an approval."""
        if self._approving:
            return
        self._show(_Now(self._step, tuple(sorted(self._site_of[node] for node in nodes))))

    def on_answer(self, node: int) -> None:
        """Count the site of this node as answered."""
        if self._approving:
            return
        self._now.answered.add(self._site_of[node])
        self._write()

    def on_away(self, nodes: Collection[int], longest_s: float) -> None:
        """Log the sites that are away and waited for, and those that are back."""
        away = {self._site_of[node] for node in nodes}
        if left := away - self._away:
            _log.warning("%s: not connected; waiting for the return, at most %.0f s", _list(sorted(left)), longest_s)
        if back := self._away - away:
            _log.info("%s: not waited for any longer", _list(sorted(back)))
        self._away = away

    def on_pause(self, seconds: float) -> None:
        """Log a pause."""
        _log.warning("this process or its SuperLink stood still for %.0f s; this time does not count", seconds)

    def on_round(self, record: RoundRecord) -> None:
        """Log a finished round."""
        parts = [f"{len(record.trained)} of {len(record.sites)} sites"]
        if record.train_loss is not None:
            parts.append(f"training loss {record.train_loss:.3f}")
        parts += [f"{record.seconds:.1f} s", f"{(record.bytes_sent + record.bytes_received) / 1e6:.1f} MB"]
        if record.failed:
            parts.append(f"without {_list(record.failed)}")
        _log.info("round %d of %d done: %s", record.server_round, self._num_rounds, ", ".join(parts))
        self._on_round(record)

    def _show(self, now: _Now) -> None:
        self._now = now
        self._write()

    def _write(self) -> None:
        now = self._now
        status = {
            "run": self._run,
            "step": now.step,
            "asked": now.asked,
            "answered": sorted(now.answered),
            "verb": now.verb,
            "since": now.since,
        }
        with suppress(OSError), write_atomically(self._file) as partial:  # a full disk stops the run at its journal
            partial.write_text(json.dumps(status), encoding="utf-8")
        self._render()

    def _render(self) -> None:
        if self._live is not None:
            self._live.update(self._now.sentence())

    def _tick(self) -> None:
        """Update the seconds: every second on a terminal, every minute in a log."""
        logged = time.monotonic()
        while not self._stopped.wait(1.0):
            self._render()
            if self._live is None and time.monotonic() - logged >= _LOG_EVERY_S:
                logged = time.monotonic()
                _log.info(self._now.sentence())


def read_status(state: Path) -> tuple[str, str] | None:
    """Read the name and the current sentence of the run in progress; None before the run has written its status."""
    try:
        status: dict[str, Any] = json.loads((state / _STATUS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    now = _Now(status["step"], tuple(status["asked"]), set(status["answered"]), status["verb"], status["since"])
    return status["run"], now.sentence()


def _list(sites: Collection[str]) -> str:
    named = list(sites)[:_MAX_NAMED]
    more = len(sites) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
