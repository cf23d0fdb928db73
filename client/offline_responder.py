"""Answers requests in place of a train part that is not there, so that the coordinator does not wait for nobody.

A SuperNode hands each request to whoever asks for tasks, and waits for ever if nobody does. Where the train part is a
program of its own, the link looks whether it is connected, and after a minute without it refuses requests itself, with
a fixed text. Nothing of data is here that could leave.
"""

import logging
import time
from pathlib import Path

from flwr.app import Error, Message

from client.flower.tasks import NodeTasks
from memamba_core.errors import UnreachableError
from memamba_core.wire.protocol import Refusal

from .logs import support_log

__all__ = ["OfflineResponder"]

_log = logging.getLogger(__name__)
_ABSENT_S = 60.0  # longer than a train part takes to be started again
_EVERY_S = 2.0
_TCP_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))  # Linux; elsewhere nobody is ever absent
_ESTABLISHED = "01"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - where one asks who listens on all addresses


class OfflineResponder:
    """For the train part of a site.

    Args:
        listen: host and port on which tasks are handed out.
        secret: that gets them.
    """

    def __init__(self, listen: tuple[str, int], secret: bytes) -> None:
        host, self._port = listen
        self._address = f"{_LOOPBACK.get(host, host)}:{self._port}"
        self._secret = secret
        self.begin()

    def begin(self) -> None:
        """A SuperNode was started: from now on the train part has its minute."""
        self._seen = self._looked = time.monotonic()

    def poll(self) -> None:
        """See whether the train part is there, and answer a request if it has not been for a minute."""
        now = time.monotonic()
        if now - self._looked < _EVERY_S:
            return
        self._looked = now
        if _is_connected_to(self._port):
            self._seen = now
        elif now - self._seen > _ABSENT_S:
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
        except UnreachableError as error:  # the SuperNode is being started
            _log.info("no task: %s", error)
        finally:
            tasks.close()  # or it would be taken for the train part


def _is_connected_to(port: int) -> bool:
    """Whether anybody is connected to this port of ours. True where that cannot be seen."""
    tables = [table for table in _TCP_TABLES if table.exists()]
    for table in tables:
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            _, local, _, state = line.split()[:4]
            if state == _ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
                return True
    return not tables
