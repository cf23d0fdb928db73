"""The site's connection: the stock SuperNode as a child process, watched, explained and started again.

It fetches messages and hands them out as tasks to whoever has the site's runtime secret; it runs no code by itself. It
sees weights and sums on their way, never a patient.
"""

import contextlib
import logging
import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from client.doctor.network import check_network, first_error
from client.flower.supernode import ConnectionEnd, connection_end, supernode_command
from memamba_core.config.site import CoordinatorAddress
from memamba_core.io.child_process import command_tied_to_this_process

from .keys import SiteKeys
from .logs import support_log
from .offline_responder import OfflineResponder

__all__ = ["Connection"]

_log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PAUSE_S = 10.0
_DELIVERY_S = 2.0  # a SuperNode looks for answers twice a second
_END_S = 3.0
_LAST_WORDS_S = 0.5  # what it wrote last may still be on its way
_LONG_S = 60.0


class Connection:
    """The SuperNode of a site.

    Args:
        coordinator: where to connect to.
        keys: node key and runtime secret.
        listen: host and port on which tasks are handed out.
        stopping: set when the process is told to end.
        stand_in: for a train part that is a program of its own.
    """

    def __init__(
        self,
        coordinator: CoordinatorAddress,
        keys: SiteKeys,
        listen: tuple[str, int],
        stopping: threading.Event,
        offline_responder: OfflineResponder | None = None,
    ) -> None:
        self._coordinator = coordinator
        self._keys = keys
        self._listen = listen
        self._stopping = stopping
        self._offline_responder = offline_responder
        self._told: dict[str, str] = {}
        self._why: ConnectionEnd | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Keep a SuperNode connected until `stopping` is set; then let it deliver a last answer and end it."""
        with tempfile.TemporaryDirectory(prefix="memamba-link-") as home:
            while not self._stopping.is_set():
                if self._ready():
                    with self._supernode(Path(home)) as process:
                        self._watch(process)
                self._stopping.wait(_PAUSE_S)

    def _ready(self) -> bool:
        """Whether there is anybody to connect to who knows this site; explains why not."""
        trouble = first_error(check_network(self._coordinator, self._keys))
        if trouble is None:
            self._notify("way", "the coordinator answers and knows this site; connecting")
        else:
            self._notify("way", f"no connection: {trouble.text}. What to do: {trouble.remedy}. Trying again every 10 s")
        return trouble is None

    def _notify(self, about: str, text: str) -> None:
        """Say each thing once, until there is another to say about the same."""
        if self._told.get(about) != text:
            support_log.info("%s", text)
            self._told[about] = text

    @contextlib.contextmanager
    def _supernode(self, home: Path) -> Iterator[subprocess.Popen[str]]:
        host, port = self._coordinator.host_and_port
        command, settings = supernode_command(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
            self._coordinator.ca,
            self._keys.private,
            self._keys.secret,
            self._listen,
        )
        process = subprocess.Popen(  # noqa: S603 - a program of this installation
            command_tied_to_this_process(command),
            env={**os.environ, **settings, "FLWR_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=home,  # nothing of the folder that this command was started in
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the child in order
        )
        self._why = None
        self._ended.clear()
        reader = threading.Thread(target=self._read_output, args=[process], name="supernode-output", daemon=True)
        reader.start()
        try:
            yield process
        finally:
            _end(process)
            reader.join(_END_S)

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """Until it ends by itself, is of no use any more, or this process is told to end."""
        started = time.monotonic()
        if self._offline_responder is not None:
            self._offline_responder.begin()
        while not self._stopping.wait(0.2):
            if process.poll() is not None or self._ended.is_set():
                self._ended.wait(_LAST_WORDS_S)
                self._explain(time.monotonic() - started)
                return
            if self._offline_responder is not None:
                self._offline_responder.poll()
        time.sleep(_DELIVERY_S)

    def _explain(self, lasted_s: float) -> None:
        if lasted_s > _LONG_S:
            self._told.pop("end", None)
        if self._why is ConnectionEnd.REFUSED:
            text = (
                "the coordinator still holds a connection with this site's key. After a crash that is so for about "
                "50 s; if it lasts, another machine uses the key. Trying again every 10 s"
            )
        elif self._why is ConnectionEnd.BROKEN:
            text = "the connection broke off and the SuperNode gave it up; starting it again"
        else:
            host, port = self._listen
            text = f"the SuperNode ended by itself; starting it again. Does another program use {host}:{port}?"
        self._notify("end", text)

    def _read_output(self, process: subprocess.Popen[str]) -> None:
        """What the SuperNode writes goes to the private log, and in a container of its own nowhere."""
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if text := _COLOUR.sub("", line).strip():
                    _log.info("SuperNode: %s", text)
                if self._why is None and (end := connection_end(text)) is not None:
                    self._why = end
                    self._ended.set()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
