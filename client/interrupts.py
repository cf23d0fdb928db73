"""Cancel work in the main thread on shutdown, task loss or timeout.

Signals do this, because training must be interruptible at any point and only the main thread receives a signal. Work
that must be completed (writing the egress log, handing over an answer) runs outside `breakable`.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from memamba_core.io.awake_clock import AwakeClock

from .exit_codes import ExitCode

__all__ = ["GRACE_S", "Interrupts", "StopRequested", "TaskLost", "TimeOver", "finish_once_begun"]

GRACE_S = 9.0
"""Seconds from the request to stop to the end of the process, whatever it does: Docker kills after 10."""


_LONGEST_STEP_S = 30.0  # work that holds the interpreter for longer, or a pause of the process
_begun: list[None] = []  # an entry for each block of `finish_once_begun` that is being executed


@contextmanager
def finish_once_begun() -> Iterator[None]:
    """Run a block to its end although its task is lost: its answer is stored, and sent when the request is repeated.

    A SuperNode gives a task up after a minute without heartbeats, for example when the process was suspended. Work that
    was charged to a privacy budget would otherwise be paid for and lost.
    """
    _begun.append(None)
    try:
        yield
    finally:
        _begun.pop()


class StopRequested(BaseException):
    """The process must end (SIGTERM, Ctrl-C)."""


class TaskLost(BaseException):
    """The answer is no longer awaited: the SuperNode was restarted, or the run ended."""


class TimeOver(BaseException):
    """The work exceeded its time limit."""


class Interrupts:
    """Signal handlers of the process, created once, in the main thread.

    Attributes:
        stopping: set when the process must end.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._breakable = False
        self._reason: type[BaseException] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)  # explicit, because process 1 of a container ignores the default
        signal.signal(signal.SIGUSR1, self._on_interrupt)

    @contextmanager
    def breakable(self, limit_s: float | None = None) -> Iterator[None]:
        """Run a block of work that may be interrupted at any point.

        Args:
            limit_s: time limit in seconds, without pauses of the process; None for no limit.

        Raises:
            StopRequested: immediately, also if the request came before the block.
            TaskLost: `lose` was called, outside `finish_once_begun`.
            TimeOver: after `limit_s`. If a library swallowed the interrupt, it is raised when the work is done.
        """
        clock, done = AwakeClock(_LONGEST_STEP_S), threading.Event()
        self._reason = None
        self._breakable = True
        try:
            if self.stopping.is_set():
                raise StopRequested
            if limit_s is not None:
                threading.Thread(target=self._watch_time, args=(clock, limit_s, done), daemon=True).start()
            yield
            if limit_s is not None and clock.now() > limit_s:
                raise TimeOver
        finally:
            self._breakable = False
            done.set()

    def _watch_time(self, clock: AwakeClock, limit_s: float, done: threading.Event) -> None:
        while not done.wait(min(1.0, max(0.01, limit_s - clock.now()))):
            if clock.now() > limit_s:
                self._interrupt(TimeOver)
                return

    def lose(self) -> None:
        """Cancel the task; called by another thread."""
        self._interrupt(TaskLost)

    def stop(self) -> None:
        """Request the end of the process; called by another thread."""
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            threading.Thread(target=_end_after_grace, daemon=True).start()
        if self._breakable:
            self._breakable = False
            raise StopRequested

    def _interrupt(self, reason: type[BaseException]) -> None:
        self._reason = reason
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        if self._reason is TaskLost and _begun:
            return
        if self._breakable and self._reason is not None:
            self._breakable = False
            raise self._reason


def _end_after_grace() -> None:
    time.sleep(GRACE_S)
    os._exit(ExitCode.INTERRUPTED)  # files on disk are complete at any time: each is written atomically
