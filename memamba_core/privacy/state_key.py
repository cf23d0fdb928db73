"""Secret keys on a state volume: made on first use, readable by their owner only."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from memamba_core.errors import TamperedLogError

__all__ = ["load_or_make_key"]

_KEY_BYTES: Final = 32


def load_or_make_key(path: Path, guarded: Path) -> bytes:
    """Return the key in a file; make it unless the file that it authenticates exists already.

    Args:
        path: of the key, 32 random bytes.
        guarded: file whose content the key authenticates. Where it exists and the key does not, the key was lost.

    Raises:
        TamperedLogError: the key was lost or has another length.
        OSError: the folder cannot be written.
    """
    if not path.exists():
        if guarded.exists():
            raise TamperedLogError(f"{path} is missing next to {guarded.name}. Restore it from a backup of the state")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # readable by its owner only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first: use the key of that process
                os.link(fresh, path)
        finally:
            Path(fresh).unlink()
    key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise TamperedLogError(f"{path} has {len(key)} bytes; expected {_KEY_BYTES}. Restore it from a backup")
    return key
