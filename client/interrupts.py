"""What may break off the work of the main thread: being told to stop, losing the task, and its time being over.

Signals, because training must be left in the middle and only the main thread can be made to. Work that must not be
left half done (writing the egress log, handing over an answer) runs outside of `breakable`.
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
"""After this a process that was told to stop ends whatever it is doing: Docker kills after 10."""


class StopRequested(BaseException):
    """The process was told to end (SIGTERM, Ctrl-C)."""


class TaskLost(BaseException):
    """Nobody waits for the answer any more: the SuperNode was restarted, or the run ended."""


class TimeOver(BaseException):
    """The work took longer than it may."""


class Interrupts:
    """Signal handlers of the process; made once, in the main thread.

    Attributes:
        stopping: set when the process was told to end.
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
        """Work that may be left at any point.

        Args:
            limit_s: longest that it may take; None for no limit.

        Raises:
            StopRequested: at once, also if it came before.
            TaskLost: `lose` was called.
            TimeOver: past `limit_s`. At the latest when the work is done: a library may have swallowed the interrupt.
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
        """Break off the task; called by another thread."""
        self._interrupt(TaskLost)

    def stop(self) -> None:
        """Tell the process to end; called by another thread."""
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
    os._exit(ExitCode.INTERRUPTED)  # what is on disk is whole at any time
