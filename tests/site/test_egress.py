"""Egress log: a line is written before an answer leaves, and reading detects any change."""

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.errors import TamperedLogError
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
