"""`flower-server status` and `stop`: describe the run in progress, or end it, from another terminal."""

import os
import signal
import time

from memamba_core.errors import ConfigError
from server.admin.folder import FederationFolder

from .progress import read_status

__all__ = ["describe_run", "stop_run"]

_STOP_S = 20.0


def describe_run(folder: FederationFolder) -> str | None:
    """Return a sentence about the run in progress; None if no run is in progress."""
    holder = folder.holder()
    if holder is None:
        return None
    run, sentence = read_status(folder.state) or ("a run", "Starting")
    return f"{run} (process {holder}). {sentence}"


def stop_run(folder: FederationFolder) -> bool:
    """Signal the run in progress to end, and wait until it has ended.

    Returns:
        False if no run was in progress.

    Raises:
        ConfigError: the process cannot be signalled from here, or does not end.
    """
    holder = folder.holder()
    if holder is None:
        return False
    elsewhere = ConfigError(
        f"the run is process {holder}; expected a process of this user on this machine. In containers: `docker compose "
        "exec coordinator flower-server stop`"
    )
    if not holder.is_here:  # on this machine the number means no process, or another one
        raise elsewhere
    try:
        os.kill(holder.process, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        raise elsewhere from None
    deadline = time.monotonic() + _STOP_S
    while folder.holder() is not None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"process {holder} has not ended {_STOP_S:.0f} s after SIGTERM. End it: kill -9 {holder.process}"
            )
        time.sleep(0.1)
    return True
