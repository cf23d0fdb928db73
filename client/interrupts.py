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

from .exit_codes import ExitCode

__all__ = ["GRACE_S", "Interrupts", "StopRequested", "TaskLost", "TimeOver"]

GRACE_S = 9.0
"""Seconds from the request to stop to the end of the process, whatever it does: Docker kills after 10."""


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
            limit_s: time limit in seconds; None for no limit.

        Raises:
            StopRequested: immediately, also if the request came before the block.
            TaskLost: `lose` was called.
            TimeOver: after `limit_s`. If a library swallowed the interrupt, it is raised when the work is done.
        """
        started = time.monotonic()
        timer = threading.Timer(limit_s, self._interrupt, [TimeOver]) if limit_s is not None else None
        self._reason = None
        self._breakable = True
        try:
            if self.stopping.is_set():
                raise StopRequested
            if timer is not None:
                timer.daemon = True
                timer.start()
            yield
            if limit_s is not None and time.monotonic() - started > limit_s:
                raise TimeOver
        finally:
            self._breakable = False
            if timer is not None:
                timer.cancel()

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
        if self._breakable and self._reason is not None:
            self._breakable = False
            raise self._reason


def _end_after_grace() -> None:
    time.sleep(GRACE_S)
    os._exit(ExitCode.INTERRUPTED)  # files on disk are complete at any time: each is written atomically
