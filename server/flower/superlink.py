"""Flower's SuperLink as a child process of `flower-server run`: started, watched, restarted, ended.

The database lies in `state/`: a SuperLink that is killed continues after its restart, and sites that stay connected
from run to run keep their node. The database holds the sites' messages only while a run lasts.
"""

import contextlib
import logging
import os
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.request import urlopen

from memamba_core.errors import ConfigError, FederationError
from memamba_core.io.proxy import bypass_proxy
from server.admin.folder import FederationFolder

__all__ = ["SuperLink"]

_LOOPBACK = "127.0.0.1"
_log = logging.getLogger(__name__)
_START_S = 60.0
_STOP_S = 5.0
_MAX_STARTS = 5  # within `_MAX_STARTS_S`; a SuperLink that ends more often is not restarted again
_MAX_STARTS_S = 120.0


def _set_environment(folder: FederationFolder) -> None:
    """Configure Flower here and in the child: no telemetry, no downloads, no files outside the folder, no proxy."""
    bypass_proxy(_LOOPBACK, "localhost")
    os.environ |= {
        "FLWR_HOME": str(folder.state / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }


class SuperLink:
    """Running SuperLink; a context manager.

    Args:
        folder: folder of the federation.

    Raises:
        ConfigError: on entering, if one of its ports is in use.
        FederationError: on entering, if it does not start.
    """

    def __init__(self, folder: FederationFolder) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._empty_database = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="superlink", daemon=True)
        self.failed = threading.Event()

    @property
    def address(self) -> str:
        """`host:port` on loopback, where all interfaces are served."""
        return f"{_LOOPBACK}:{self._folder.config.loopback_port}"

    @property
    def log_file(self) -> Path:
        """Output of Flower."""
        return self._folder.state / "superlink.log"

    @property
    def database(self) -> Path:
        """Database of nodes and of the messages of the run in progress."""
        return self._folder.state / "superlink.db"

    def __enter__(self) -> Self:
        host, port = self._folder.config.public_listener
        _set_environment(self._folder)
        _check_free(_LOOPBACK, self._folder.config.loopback_port, "loopback_port")
        _check_free(host, port, "listen_port")
        self.log_file.write_bytes(b"")
        self._watcher.start()
        try:
            self._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(self.database)) as database:
            database.execute("VACUUM")  # else the bytes of deleted messages stay in the file

    def restart_with_empty_database(self) -> None:
        """Restart the SuperLink with an empty database; connected sites connect again by themselves.

        Raises:
            FederationError: the SuperLink does not start.
        """
        process = self._process
        assert process is not None
        self._empty_database.set()
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._wait_until_ready()

    def _watch(self) -> None:
        """Start the SuperLink, and restart it when it ends; always in this thread, with which the child ends."""
        starts: list[float] = []
        while not self._stopping.is_set():
            starts = [*(s for s in starts if time.monotonic() - s < _MAX_STARTS_S), time.monotonic()]
            if len(starts) > _MAX_STARTS:
                _log.error("the SuperLink ended %d times within %.0f s", _MAX_STARTS, _MAX_STARTS_S)
                break
            if self._empty_database.is_set():
                for path in self.database.parent.glob(f"{self.database.name}*"):  # with SQLite's journal files
                    path.unlink()
                self._empty_database.clear()
            notices, notices_of_child = os.pipe()
            with self.log_file.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    self._command(notices_of_child),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=(notices_of_child,),
                    start_new_session=True,  # Ctrl-C is for the parent, which ends the child after its cleanup
                )
            os.close(notices_of_child)
            reader = threading.Thread(target=_log_notices, args=(notices,), name="superlink-notices", daemon=True)
            reader.start()
            code = self._process.wait()
            reader.join(_STOP_S)
            if not self._stopping.is_set() and not self._empty_database.is_set():
                _log.warning("the SuperLink ended (%s); it is started again", code)
                self._stopping.wait(0.5)
        if not self._stopping.is_set():
            self.failed.set()

    def _command(self, notices: int) -> list[str]:
        config, pki = self._folder.config, self._folder.pki
        host, port = config.public_listener
        return [
            *(sys.executable, "-P", "-m", "server.flower.superlink_process", str(os.getpid()), host, str(port)),
            *(str(self._folder.roster_file), str(notices)),
            *("--host", _LOOPBACK, "--port", str(config.loopback_port)),
            *("--ssl-ca-certfile", str(pki.ca_certificate)),
            *("--ssl-certfile", str(pki.server_certificate), "--ssl-keyfile", str(pki.server_key)),
            *("--enable-supernode-auth", "--database", str(self.database)),
            *("--isolation", "process", "--superexec-auth-secret-file", str(self._folder.runtime_secret)),
            "--disable-runtime-dependency-installation",
        ]

    def _wait_until_ready(self) -> None:
        trust = ssl.create_default_context(cafile=str(self._folder.pki.ca_certificate))
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and not self.failed.is_set():
            with contextlib.suppress(OSError), urlopen(f"https://{self.address}/health", context=trust, timeout=2):
                return
            time.sleep(0.1)
        raise FederationError(f"the SuperLink does not start. Its log is {self.log_file}")

    def _end(self) -> None:
        self._stopping.set()
        deadline = time.monotonic() + _STOP_S
        while self._watcher.is_alive():  # the watcher may be starting a child at this moment
            if self._process is not None:
                self._process.terminate() if time.monotonic() < deadline else self._process.kill()
            self._watcher.join(0.2)


def _log_notices(pipe: int) -> None:
    """Log what a child reports about its port for sites, until the child ends."""
    with os.fdopen(pipe, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _log.warning("port for sites: %s", line.rstrip())


def _check_free(host: str, port: int, setting: str) -> None:
    """Check that this process can listen on a port, before anything is started.

    Raises:
        ConfigError: it cannot listen.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port} of {host} cannot be used ({error.strerror}). End the program that uses it, or change "
                f"{setting} in coordinator.yaml"
            ) from None
