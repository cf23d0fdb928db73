"""Coordinator's folder: settings, roster, keys, runs, and the state of the run in progress.

::

    coordinator.yaml   addresses and ports              kits/       what `flower-server kit` wrote
    roster.yaml        the enrolled sites               runs/RUN/   results and journal of a run
    pki/               certificate authority, server    state/      of the SuperLink; `run.lock`
                       key, secret of the runtime

`state/` and `runs/` hold what the sites send, `pki/` holds the keys: only the owner may access the folder.
"""

import datetime as dt
import fcntl
import os
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memamba_core.config.coordinator import CoordinatorConfig, load_coordinator_config
from memamba_core.errors import ConfigError, FolderBusyError
from memamba_core.io.atomic import write_atomically, write_secret

from .pki import Pki
from .roster import Roster, load_roster, save_roster

__all__ = ["FederationFolder", "Holder", "create_folder", "open_folder"]

_SETTINGS = """\
# The coordinator. After a change of addresses, run `flower-server renew` and send new kits.
# Other settings take effect with the next `flower-server run`.

# Host names and IP addresses by which sites reach this machine; kits hold the first.
addresses: [{addresses}]
# Port that sites connect to.
port: {port}
# Address and port of this machine to listen on. listen_port: null means the same as port; set it behind a port mapping.
listen_host: {listen_host}
listen_port: {listen_port}
# Port of the SuperLink's other interfaces, on 127.0.0.1 only. They have no authentication: never map this port.
loopback_port: {loopback_port}
"""
_RUN_LOCK = "run.lock"
_LOCK_SECONDS = 0.5  # `holder` takes the lock for a moment to find out whether it is free
_ALLOWED_IN_A_NEW_FOLDER = {"lost+found"}  # an empty volume may hold it


@dataclass(frozen=True)
class Holder:
    """Process of a run.

    Attributes:
        process: process id on its machine.
        machine: host name; a container has its own host name and process ids.
    """

    process: int
    machine: str

    @property
    def is_here(self) -> bool:
        """True where the process id means that process on this machine."""
        return self.machine == socket.gethostname()

    def __str__(self) -> str:
        return str(self.process) if self.is_here else f"{self.process} of {self.machine}"


@dataclass(frozen=True)
class FederationFolder:
    """Existing folder, with its settings as they were when it was opened.

    Attributes:
        path: absolute path.
        config: contents of `coordinator.yaml`.
    """

    path: Path
    config: CoordinatorConfig

    @property
    def roster_file(self) -> Path:
        """File of the enrolled sites."""
        return self.path / "roster.yaml"

    @property
    def pki(self) -> Pki:
        """Certificates and keys."""
        return Pki(self.path / "pki")

    @property
    def runtime_secret(self) -> Path:
        """Secret by which the coordinator's own programs authenticate at the SuperLink's runtime interface."""
        return self.path / "pki" / "runtime.secret"

    @property
    def kits(self) -> Path:
        """Folder of the kits."""
        return self.path / "kits"

    @property
    def runs(self) -> Path:
        """Folder of the runs' output folders."""
        return self.path / "runs"

    @property
    def state(self) -> Path:
        """Folder for the state of the SuperLink and of the run in progress."""
        return self.path / "state"

    def roster(self) -> Roster:
        """Read the roster.

        Raises:
            ConfigError: `roster.yaml` is damaged.
        """
        return load_roster(self.roster_file)

    def change_roster(self, change: Callable[[Roster], Roster]) -> Roster:
        """Read, change and write the roster under a lock.

        Args:
            change: makes the new roster from the present one; if it raises, the file stays unchanged.
        """
        lock = os.open(self.path, os.O_RDONLY)  # lock the folder itself: a lock file would end up in backups
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            roster = change(self.roster())
            save_roster(roster, self.roster_file)
        finally:
            os.close(lock)
        return roster

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Reserve the folder for one run. The lock ends with the process, even if the process is killed.

        Raises:
            FolderBusyError: another process holds the lock; its process id is in the text.
        """
        with (self.state / _RUN_LOCK).open("a+") as lock:
            if not _try_lock(lock.fileno()):
                raise FolderBusyError(
                    f"{self.path}: a run is in progress in process {self.holder() or 'unknown'}. "
                    "See `flower-server status`, or end the run with `flower-server stop`"
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    def holder(self) -> "Holder | None":
        """Return the process that uses the folder for a run; None if no run is in progress."""
        path = self.state / _RUN_LOCK
        if not path.exists():
            return None
        with path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                words = lock.read().split()
                return (
                    Holder(int(words[0]), words[1]) if words else None
                )  # the file is empty for a moment after the lock is taken
        return None

    def check(self) -> tuple[str, ...]:
        """Check the certificates and the access rights of the folder before a run.

        Returns:
            Warnings, one sentence each.

        Raises:
            ConfigError: sites would refuse this server (`Pki.check`).
        """
        warnings = self.pki.check(self.config.addresses, dt.datetime.now(dt.UTC))
        if mode := _mode_for_others(self.path):
            return (
                *warnings,
                f"{self.path}: other users can read the folder (mode {mode:o}). Run: chmod 700 {self.path}",
            )
        return warnings


def create_folder(path: Path, config: CoordinatorConfig) -> FederationFolder:
    """Create a federation's folder with an authority, a server certificate and an empty roster.

    Args:
        path: does not exist yet, or is an empty folder (a fresh volume).
        config: settings of the coordinator.

    Raises:
        ConfigError: the folder is not empty or cannot be written; nothing is left behind.
    """
    path = path.absolute()
    if path.is_dir():
        if (path / "coordinator.yaml").exists():
            raise ConfigError(f"{path}: the folder of a federation exists already; nothing was changed")
        if {entry.name for entry in path.iterdir()} - _ALLOWED_IN_A_NEW_FOLDER:
            raise ConfigError(f"{path}: the folder is not empty; nothing was written. Choose a new folder")
    elif path.exists():
        raise ConfigError(f"{path} is a file; expected a new folder")
    existed = path.exists()
    folder = FederationFolder(path, config)
    parts = [folder.pki.folder, folder.kits, folder.runs, folder.state]
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(PermissionError):  # a volume of another owner: `check` warns about it
            path.chmod(0o700)
        for part in parts:
            part.mkdir(mode=0o700)
        folder.pki.create(config.addresses, dt.datetime.now(dt.UTC))
        write_secret(folder.runtime_secret, secrets.token_hex(32).encode())
        save_roster(Roster(), folder.roster_file)
        with write_atomically(
            path / "coordinator.yaml"
        ) as partial:  # last: with this file the folder counts as a federation's
            partial.write_text(_settings_text(config), encoding="utf-8")
    except OSError as error:
        for part in parts:
            shutil.rmtree(part, ignore_errors=True)
        folder.roster_file.unlink(missing_ok=True)
        if not existed:
            shutil.rmtree(path, ignore_errors=True)
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); nothing was left behind") from None
    return folder


def open_folder(path: Path) -> FederationFolder:
    """Open a federation's folder, and check that only the owner can read its keys.

    Raises:
        ConfigError: the folder is not a federation's, its settings are not usable, or others can read a key.
    """
    path = path.absolute()
    if not (path / "coordinator.yaml").is_file():
        raise ConfigError(
            f"{path}: not the folder of a federation (no coordinator.yaml). Name one with --dir or MEMAMBA_SERVER_DIR, "
            "or create one with `flower-server init`"
        )
    folder = FederationFolder(path, load_coordinator_config(path / "coordinator.yaml"))
    for part in (folder.kits, folder.runs, folder.state):  # a backup may omit them
        part.mkdir(mode=0o700, exist_ok=True)
    for key in (folder.pki.ca_key, folder.pki.server_key, folder.runtime_secret):
        if key.exists() and (mode := _mode_for_others(key)):
            raise ConfigError(f"{key}: other users can read this key (mode {mode:o}). Run: chmod 600 {key}")
    return folder


def _settings_text(config: CoordinatorConfig) -> str:
    return _SETTINGS.format(
        addresses=", ".join(
            f'"{address}"' for address in config.addresses
        ),  # an IPv6 address needs quotation marks in YAML
        port=config.port,
        listen_host=f'"{config.listen_host}"',
        listen_port="null" if config.listen_port is None else config.listen_port,
        loopback_port=config.loopback_port,
    )


def _mode_for_others(path: Path) -> int:
    """Return the mode of a file or folder that other users can access; 0 if only the owner can."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o077 else 0


def _try_lock(file: int) -> bool:
    """Lock an open file; return False if another process keeps the lock for half a second."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
