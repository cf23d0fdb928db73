"""What may break off the work of the main thread: being told to stop, and losing the task that is worked on.

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

__all__ = ["Interrupts", "StopRequested", "TaskLost"]

GRACE_S = 9.0
"""After this a process that was told to stop ends whatever it is doing: Docker kills after 10."""


class StopRequested(BaseException):
    """The process was told to end (SIGTERM, Ctrl-C)."""


class TaskLost(BaseException):
    """Nobody waits for the answer any more: the SuperNode was restarted, or the run ended."""


class Interrupts:
    """Signal handlers of the process; made once, in the main thread.

    Attributes:
        stopping: set when the process was told to end.
    """

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._lost = False
        self._breakable = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)  # explicit, because process 1 of a container ignores the default
        signal.signal(signal.SIGUSR1, self._on_lost)

    @contextmanager
    def breakable(self) -> Iterator[None]:
        """Work that may be left at any point.

        Raises:
            StopRequested: at once, also if it came before.
            TaskLost: `lose` was called.
        """
        self._lost = False
        self._breakable = True
        try:
            if self.stopping.is_set():
                raise StopRequested
            yield
        finally:
            self._breakable = False

    def lose(self) -> None:
        """Break off the task; called by another thread."""
        self._lost = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

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

    def _on_lost(self, _number: int, _frame: FrameType | None) -> None:
        if self._breakable and self._lost:
            self._breakable = False
            raise TaskLost


def _end_after_grace() -> None:
    time.sleep(GRACE_S)
    os._exit(1)  # what is on disk is whole at any time
