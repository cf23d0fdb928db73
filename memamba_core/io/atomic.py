"""Files and folders that are whole or not there."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["fill_atomically", "write_atomically", "write_secret"]


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to; afterwards it is flushed to disk and takes the name, or is removed.

    A reader sees the old file or the new one, also after a kill or a power cut.
    """
    partial = _beside(path)
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


@contextmanager
def fill_atomically(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """Give a folder beside `folder` to fill; afterwards it takes the name, or is removed with all that is in it.

    Args:
        folder: absent, or empty: then it gives way. Folders above it are made.
        mode: of the folder, less the umask.

    Raises:
        OSError: it cannot be made, or `folder` is not empty.
    """
    folder = folder.absolute()
    partial = _beside(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(mode)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A new name each time. The process's number is none: in a container it is the same again after a kill."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
