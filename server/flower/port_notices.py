"""Notices of the open port: what was refused and whence, as few lines as possible.

A stranger decides how often something happens, so a line is written per kind and not per event: the first a few seconds
after its first event, later ones at most every ten minutes. A line names the addresses with most events. It holds no
byte that a stranger sent.
"""

import enum
from collections import Counter
from collections.abc import Callable

__all__ = ["Notices", "Refused"]

_FIRST_S = 5.0
_AGAIN_S = 600.0
_NAMED = 3  # addresses in a line
_COUNTED = 1024  # addresses that are counted apart, for each kind


class Refused(enum.Enum):
    """Reason why the port closed a connection or refused a request."""

    SILENT = "connections that sent nothing for 10 s"
    TOO_MANY = "connections beyond the limit of unknown connections"
    TOO_FAST = "connections beyond the limit of new connections per second"
    NOT_TLS = "connections without TLS, or with a failed TLS handshake"
    SLOW_HANDSHAKE = "TLS handshakes that took longer than 10 s"
    SLOW_HEADER = "connections that sent no complete request within 10 s"
    NOT_HTTP = "requests that are not HTTP, or whose header is longer than 16 kB"
    UNKNOWN_CALLER = "requests without the signature of an enrolled key"
    CLOSED_PATH = "requests for a path that sites do not use"
    BODY_SIZE = "requests of no stated size or of more than 16 MB"
    STALLED = "requests that carried no byte for 60 s"
    TOO_MANY_OF_A_SITE = "connections beyond the limit of a single site"


class Notices:
    """Count refusals, and write a line per kind now and then.

    Args:
        write: takes a line.
        clock: time in seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._counts: dict[Refused, Counter[str]] = {}
        self._others: Counter[Refused] = Counter()
        self._due: dict[Refused, float] = {}

    def count(self, kind: Refused, address: str) -> None:
        """Count a refusal.

        Args:
            kind: reason.
            address: IP address of the caller.
        """
        counts = self._counts.setdefault(kind, Counter())
        if address in counts or len(counts) < _COUNTED:
            counts[address] += 1
        else:
            self._others[kind] += 1
        self._due.setdefault(kind, self._clock() + _FIRST_S)

    def flush(self, everything: bool = False) -> None:
        """Write the lines that are due, or all."""
        now = self._clock()
        for kind, counts in self._counts.items():
            if counts and (everything or now >= self._due[kind]):
                self._write(self._line(kind, counts))
                counts.clear()
                self._others[kind] = 0
                self._due[kind] = now + _AGAIN_S

    def _line(self, kind: Refused, counts: Counter[str]) -> str:
        named = counts.most_common(_NAMED)
        total = counts.total() + self._others[kind]
        text = ", ".join(f"{number} from {address}" for address, number in named)
        rest = total - sum(number for _, number in named)
        return f"{kind.value}: refused {total} ({text}" + (f", {rest} from other addresses)" if rest else ")")
