"""Clock for time limits: it stands still while the process, its machine or the call in progress does.

Linux's monotonic clock counts the time for which a process was stopped (SIGSTOP, a frozen container), but not the sleep
of a machine; a virtual machine that continues from a snapshot notices nothing but a jump of the system's time. A limit
that expires in such a pause would be charged to a peer that did nothing wrong.
"""

import math
import time
from collections.abc import Callable

__all__ = ["AwakeClock"]


class AwakeClock:
    """Monotonic clock without pauses, for a loop that reads it in each pass.

    Args:
        longest_step_s: longest time between two readings that counts in full, seconds; of a longer one, a pause, only
            this much counts. Time therefore passes even where every pass of the loop is slow.
        read: monotonic clock, seconds.
        wall: system time, seconds; a jump ahead is a pause that the monotonic clock did not see.

    Attributes:
        paused_s: length of the last pause, seconds.
        pauses: number of pauses.
    """

    def __init__(
        self,
        longest_step_s: float = 10.0,
        *,
        read: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._read, self._wall = read, wall
        self._longest_step_s = longest_step_s
        self._last, self._last_wall = read(), wall()
        self._now = 0.0
        self._pause_ended = -math.inf
        self.paused_s = 0.0
        self.pauses = 0

    def now(self) -> float:
        """Return the seconds since the clock was made, without pauses."""
        reading, wall = self._read(), self._wall()
        step = max(0.0, reading - self._last)
        longest = max(step, wall - self._last_wall)
        self._last, self._last_wall = reading, wall
        self._now += min(step, self._longest_step_s)
        if longest > self._longest_step_s:
            self.pauses += 1
            self.paused_s = longest
            self._pause_ended = self._now
        return self._now

    def since_pause(self) -> float:
        """Return the seconds since the end of the last pause, by the last reading; infinite without a pause."""
        return self._now - self._pause_ended
