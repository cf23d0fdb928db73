"""Refuse requests on behalf of an absent executor, so that the coordinator does not wait for an answer in vain.

A SuperNode hands each request to a program that asks for tasks, and waits without limit if there is none. Where the
executor is a program of its own, the connector checks that it is connected; after a minute without a connection the
connector refuses requests itself, with a fixed text. The connector holds no data that could leave.
"""

import logging
import time
from pathlib import Path

from flwr.app import Error, Message

from client.flower.tasks import NodeTasks
from memamba_core.errors import UnreachableError
from memamba_core.io.awake_clock import AwakeClock
from memamba_core.wire.protocol import Refusal

from .logs import support_log

__all__ = ["TCP_TABLES", "OfflineResponder", "is_connected_to"]

_log = logging.getLogger(__name__)
_ABSENT_S = 60.0  # longer than the restart of an executor takes
_EVERY_S = 2.0
_LONGEST_POLL_S = 30.0  # a longer one is a pause of this process, in which the executor could not be seen
TCP_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
"""Linux's tables of TCP connections; on a system without them an executor never counts as absent."""
_ESTABLISHED = "01"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - where to reach a program that listens on all addresses


class OfflineResponder:
    """Substitute for the absent executor of a site.

    Args:
        listen: host and port on which the SuperNode hands out tasks.
        secret: runtime secret of the site.
    """

    def __init__(self, listen: tuple[str, int], secret: bytes) -> None:
        host, self._port = listen
        self._address = f"{_LOOPBACK.get(host, host)}:{self._port}"
        self._secret = secret
        self.begin()

    def begin(self) -> None:
        """Start the minute in which the executor may connect; call it when a SuperNode was started."""
        self._clock = AwakeClock(_LONGEST_POLL_S, read=time.monotonic)
        self._last_seen = self._last_check = self._clock.now()

    def poll(self) -> None:
        """Check that the executor is connected; refuse one request if it has been absent for a minute."""
        now = self._clock.now()
        if self._clock.since_pause() == 0:
            self._last_seen = now
        if now - self._last_check < _EVERY_S:
            return
        self._last_check = now
        if is_connected_to(self._port):
            self._last_seen = now
        elif now - self._last_seen > _ABSENT_S:
            self._refuse_one()

    def _refuse_one(self) -> None:
        tasks = NodeTasks(self._address, self._secret)
        try:
            token = tasks.acquire()
            if token is None:
                return
            with tasks.open(token, on_lost=lambda: None) as task:
                error = Error(code=Refusal.ABSENT.code, reason=Refusal.ABSENT.text)
                task.answer(Message(error, reply_to=task.message))
            support_log.warning("a request was refused (%d: %s)", Refusal.ABSENT.code, Refusal.ABSENT.text)
        except UnreachableError as error:  # the SuperNode is still starting
            _log.info("no task: %s", error)
        finally:
            tasks.close()  # an open connection would be mistaken for the executor


def is_connected_to(port: int) -> bool:
    """Return True if a program is connected to this local port, and on systems where this cannot be determined."""
    tables = [table for table in TCP_TABLES if table.exists()]
    for table in tables:
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                return True
    return not tables
