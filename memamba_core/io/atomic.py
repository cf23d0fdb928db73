"""Atomic writes: a file or folder is complete or absent."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["fill_atomically", "write_atomically", "write_secret"]


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; afterwards flush it to disk and rename it to `path`, or remove it.

    A reader sees the old file or the new file, also after a kill or a power cut.
    """
    partial = _temporary_path(path)
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
    """Write a file atomically that only its owner can read. Others can read it at no time, with any umask."""
    with write_atomically(path) as partial, open(partial, "xb", opener=_open_for_owner) as file:
        file.write(content)


@contextmanager
def fill_atomically(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """Yield a temporary folder to fill; afterwards rename it to `folder`, or remove it with its content.

    Args:
        folder: absent or empty; an empty folder is replaced. Parent folders are created.
        mode: permissions of the folder, less the umask.

    Raises:
        OSError: the folder cannot be created, or `folder` is not empty.
    """
    folder = folder.absolute()
    partial = _temporary_path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial.mkdir(mode)
    try:
        yield partial
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _temporary_path(path: Path) -> Path:
    """Return a new name for each call. A process id would not be new: in a container it repeats after a kill."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")


def _open_for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
