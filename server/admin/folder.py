"""The coordinator's folder: settings, roster, keys, runs, and the state of the run in progress.

::

    coordinator.yaml   addresses and ports              kits/       what `flower-server kit` wrote
    roster.yaml        the enrolled hospitals           runs/RUN/   results and journal of a run
    pki/               certificate authority, server    state/      of the SuperLink; `run.lock`
                       key, secret of the runtime

What the hospitals send lies in `state/` and `runs/`, the keys in `pki/`: the folder is for its owner alone.
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
# The coordinating site. After a change of addresses: `flower-server renew`, and new kits.
# The other settings take effect with the next `flower-server run`.

# Host names and IP addresses by which hospitals reach this machine; the first is written into kits.
addresses: [{addresses}]
# Port that hospitals connect to.
port: {port}
# Where they are awaited on this machine. listen_port: null is the same as port; another one behind a port mapping.
listen_host: {listen_host}
listen_port: {listen_port}
# For the SuperLink's other interfaces, on 127.0.0.1 only. They have no authentication: never map this port.
loopback_port: {loopback_port}
"""
_RUN_LOCK = "run.lock"
_LOCK_SECONDS = 0.5  # `holder` takes the lock for a moment to see whether it is free
_ALLOWED_IN_A_NEW_FOLDER = {"lost+found"}  # an empty volume may hold it


@dataclass(frozen=True)
class Holder:
    """The process of a run.

    Attributes:
        process: its number on its machine.
        machine: host name; a container has one, and process numbers, of its own.
    """

    process: int
    machine: str

    @property
    def is_here(self) -> bool:
        """Whether the number means that process on this machine, too."""
        return self.machine == socket.gethostname()

    def __str__(self) -> str:
        return str(self.process) if self.is_here else f"{self.process} of {self.machine}"


@dataclass(frozen=True)
class FederationFolder:
    """An existing folder, with its settings as they were when it was opened.

    Attributes:
        path: of the folder, absolute.
        config: `coordinator.yaml`.
    """

    path: Path
    config: CoordinatorConfig

    @property
    def roster_file(self) -> Path:
        """The enrolled hospitals."""
        return self.path / "roster.yaml"

    @property
    def pki(self) -> Pki:
        """Certificates and keys."""
        return Pki(self.path / "pki")

    @property
    def runtime_secret(self) -> Path:
        """What the coordinator's own programs show to the SuperLink's runtime interface."""
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
        """Folder of what the SuperLink and the run in progress keep."""
        return self.path / "state"

    def roster(self) -> Roster:
        """The roster as it is now.

        Raises:
            ConfigError: `roster.yaml` is damaged.
        """
        return load_roster(self.roster_file)

    def change_roster(self, change: Callable[[Roster], Roster]) -> Roster:
        """Read the roster, change it and write it, with nobody else in between.

        Args:
            change: from the roster as it is to the new one; what it raises leaves the file as it was.
        """
        lock = os.open(self.path, os.O_RDONLY)  # the folder itself: no file of its own that a backup would copy
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            roster = change(self.roster())
            save_roster(roster, self.roster_file)
        finally:
            os.close(lock)
        return roster

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Use the folder for a run, alone. The lock goes with the process, also by a kill.

        Raises:
            FolderBusyError: another process holds it; its number is in the text.
        """
        with (self.state / _RUN_LOCK).open("a+") as lock:
            if not _try_lock(lock.fileno()):
                raise FolderBusyError(
                    f"{self.path}: a run is in progress in process {self.holder() or 'unknown'}; look at it with "
                    "`flower-server status`, or end it with `flower-server stop`"
                )
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()}\n")
            lock.flush()
            try:
                yield
            finally:
                lock.truncate(0)

    def holder(self) -> "Holder | None":
        """Who uses the folder for a run; None if no run is in progress."""
        path = self.state / _RUN_LOCK
        if not path.exists():
            return None
        with path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                words = lock.read().split()
                return Holder(int(words[0]), words[1]) if words else None  # empty for a moment, when it was just taken
        return None

    def check(self) -> tuple[str, ...]:
        """Look at what can go wrong in a run: certificates, and who can read the folder.

        Returns:
            Warnings.

        Raises:
            ConfigError: hospitals would refuse this server (`Pki.check`).
        """
        warnings = self.pki.check(self.config.addresses, dt.datetime.now(dt.UTC))
        if mode := _mode_for_others(self.path):
            return (*warnings, f"{self.path}: others can look into it (mode {mode:o}); chmod 700 {self.path}")
        return warnings


def create_folder(path: Path, config: CoordinatorConfig) -> FederationFolder:
    """Make a federation's folder, with an authority, a server certificate and an empty roster.

    Args:
        path: does not exist, or is an empty folder (a fresh volume).
        config: of the coordinating site.

    Raises:
        ConfigError: something is there, or the folder cannot be written; then nothing was left behind.
    """
    path = path.absolute()
    if path.is_dir():
        if (path / "coordinator.yaml").exists():
            raise ConfigError(f"{path}: is the folder of a federation already; nothing was changed")
        if {entry.name for entry in path.iterdir()} - _ALLOWED_IN_A_NEW_FOLDER:
            raise ConfigError(f"{path}: is not empty; nothing was written. Choose a new folder")
    elif path.exists():
        raise ConfigError(f"{path}: is a file; wanted a new folder")
    existed = path.exists()
    folder = FederationFolder(path, config)
    parts = [folder.pki.folder, folder.kits, folder.runs, folder.state]
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with suppress(PermissionError):  # a volume that is somebody else's: `check` will say it
            path.chmod(0o700)
        for part in parts:
            part.mkdir(mode=0o700)
        folder.pki.create(config.addresses, dt.datetime.now(dt.UTC))
        write_secret(folder.runtime_secret, secrets.token_hex(32).encode())
        save_roster(Roster(), folder.roster_file)
        with write_atomically(path / "coordinator.yaml") as partial:  # last: it makes the folder a federation's
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
    """Open a federation's folder, and see that its keys are its owner's alone.

    Raises:
        ConfigError: it is none, its settings are not usable, or a key is readable by others.
    """
    path = path.absolute()
    if not (path / "coordinator.yaml").is_file():
        raise ConfigError(
            f"{path}: not the folder of a federation (no coordinator.yaml); name it with --dir or MEMAMBA_SERVER_DIR, "
            "or make one with `flower-server init`"
        )
    folder = FederationFolder(path, load_coordinator_config(path / "coordinator.yaml"))
    for part in (folder.kits, folder.runs, folder.state):  # a backup may have left them out
        part.mkdir(mode=0o700, exist_ok=True)
    for key in (folder.pki.ca_key, folder.pki.server_key, folder.runtime_secret):
        if key.exists() and (mode := _mode_for_others(key)):
            raise ConfigError(f"{key}: others can read this key (mode {mode:o}); chmod 600 {key}")
    return folder


def _settings_text(config: CoordinatorConfig) -> str:
    return _SETTINGS.format(
        addresses=", ".join(f'"{address}"' for address in config.addresses),  # an IPv6 address is no YAML word
        port=config.port,
        listen_host=f'"{config.listen_host}"',
        listen_port="null" if config.listen_port is None else config.listen_port,
        loopback_port=config.loopback_port,
    )


def _mode_for_others(path: Path) -> int:
    """The mode of a file or folder that is not its owner's alone, else 0."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if mode & 0o077 else 0


def _try_lock(file: int) -> bool:
    """Take the lock of an open file, unless somebody else keeps it."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
