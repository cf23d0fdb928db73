"""The site's connection: the stock SuperNode as a child process, watched, explained and started again.

It fetches messages and hands them out as tasks to whoever has the site's runtime secret; it runs no code by itself. It
sees weights and sums on their way, never a patient.
"""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import CoordinatorAddress

from .flwr_compat import supernode_command
from .keys import SiteKeys
from .logs import support_log
from .network import KEY, check_network, obstacle

__all__ = ["Link"]

_log = logging.getLogger(__name__)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PAUSE_S = 10.0
_OLD_CONNECTION_S = 90.0  # the coordinator forgets a connection without heartbeat after about a minute
_DELIVERY_S = 2.0  # a SuperNode looks for answers twice a second
_END_S = 3.0
_TWICE_S = 25.0  # longer than a SuperNode that is alive waits between two heartbeats
_EARLY_S = 5.0


class Link:
    """The SuperNode of a site.

    Args:
        coordinator: where to connect to.
        keys: node key and runtime secret.
        listen: host and port on which tasks are handed out.
        stopping: set when the process is told to end.
    """

    def __init__(
        self, coordinator: CoordinatorAddress, keys: SiteKeys, listen: tuple[str, int], stopping: threading.Event
    ) -> None:
        self._coordinator = coordinator
        self._keys = keys
        self._listen = listen
        self._stopping = stopping
        self._told = ""
        self._refused_since: float | None = None
        self._erred = threading.Event()

    def run(self) -> None:
        """Keep a SuperNode connected until `stopping` is set; then let it deliver a last answer and end it."""
        with tempfile.TemporaryDirectory(prefix="memamba-link-") as home:
            while not self._stopping.is_set():
                if self._ready():
                    with self._supernode(Path(home)) as process:
                        self._watch(process)
                self._stopping.wait(_PAUSE_S)

    def _ready(self) -> bool:
        """Whether a SuperNode would be let in; explains why not, each reason once."""
        trouble = obstacle(check_network(self._coordinator, self._keys))
        if trouble is None:
            self._refused_since = None
            self._tell("the coordinator answers and knows this site; connecting")
            return True
        if trouble.check == KEY and not self._refused_for_long():
            self._tell(
                "the coordinator does not let this site in yet. After a crash that is so for about 50 s: it still "
                "holds the connection of before"
            )
        else:
            self._tell(f"no connection: {trouble.text}. What to do: {trouble.remedy}. Trying again every 10 s")
        return False

    def _refused_for_long(self) -> bool:
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        return now - self._refused_since > _OLD_CONNECTION_S

    def _tell(self, text: str) -> None:
        if text != self._told:
            support_log.info("%s", text)
            self._told = text

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
        tied = [sys.executable, "-P", str(Path(__file__).with_name("tied_child.py")), str(os.getpid()), *command]
        process = subprocess.Popen(  # noqa: S603 - a program of this installation
            tied,
            env={**os.environ, **settings, "FLWR_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=home,  # nothing of the folder that this command was started in
            start_new_session=True,  # Ctrl-C reaches this process only, which ends the child in order
        )
        self._erred.clear()
        reader = threading.Thread(target=self._read_output, args=[process], name="supernode-output", daemon=True)
        reader.start()
        try:
            yield process
        finally:
            _end(process)
            reader.join(_END_S)

    def _watch(self, process: subprocess.Popen[str]) -> None:
        """Until it ends by itself, is of no use any more, or this process is told to end."""
        begun = time.monotonic()
        while not self._stopping.wait(0.2):
            if process.poll() is not None:
                lasted = time.monotonic() - begun
                host, port = self._listen
                support_log.warning(
                    "the SuperNode ended after %.0f s; looking for the reason%s",
                    lasted,
                    f". Is {host}:{port} in use by another program?" if lasted < _EARLY_S else "",
                )
                self._told = ""
                return
            if self._erred.is_set() and self._given_up():
                support_log.warning("the SuperNode has given up its connection; starting it again")
                self._told = ""
                return
        time.sleep(_DELIVERY_S)

    def _given_up(self) -> bool:
        """Whether the SuperNode does not come back from an error.

        After some of them (a handshake that was cut off, a proxy's error page) its loop ends and its process stays.
        Then the coordinator lets the site's key in, which it does not while a SuperNode with it is connected.
        """
        until = time.monotonic() + _OLD_CONNECTION_S + _TWICE_S
        while time.monotonic() < until:
            if self._stopping.wait(_PAUSE_S):
                return False
            if self._let_in() and not self._stopping.wait(_TWICE_S) and self._let_in():
                return True
        self._erred.clear()
        return False

    def _let_in(self) -> bool:
        return obstacle(check_network(self._coordinator, self._keys)) is None

    def _read_output(self, process: subprocess.Popen[str]) -> None:
        """What the SuperNode writes goes to the private log, and in a container of its own nowhere."""
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                if text := _COLOUR.sub("", line).strip():
                    _log.info("SuperNode: %s", text)
                if text.startswith("ERROR"):
                    self._erred.set()


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
