"""Connector of a site: run the stock SuperNode as a child process, log readable errors, and restart it.

The SuperNode fetches messages from the coordinator and hands them out as tasks to the program that has the site's
runtime secret; the SuperNode itself runs no code of a task. Weights and sums pass through it, never a patient.
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
from dataclasses import dataclass
from pathlib import Path

from client.doctor.network import check_network, first_error
from client.flower.supernode import ConnectionEnd, connection_end, supernode_command
from memamba_core.config.site import CoordinatorAddress
from memamba_core.io.child_process import command_tied_to_this_process

from .keys import SiteKeys
from .logs import support_log
from .offline_responder import OfflineResponder

__all__ = ["Connection", "Timing"]

_log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_STABLE_S = 60.0  # a SuperNode that ran longer than this makes the next end worth a new line in the log


@dataclass(frozen=True)
class Timing:
    """Waits of a connection, in seconds.

    Attributes:
        retry_s: between two attempts to connect.
        delivery_s: between the request to stop and the end of the SuperNode, which looks for answers twice a second.
        terminate_s: for the SuperNode to end after SIGTERM, before SIGKILL.
        last_output_s: for the last output of a SuperNode that ended.
    """

    retry_s: float = 10.0
    delivery_s: float = 2.0
    terminate_s: float = 3.0
    last_output_s: float = 0.5


class Connection:
    """The supervised SuperNode of a site.

    Args:
        coordinator: address and certificate authority of the coordinator.
        keys: node key and runtime secret.
        listen: host and port on which the SuperNode hands out tasks.
        stopping: set when the process must end.
        offline_responder: refuses requests while the executor, a program of its own, is absent; None where connector
            and executor are one program.
        timing: waits; tests shorten them.
    """

    def __init__(
        self,
        coordinator: CoordinatorAddress,
        keys: SiteKeys,
        listen: tuple[str, int],
        stopping: threading.Event,
        offline_responder: OfflineResponder | None = None,
        timing: Timing = Timing(),
    ) -> None:
        self._coordinator = coordinator
        self._keys = keys
        self._listen = listen
        self._stopping = stopping
        self._offline_responder = offline_responder
        self._timing = timing
        self._last_notices: dict[str, str] = {}
        self._end_reason: ConnectionEnd | None = None
        self._ended = threading.Event()

    def run(self) -> None:
        """Keep a SuperNode connected until `stopping` is set; then let it deliver its last answer, and end it."""
        with tempfile.TemporaryDirectory(prefix="memamba-connector-") as home:
            while not self._stopping.is_set():
                if self._ready():
                    with self._supernode(Path(home)) as process:
                        self._watch(process)
                self._stopping.wait(self._timing.retry_s)

    def _ready(self) -> bool:
        """Return True if the coordinator is reachable and accepts this site's key; log the reason otherwise."""
        problem = first_error(check_network(self._coordinator, self._keys))
        if problem is None:
            self._notify("network", "the coordinator is reachable and accepts this site's key; connecting")
        else:
            self._notify("network", f"no connection: {problem.text}. What to do: {problem.remedy}. Retrying every 10 s")
        return problem is None

    def _notify(self, topic: str, text: str) -> None:
        """Log a text unless the last one on this topic was the same."""
        if self._last_notices.get(topic) != text:
            support_log.info("%s", text)
            self._last_notices[topic] = text

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
            cwd=home,  # so that no file of the current folder is imported
            start_new_session=True,  # so that Ctrl-C reaches this process only, which then ends the child
        )
        self._end_reason = None
        self._ended.clear()
        reader = threading.Thread(target=self._read_output, args=[process], name="supernode-output", daemon=True)
        reader.start()
        try:
            yield process
        finally:
            _terminate(process, self._timing.terminate_s)
            reader.join(self._timing.terminate_s)

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """Wait until the SuperNode ends or loses its connection, or until this process must stop."""
        started = time.monotonic()
        if self._offline_responder is not None:
            self._offline_responder.begin()
        while not self._stopping.wait(0.2):
            if process.poll() is not None or self._ended.is_set():
                self._ended.wait(self._timing.last_output_s)
                self._log_end(time.monotonic() - started)
                return
            if self._offline_responder is not None:
                self._offline_responder.poll()
        time.sleep(self._timing.delivery_s)

    def _log_end(self, lasted_s: float) -> None:
        if lasted_s > _STABLE_S:
            self._last_notices.pop("end", None)
        if self._end_reason is ConnectionEnd.REFUSED:
            text = (
                "the coordinator still holds a connection with this site's key. After a crash this lasts about 50 s; "
                "if it lasts longer, another machine uses the key. Retrying every 10 s"
            )
        elif self._end_reason is ConnectionEnd.BROKEN:
            text = "the connection was lost and the SuperNode stopped trying; restarting the SuperNode"
        else:
            host, port = self._listen
            text = f"the SuperNode ended unexpectedly; restarting it. Check whether another program uses {host}:{port}"
        self._notify("end", text)

    def _read_output(self, process: subprocess.Popen[str]) -> None:
        """Copy the SuperNode's output to the private log; a connector in its own container has none, and drops it."""
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if text := _COLOUR.sub("", line).strip():
                    _log.info("SuperNode: %s", text)
                if self._end_reason is None and (end := connection_end(text)) is not None:
                    self._end_reason = end
                    self._ended.set()


def _terminate(process: subprocess.Popen[str], timeout_s: float) -> None:
    process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
