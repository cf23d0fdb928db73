"""Files that are whole or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["write_atomically", "write_secret"]


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; afterwards it is flushed to disk and takes the name, or is removed.

    A reader sees the old file or the new one, also after a kill or a power cut.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)  # the rename itself has to reach the disk too
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        partial.unlink(missing_ok=True)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, atomically; at no time can others read it, whatever the umask."""
    with write_atomically(path) as partial, open(partial, "xb", opener=_for_the_owner) as file:
        file.write(content)


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
