"""Secret keys of a site's own state: random bytes in a file that only its owner can read."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from memamba_core.errors import TamperedLogError

__all__ = ["KEY_BYTES", "load_or_create_key"]

KEY_BYTES: Final = 32


def load_or_create_key(path: Path, authenticates: Path) -> bytes:
    """Return the key of a file; create it on first use, readable by its owner only.

    Args:
        path: of the key; its folder is created.
        authenticates: file whose tags the key makes. A key is not created while this file exists: a new key would
            call every tag of the file forged.

    Raises:
        TamperedLogError: the key is missing next to the file that it authenticates, or has another length.
    """
    if not path.exists():
        if authenticates.exists():
            raise TamperedLogError(
                f"{path} is missing next to {authenticates.name}. Restore it from a backup of the state volume"
            )
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first: use the key of that process
                os.link(fresh, path)
        finally:
            Path(fresh).unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise TamperedLogError(f"{path} has {len(key)} bytes; expected {KEY_BYTES}. Restore it from a backup")
    return key
