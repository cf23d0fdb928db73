"""Lock of a site's state folder: one client at a time answers over it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memamba_core.errors import ConfigError

__all__ = ["only_client"]


@contextmanager
def only_client(state: Path) -> Iterator[None]:
    """Hold the state folder for the time of the block; a process that ends, however it ends, releases it.

    Two clients would each keep a record of what left, and a run could be answered twice.

    Args:
        state: the site's state folder, which exists.

    Raises:
        ConfigError: another client holds the folder.
    """
    with (state / "client.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"{state}: another client uses this state folder. End it, or name another folder as state in site.yaml"
            ) from None
        yield
