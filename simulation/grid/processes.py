"""The processes behind `workers=N`: out of reach of Ctrl-C, ended by whoever started them, and never left behind.

A terminal sends Ctrl-C to everything that runs in it. The simulation alone takes it and ends its workers; they would
only put the words of an interrupted import, or of an interrupted hospital, on the screen.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

__all__ = ["WorkerContext", "end_with_parent"]


class _Worker(SpawnProcess):
    """A process in which Ctrl-C is blocked from its first instruction on."""

    def start(self) -> None:
        """Start it whole: a Ctrl-C of this very moment is taken afterwards, by the process that calls."""
        resource_tracker.ensure_running()  # before: on its own start it unblocks what is blocked here
        with _ctrl_c_held_back():
            super().start()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Block the signal, which a new process inherits; and put it off here, where another thread may receive it."""
    came = threading.Event()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    takes_it = threading.current_thread() is threading.main_thread()  # no other thread may have, or set, a handler
    handler = signal.signal(signal.SIGINT, lambda *_: came.set()) if takes_it else None
    try:
        yield
    finally:
        if takes_it:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if came.is_set():
            signal.raise_signal(signal.SIGINT)


class WorkerContext(SpawnContext):
    """Where a pool gets its processes from.

    Attributes:
        started: all of them, also those that ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: list[_Worker] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # type: ignore[override]  # noqa: N802 - the name that pools call
        """A new one, not yet started."""
        self.started.append(_Worker(*args, **kwargs))
        return self.started[-1]

    def end(self) -> None:
        """End all, whatever they are doing. What they keep on disk is whole at any time."""
        for process in self.started:
            if process.pid is not None:  # Ctrl-C came before it was started
                process.terminate()


def end_with_parent() -> None:
    """Called in a worker: let it end when the process that started it does, also by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
