"""`flower-server status` and `stop`: look at the run in progress, and end it, from another terminal."""

import os
import signal
import time

from memamba_core.errors import ConfigError
from server.admin.folder import FederationFolder

from .progress import read_status

__all__ = ["describe_run", "stop_run"]

_STOP_S = 20.0


def describe_run(folder: FederationFolder) -> str | None:
    """What the run in progress does; None if there is none."""
    holder = folder.holder()
    if holder is None:
        return None
    run, sentence = read_status(folder.state) or ("a run", "Starting")
    return f"{run} (process {holder}). {sentence}"


def stop_run(folder: FederationFolder) -> bool:
    """Tell the run in progress to end, and wait until it has.

    Returns:
        Whether there was one.

    Raises:
        ConfigError: it cannot be told, or does not end.
    """
    holder = folder.holder()
    if holder is None:
        return False
    elsewhere = ConfigError(
        f"process {holder} is not one of this user and machine; in containers: `docker compose exec coordinator "
        "flower-server stop`"
    )
    if not holder.is_here:  # here the number is nobody's, or somebody else's
        raise elsewhere
    try:
        os.kill(holder.process, signal.SIGTERM)
    except (ProcessLookupError, PermissionError):
        raise elsewhere from None
    deadline = time.monotonic() + _STOP_S
    while folder.holder() is not None:
        if time.monotonic() > deadline:
            raise ConfigError(
                f"process {holder} was told to end and has not after {_STOP_S:.0f} s; kill -9 {holder.process}"
            )
        time.sleep(0.1)
    return True
