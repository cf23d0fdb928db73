"""Data that must survive a power cut are flushed: the file before it takes its name, the folder afterwards."""

import os
import stat
from dataclasses import dataclass

import numpy as np
import pytest

from memamba_core.data.agreement import Agreement
from memamba_core.io.atomic import write_atomically, write_secret
from memamba_core.privacy.chained_log import ChainedLog
from memamba_core.privacy.ledger import Ledger
from server.federation.journal import Journal, JournalEntry

pytestmark = pytest.mark.durable


@dataclass(frozen=True)
class Flush:
    """One call of `os.fsync`.

    Attributes:
        inode: of the file or folder.
        is_folder: which of the two.
        size: of the file in bytes, at that moment.
        names: entries of its folder at that moment.
    """

    inode: int
    is_folder: bool
    size: int
    names: frozenset[str]


@pytest.fixture
def flushes(tmp_path, monkeypatch):
    """Calls of `os.fsync` below `tmp_path`, in order; each is passed on."""
    seen, real = [], os.fsync

    def fsync(descriptor):
        status = os.fstat(descriptor)
        names = frozenset(path.name for path in tmp_path.rglob("*"))
        seen.append(Flush(status.st_ino, stat.S_ISDIR(status.st_mode), status.st_size, names))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def assert_durable(flushes, path):
    """Check that the content of a file was flushed whole, and that its folder was flushed when it had the name."""
    status, folder = path.stat(), path.parent.stat().st_ino
    assert any(f.inode == status.st_ino and f.size == status.st_size for f in flushes), f"{path.name} is not flushed"
    assert any(f.is_folder and f.inode == folder and path.name in f.names for f in flushes), "its name is not flushed"


def test_the_real_fsync_is_called_here_and_nowhere_else():
    assert os.fsync.__module__ == "posix"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fsync(10**6)


@pytest.mark.parametrize("write", [lambda path: write_secret(path, b"content"), None], ids=["secret", "file"])
def test_an_atomic_write_flushes_the_file_then_renames_then_flushes_the_folder(flushes, tmp_path, write):
    path = tmp_path / "a"
    if write is None:
        with write_atomically(path) as partial:
            partial.write_bytes(b"content")
    else:
        write(path)
    of_file, of_folder = flushes
    assert (of_file.inode, of_file.size, of_file.is_folder) == (path.stat().st_ino, 7, False)
    assert "a" not in of_file.names, "the file is whole on the disk before it takes the name"
    assert (of_folder.inode, of_folder.is_folder) == (tmp_path.stat().st_ino, True)
    assert of_folder.names == {"a"}


def test_a_line_of_a_chained_log_is_on_the_disk_when_append_returns(flushes, tmp_path):
    log = ChainedLog(tmp_path / "log")
    with log.open() as opened:
        for value in range(3):
            flushes.clear()
            opened.append({"value": value})
            assert_durable(flushes, log.path)
            assert_durable(flushes, tmp_path / "log.head")


def test_removing_a_torn_line_is_flushed(flushes, tmp_path):
    log = ChainedLog(tmp_path / "log")
    with log.open() as opened:
        opened.append({"value": 1})
    whole = log.path.stat().st_size
    with log.path.open("ab") as file:
        file.write(b'{"line": 1, "val')
    flushes.clear()
    with log.open():
        pass
    assert [(f.inode, f.size) for f in flushes] == [(log.path.stat().st_ino, whole)]


def test_a_charge_and_the_key_of_its_ledger_are_on_the_disk_before_training(flushes, tmp_path):
    pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")
    from memamba_core.privacy.accounting import NoisyStep

    Ledger(tmp_path, "st-elsewhere", 1e-5).charge("run", 1, NoisyStep(2.0, 0.1), 1, max_epsilon=8)
    for name in ("ledger.jsonl", "ledger.jsonl.head", "ledger.key"):
        assert_durable(flushes, tmp_path / name)


def test_a_round_of_the_journal_is_on_the_disk_before_the_next_one(flushes, tmp_path):
    entry = JournalEntry({"w": np.ones(1000, np.float32)}, {}, Agreement(time_bin_edges=(12.0,), feature_width=2), ())
    Journal(tmp_path, "digest", 0).write(entry)
    (state,) = tmp_path.glob("round-*.safetensors")
    assert_durable(flushes, state)
