"""Processes of `workers=N`: out of reach of Ctrl-C, ended by the simulation that started them, and never left behind.

A terminal sends Ctrl-C to every process that runs in it. Only the simulation handles it and ends its workers, which
would print nothing but the traceback of an interrupted import or of an interrupted site.
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
    """Process in which Ctrl-C is blocked from its first instruction on."""

    def start(self) -> None:
        """Start the process; a Ctrl-C during the start is handled afterwards, by the calling process."""
        resource_tracker.ensure_running()  # before the block: on its own start it unblocks the signal
        with _ctrl_c_held_back():
            super().start()


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
    """Block the signal, which a new process inherits, and delay it here, where another thread may receive it."""
    came = threading.Event()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    takes_it = threading.current_thread() is threading.main_thread()  # no other thread may have or set a handler
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
    """Context from which a pool gets its processes.

    Attributes:
        started: all processes, also those that ended.
    """

    def __init__(self) -> None:
        super().__init__()
        self.started: list[_Worker] = []

    def Process(self, *args: Any, **kwargs: Any) -> _Worker:  # type: ignore[override]  # noqa: N802 - the name that pools call
        """Make a new process, not yet started."""
        self.started.append(_Worker(*args, **kwargs))
        return self.started[-1]

    def end(self) -> None:
        """End all processes at once. Their files on disk are whole at any time."""
        for process in self.started:
            if process.pid is not None:  # Ctrl-C came before it was started
                process.terminate()


def end_with_parent() -> None:
    """End this worker when the process that started it ends, also by a kill."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a worker"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="parent", daemon=True).start()
