"""Patience of one exchange: how long to wait for each site, and whether to repeat its request.

A site that is not connected is waited for if its answer is needed, and left out at once if the others are enough. The
time of pauses and of needed absences does not count towards the time limit of the exchange.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from flwr.common.constant import ErrorCode

from memamba_core.io.awake_clock import AwakeClock
from memamba_core.wire.protocol import Refusal

__all__ = ["Patience"]

_SETTLE_S = 60.0  # after a pause every site seems away; a SuperNode tries to return every 20 s, each try lasts 30 s
_MAX_REPEATS = 3
_LOST = (ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.REPLY_MESSAGE_UNAVAILABLE)
_AWAY = (Refusal.ABSENT.code, Refusal.STOPPED.code)  # a restart of the executor, or of the whole site
_FIRST_WAIT_S, _LONGEST_WAIT_S = 10.0, 60.0


@dataclass
class _Wait:
    """State of one request.

    Attributes:
        away_s: seconds for which the site was away in this exchange, pauses left out.
        repeats: number of times that the request was repeated because it or its answer was lost.
        retry_s: wait before the next repetition to a site that says that it is away, seconds.
        due: time of the next repetition; None while an answer is awaited.
        code: of the last error.
    """

    away_s: float = 0.0
    repeats: int = 0
    retry_s: float = field(default_factory=lambda: _FIRST_WAIT_S)
    due: float | None = None
    code: int = ErrorCode.NODE_UNAVAILABLE


class Patience:
    """State of an exchange; its methods are called from one loop.

    Args:
        nodes: nodes that were asked.
        timeout_s: time limit of the exchange, seconds.
        return_wait_s: longest wait for a site that is away, summed over the exchange, seconds.
        enough: returns True if answers of these nodes are enough.
        clock: read in each pass of the loop.
    """

    def __init__(
        self,
        nodes: Iterable[int],
        timeout_s: float,
        return_wait_s: float,
        enough: Callable[[frozenset[int]], bool],
        clock: AwakeClock,
    ) -> None:
        self._waiting = {node: _Wait() for node in nodes}
        self._answered: set[int] = set()
        self._return_wait_s = return_wait_s
        self._enough = enough
        self._clock = clock
        self._last = clock.now()
        self._away: frozenset[int] = frozenset()
        self.left_s = timeout_s

    @property
    def is_over(self) -> bool:
        """True if no answer is awaited any more, or the time is over."""
        return not self._waiting or self.left_s <= 0

    @property
    def awaited_back(self) -> frozenset[int]:
        """Nodes that are away and are waited for."""
        return self._away

    def awaits(self, node: int) -> bool:
        """Return True if the answer of a node is awaited."""
        return node in self._waiting

    def on_answer(self, node: int) -> None:
        """Count a node as answered."""
        self._waiting.pop(node, None)
        self._answered.add(node)

    def repeats(self, node: int, code: int) -> bool:
        """Return True if the request of a node is to be repeated after an error; False if the error is its answer.

        Args:
            node: that was asked.
            code: of Flower or of a `Refusal`.
        """
        wait = self._waiting.get(node)
        if wait is None:
            return False
        absent = code in _AWAY
        again = absent or (code in (*_LOST, ErrorCode.CLIENT_APP_CRASHED) and wait.repeats < _MAX_REPEATS)
        if again and code not in _LOST:
            again = not self._is_enough_without({node, *self._away}) and wait.away_s < self._return_wait_s
        if not again:
            del self._waiting[node]
            return False
        wait.code = code
        if absent:
            wait.due = self._last + wait.retry_s
            wait.retry_s = min(2 * wait.retry_s, _LONGEST_WAIT_S)
        else:
            wait.due = self._last
            wait.repeats += 1
        return True

    def take_due(self) -> list[int]:
        """Return the nodes whose request is to be repeated now."""
        due = [node for node, wait in self._waiting.items() if wait.due is not None and wait.due <= self._last]
        for node in due:
            self._waiting[node].due = None
        return due

    def pass_time(self, connected: Iterable[int]) -> dict[int, int]:
        """Count the time since the last call.

        Args:
            connected: nodes that are connected now.

        Returns:
            Error code of each node that is not waited for any longer.
        """
        now = self._clock.now()
        step, self._last = now - self._last, now
        away = {node for node, wait in self._waiting.items() if wait.due is not None} | (
            self._waiting.keys() - set(connected)
        )
        settled = self._clock.since_pause() >= _SETTLE_S
        spare = self._is_enough_without(away)
        left_out: dict[int, int] = {}
        for node in sorted(away):
            wait = self._waiting[node]
            wait.away_s += step
            if (spare or wait.away_s >= self._return_wait_s) and (settled or wait.away_s >= 2 * _SETTLE_S):
                left_out[node] = wait.code
        for node in left_out:
            del self._waiting[node]
        self._away = frozenset(away - left_out.keys())
        if not away:
            self.left_s -= step
        return left_out

    def _is_enough_without(self, away: Iterable[int]) -> bool:
        return self._enough(frozenset(self._answered | (self._waiting.keys() - set(away))))
