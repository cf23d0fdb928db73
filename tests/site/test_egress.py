"""Egress log: a line is written before an answer leaves, and reading detects any change."""

import dataclasses
import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.errors import TamperedLogError
from memamba_core.privacy.chained_log import ChainedLog
from memamba_core.privacy.egress import EgressLog, describe_answer, describe_refusal
from memamba_core.wire.message import Payload
from memamba_core.wire.protocol import Refusal

pytestmark = pytest.mark.durable

ABOUT = {"run_id": "run-1", "phase": "train", "server_round": 1}


def answer(**fields):
    arrays = {"weights": {"a": np.arange(6, dtype=np.float32).reshape(2, 3)}}
    return describe_answer(Payload(fields or {"train-loss": 0.5}, arrays), kind="TrainReply", **ABOUT)


@pytest.fixture
def log(tmp_path):
    return EgressLog(tmp_path)


@pytest.fixture
def filled(log):
    for number in range(4):
        log.append(answer(number=number))
    return log


def test_what_was_written_is_read(log):
    first = answer()
    refused = Refusal.TIME
    second = describe_refusal(refused.code, refused.text, **ABOUT)
    log.append(first)
    log.append(second)
    assert log.read() == (first, second)
    assert first.fields == ("train-loss", "weights (1 arrays)")
    assert second.text == f"{refused.code}: {refused.text}"


def test_no_log_is_an_empty_log(log):
    assert log.read() == ()
    assert not log.path.exists()


def test_it_holds_digests_and_no_values(log):
    log.append(answer(secret=0.123456789))
    assert "0.123456789" not in log.path.read_text()


def test_only_its_owner_reads_it(filled):
    assert filled.path.stat().st_mode & 0o077 == 0


def edit(path, change):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(change(lines)))


CHANGES = {
    "a number": lambda lines: [lines[0], lines[1].replace('"num_bytes": ', '"num_bytes": 1'), *lines[2:]],
    "the time": lambda lines: [lines[0].replace('"time": "2', '"time": "1'), *lines[1:]],
    "a line less": lambda lines: [lines[0], *lines[2:]],
    "the last line less": lambda lines: lines[:-1],
    "all lines less": lambda lines: [],
    "a line twice": lambda lines: [lines[0], lines[0], *lines[1:]],
    "two lines changed over": lambda lines: [lines[1], lines[0], *lines[2:]],
    "a line of another hand": lambda lines: [*lines, json.dumps({"line": len(lines), "tag": "0" * 64}) + "\n"],
    "no JSON": lambda lines: [*lines, "what?\n"],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_is_found(filled, change):
    edit(filled.path, change)
    with pytest.raises(TamperedLogError):
        filled.read()
    with pytest.raises(TamperedLogError):
        filled.append(answer())


def test_a_head_that_is_gone_is_found(filled):
    filled.path.with_name("egress.jsonl.head").unlink()
    with pytest.raises(TamperedLogError, match="is missing"):
        filled.read()


def test_a_line_that_a_crash_cut_short_is_no_tampering(filled):
    """The answer had not left, because its line was not yet on the disk."""
    with filled.path.open("a") as file:
        file.write('{"line": 4, "time"')
    assert len(filled.read()) == 4
    filled.append(answer())
    assert len(filled.read()) == 5


def test_a_full_disk_leaves_the_log_as_it_was(filled, monkeypatch):
    before = filled.path.read_bytes()

    def full(_file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            filled.append(answer())
    assert filled.path.read_bytes() == before
    filled.append(answer())
    assert len(filled.read()) == 5


@given(
    st.integers(0, 5),
    st.floats(allow_nan=False, width=32),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_digest_is_over_every_value_name_type_and_shape(position, value, dtype):
    array = np.arange(6, dtype=dtype).reshape(2, 3)
    one = describe_answer(Payload({}, {"w": {"a": array}}), kind="TrainReply", **ABOUT)
    other = array.copy()
    other.reshape(-1)[position] = value
    two = describe_answer(Payload({}, {"w": {"a": other}}), kind="TrainReply", **ABOUT)
    assert (one.sha256 == two.sha256) == (array.tobytes() == other.tobytes())
    for changed in ({"w": {"b": array}}, {"v": {"a": array}}, {"w": {"a": array.reshape(3, 2)}}):
        assert describe_answer(Payload({}, changed), kind="TrainReply", **ABOUT).sha256 != one.sha256


def test_its_size_is_that_of_the_arrays_and_little_more():
    array = np.zeros(10_000, dtype=np.float32)
    size = describe_answer(Payload({}, {"w": {"a": array}}), kind="TrainReply", **ABOUT).num_bytes
    assert array.nbytes <= size < array.nbytes + 200


def test_a_long_log_is_verified_once_and_not_at_each_line(filled, monkeypatch):
    """Each append verified all lines before it, and took 0.3 s after 10,000 lines."""
    filled.append(answer())
    monkeypatch.setattr(ChainedLog, "_read", lambda _self: pytest.fail("the whole log was read"))
    for number in range(3):
        filled.append(answer(number=number))
    monkeypatch.undo()
    assert len(filled.read()) == 8


@pytest.mark.parametrize("keep_times", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_between_two_lines_of_one_program_is_found(filled, change, keep_times):
    before = filled.path.stat()
    edit(filled.path, change)
    if keep_times:
        os.utime(filled.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(TamperedLogError):
        filled.append(answer())


def test_a_log_that_was_exchanged_for_a_valid_one_is_found_by_the_program_that_wrote_it(filled, tmp_path):
    """Anyone can compute the tags of another log; the program remembers its own last one."""
    other = EgressLog(tmp_path / "other")
    for number in range(5):
        other.append(answer(number=-number))
    for name in ("egress.jsonl", "egress.jsonl.head"):
        (tmp_path / "other" / name).rename(tmp_path / name)
    with pytest.raises(TamperedLogError, match="was exchanged"):
        filled.append(answer())


@pytest.mark.parametrize("names", [("egress.jsonl",), ("egress.jsonl", "egress.jsonl.head"), ("egress.jsonl.head",)])
def test_a_log_that_was_taken_away_is_found_by_the_program_that_wrote_it(filled, tmp_path, names):
    for name in names:
        (tmp_path / name).unlink()
    with pytest.raises(TamperedLogError):
        filled.append(answer())


def test_a_copy_with_the_same_lines_may_replace_the_log(filled, tmp_path):
    """A restored backup of the very log, or a change of its permissions, is no edit."""
    (tmp_path / "copy").write_bytes(filled.path.read_bytes())
    (tmp_path / "copy").rename(filled.path)
    filled.append(answer())
    assert len(filled.read()) == 5


def test_equal_answers_in_a_row_have_one_line(log):
    waits = describe_refusal(Refusal.PENDING.code, Refusal.PENDING.text, run_id="a", phase="facts", server_round=0)
    later = dataclasses.replace(waits, time="later")
    for record in (waits, later, later):
        log.append_once(record)
    other_run = dataclasses.replace(waits, run_id="b")
    log.append_once(other_run)
    log.append_once(later)
    log.append(answer())
    log.append_once(later)
    again = EgressLog(log.path.parent)  # a restarted program does not remember
    again.append_once(later)
    kinds = [(record.run_id, record.phase, record.time == "later") for record in log.read()]
    facts = ("a", "facts", True)
    assert kinds == [("a", "facts", False), ("b", "facts", False), facts, ("run-1", "train", False), facts, facts]


def test_a_head_that_could_not_be_renamed_is_no_tampering(filled, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space"):
            filled.append(answer())
    filled.append(answer())
    assert len(filled.read()) == 6
