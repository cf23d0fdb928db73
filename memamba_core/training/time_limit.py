"""Time limit on the computation of one patient, by a signal to the main thread."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

__all__ = ["TimeLimit", "TimeUp"]

_SIGNAL: Final = getattr(signal, "SIGUSR2", None)


class TimeUp(BaseException):
    """The block took longer than its limit. Not an `Exception`, so that no library swallows it."""


class TimeLimit:
    """Limit for blocks of work, one after the other; outside the main thread, or without SIGUSR2, there is none.

    Args:
        seconds: limit of each block. A call into compiled code is interrupted when it returns.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._armed = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signal while the block runs, and restore the earlier handler after it."""
        if _SIGNAL is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        earlier = signal.signal(_SIGNAL, self._on_signal)
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            del self._thread
            signal.signal(_SIGNAL, earlier)

    @contextmanager
    def one_patient(self) -> Iterator[None]:
        """Interrupt the block after the limit.

        Raises:
            TimeUp: the limit has passed.
        """
        thread = getattr(self, "_thread", None)
        if thread is None or _SIGNAL is None:
            yield
            return
        timer = threading.Timer(self._seconds, signal.pthread_kill, [thread, _SIGNAL])
        timer.daemon = True
        self._armed = True
        try:
            timer.start()
            yield
        finally:
            self._armed = False
            timer.cancel()
            timer.join()  # a signal that is on its way arrives now, and finds the limit disarmed

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        if self._armed:
            self._armed = False
            raise TimeUp
