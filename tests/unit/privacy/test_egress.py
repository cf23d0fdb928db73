"""The digest of an answer in the egress log covers all that leaves the site, whatever its size."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.privacy.egress import EgressLog, describe_answer, describe_refusal
from memamba_core.wire.message import Payload

pytestmark = pytest.mark.durable

NUM = 100_000


def describe(arrays, **fields):
    return describe_answer(
        Payload(fields, {"weights": arrays}), run_id="r", phase="train", server_round=1, kind="TrainReply"
    )


@pytest.mark.parametrize("place", [0, 1, 1023, 1024, 4096, NUM // 2, NUM - 1])
def test_one_changed_number_anywhere_changes_the_digest(place):
    values = np.zeros(NUM, np.float32)
    changed = values.copy()
    changed[place] = 1e-9
    assert describe({"w": values}).sha256 != describe({"w": changed}).sha256


def test_the_last_of_many_arrays_counts():
    arrays = {f"w{number:02d}": np.zeros(1000, np.float32) for number in range(50)}
    changed = arrays | {"w49": np.ones(1000, np.float32)}
    assert describe(arrays).sha256 != describe(changed).sha256


def test_a_long_field_counts_to_its_end():
    assert describe({}, text="x" * 10_000 + "a").sha256 != describe({}, text="x" * 10_000 + "b").sha256


def test_name_type_and_shape_count():
    zeros = np.zeros((2, 6), np.float32)
    variants = [{"w": zeros}, {"v": zeros}, {"w": zeros.astype(np.int32)}, {"w": zeros.reshape(3, 4)}]
    digests = {describe(arrays).sha256 for arrays in variants}
    assert len(digests) == 4


@given(st.lists(st.floats(width=32, allow_nan=False), max_size=20))
def test_the_digest_follows_from_what_was_sent(values):
    """Recomputed as the docstring describes it, so that a site can verify an answer that was kept."""
    array = np.array(values, np.float32)
    parts = [
        b'{"a":1}',
        json.dumps(["weights", "w", "<f4", [len(values)]]).encode(),
        array.tobytes(),
    ]
    sha = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    record = describe({"w": array}, a=1)
    assert (record.num_bytes, record.sha256) == (sum(map(len, parts)), sha.hexdigest())


def test_the_order_in_memory_does_not_count():
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert describe({"w": array}).sha256 == describe({"w": np.asfortranarray(array)}).sha256


def test_lines_come_back_as_they_were_written(tmp_path):
    log = EgressLog(tmp_path)
    records = (
        describe({"w": np.ones(3)}, a=1),
        describe_refusal(103, "policy", run_id="r", phase="train", server_round=2),
    )
    for record in records:
        log.append(record)
    assert log.read() == records
    assert records[1].text == "103: policy"
