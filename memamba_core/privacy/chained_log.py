"""Append-only log in which every line authenticates all lines before it.

Each line is a JSON record with its number and a tag: HMAC-SHA256 over the record and the tag of the previous line. A
second file, the head (number of lines and last tag), is written after each line and reveals missing lines at the end of
the log. Two attacks are not detected: log *and* head restored together to an earlier state, and lines forged by the
holder of the key. docs/explanation/privacy.md states the consequences.
"""

import fcntl
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memamba_core.errors import TamperedLogError
from memamba_core.io.atomic import write_atomically

__all__ = ["ChainedLog", "OpenLog"]

_log = logging.getLogger(__name__)
Record = dict[str, Any]


@dataclass
class OpenLog:
    """Log under an exclusive lock: no other process writes to it.

    Attributes:
        records: all verified records, oldest first.
    """

    records: list[Record]
    _log: "ChainedLog"
    _tag: str

    def append(self, record: Record) -> None:
        """Write a line and wait until it is on the disk.

        Raises:
            OSError: the line could not be written; the log is unchanged.
        """
        self._tag = self._log._write(record, len(self.records), self._tag)
        self.records.append(record)


@dataclass(frozen=True)
class _Left:
    """Log as this process left it.

    Attributes:
        file: inode, size, and times of the last change of content and of the inode, in nanoseconds.
        lines: number of lines.
        tag: of the last line; empty without a line.
    """

    file: tuple[int, ...]
    lines: int
    tag: str


class ChainedLog:
    """Log file with its head and its lock.

    Args:
        path: the log file; its folder is created with the first line.
        key: key of the tags. With an empty key anyone can verify the log, and anyone can forge the whole log.
    """

    def __init__(self, path: Path, key: bytes = b"") -> None:
        self.path = path
        self._key = key
        self._head = path.with_name(path.name + ".head")
        self._lock = path.with_name(path.name + ".lock")
        self._left: _Left | None = None

    def append(self, record: Record) -> None:
        """Write a line as the only writer of this log, and wait until it is on the disk.

        The first call verifies the whole log. Later calls verify it only if the file or its head is not as this process
        left it: another inode, size or time of change, or another last tag.

        Raises:
            TamperedLogError: as `read`, or the log does not hold the last line of this process.
            OSError: the line could not be written; the log is unchanged.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            left = self._left
            if left is None or left.file != self._file() or (left.lines, left.tag) != self._read_head():
                left = self._verify_again(left)
            self._left = None  # a failed write may leave a line ahead of the head: the next call verifies the log
            tag = self._write(record, left.lines, left.tag)
            self._left = _Left(self._file(), left.lines + 1, tag)

    def read(self) -> list[Record]:
        """Return all records, oldest first; none without a file. Wait while another process writes.

        Raises:
            TamperedLogError: a line was edited, removed, added or moved; the first such line is named.
        """
        if not self._lock.exists():  # without a lock, no process has written here: there is no log, or this is a copy
            return self._read()[0]
        with self._lock.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return self._read()[0]

    @contextmanager
    def open(self) -> Iterator[OpenLog]:
        """Take the lock, verify the log, and let the caller read and append until the lock is released.

        Raises:
            TamperedLogError: as `read`.
            OSError: the folder or a file in it cannot be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, also by a kill
            records, tag = self._repair()
            yield OpenLog(records, self, tag)

    def _repair(self) -> tuple[list[Record], str]:
        """Verify the log, and mend what a crash left: a part of a line, or a head that is one line behind."""
        self._drop_torn_line()
        records, tag = self._read()
        if self._read_head() != (len(records), tag):
            with self._new_head(len(records), tag):
                pass  # a crash came between line and head; after a second crash the head would be two lines behind
        return records, tag

    def _verify_again(self, left: _Left | None) -> _Left:
        """Verify the whole log, and that it ends with the last line that this process wrote."""
        records, tag = self._repair()
        if left is not None and (left.lines, left.tag) != (len(records), tag):
            raise TamperedLogError(
                f"{self.path} was exchanged or continued by another program: it ends with line {len(records)}; "
                f"expected line {left.lines}, as this program wrote it. Find out who changed it, and restore log and "
                "head from a backup"
            )
        return _Left(self._file(), len(records), tag)

    def _file(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def _read(self) -> tuple[list[Record], str]:
        records: list[Record] = []
        tag = ""
        lines = self.path.read_bytes().split(b"\n") if self.path.exists() else [b""]
        torn = lines.pop()  # empty, or the part of a line that a crash left
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
                found = record.pop("tag")
                written = record.pop("line")
            except (ValueError, AttributeError, KeyError):
                raise TamperedLogError(f"{self.path}: line {number + 1} is not a line of this log") from None
            tag = self._tag(record, number, tag)
            if written != number or not hmac.compare_digest(str(found), tag):
                raise TamperedLogError(
                    f"{self.path}: line {number + 1} was edited, or lines before it are missing, added or moved"
                )
            records.append(record)
        self._check_head(records, tag, torn=bool(torn))
        return records, tag

    def _check_head(self, records: list[Record], tag: str, *, torn: bool) -> None:
        """Check that the log is at most one line ahead of its head (a crash between the two), and never behind."""
        if not self._head.exists():
            if len(records) > 1:
                raise TamperedLogError(f"{self._head} is missing; it is written with every line")
            return
        lines, last = self._read_head()
        if len(records) < lines or len(records) > lines + 1 or (len(records) == lines and tag != last):
            raise TamperedLogError(
                f"{self.path} has {len(records)} whole lines; expected {lines} by its head. Lines are missing, or one "
                "of the two files is older than the other" + (" (the last line is cut short)" if torn else "")
            )

    def _read_head(self) -> tuple[int, str]:
        """Return the number of lines and the last tag; 0 and an empty tag without a head."""
        if not self._head.exists():
            return 0, ""
        try:
            head = json.loads(self._head.read_text(encoding="utf-8"))
            return int(head["lines"]), str(head["tag"])
        except (ValueError, KeyError, TypeError):
            raise TamperedLogError(f"{self._head} is not the head of a log") from None

    @contextmanager
    def _new_head(self, lines: int, tag: str) -> Iterator[None]:
        """Write a new head before the block, so that a full disk is detected, and rename it after the block."""
        with write_atomically(self._head) as partial:
            partial.write_text(json.dumps({"lines": lines, "tag": tag}) + "\n", encoding="utf-8")
            yield

    def _drop_torn_line(self) -> None:
        """Remove the part of a line that a crash left; no action followed this line, because it was not on the disk."""
        if not self.path.exists():
            return
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            _log.warning("%s: the last line was cut short by a crash and is removed", self.path.name)
            with self.path.open("rb+") as file:
                file.truncate(whole)
                os.fsync(file.fileno())

    def _write(self, record: Record, number: int, previous: str) -> str:
        tag = self._tag(record, number, previous)
        line = json.dumps({"line": number, **record, "tag": tag}, allow_nan=False) + "\n"
        with self._new_head(number + 1, tag), open(self.path, "ab", opener=_for_the_owner) as file:
            size = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.ftruncate(file.fileno(), size)  # a full disk may hold a part of the line
                raise
        return tag

    def _tag(self, record: Record, number: int, previous: str) -> str:
        text = json.dumps([number, previous, record], sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


def _for_the_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
