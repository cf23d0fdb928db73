"""Weights as rounded changes: half the bytes, three digits of what was learned, and every fault still seen."""

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from flwr.app import Array, ArrayRecord, Message
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from memamba_core.errors import ProtocolError
from memamba_core.wire.flower_records import from_records
from memamba_core.wire.weight_deltas import decode_delta, encode_delta

FLOAT32 = tiny(*GENES_ONLY, "federation.num_rounds=2")
DELTA = tiny(*GENES_ONLY, "federation.num_rounds=2", "federation.wire=bfloat16_delta", "federation.min_results=1")
VALUES = st.floats(-1e3, 1e3, width=32)


@given(st.data())
def test_a_change_comes_back_to_three_digits(data):
    shape = data.draw(hnp.array_shapes(max_dims=3, max_side=4))
    base, weights = (data.draw(hnp.arrays(np.float32, shape, elements=VALUES)) for _ in range(2))
    delta = encode_delta({"w": weights}, {"w": base})
    back = decode_delta(delta, {"w": base})["w"]
    assert (delta["w"].dtype, back.dtype, back.shape) == (np.uint16, np.float32, shape)
    change = np.abs(weights.astype(np.float64) - base)
    ulp = np.spacing(np.maximum(np.abs(base), np.abs(weights))).astype(np.float64)
    assert (np.abs(back.astype(np.float64) - weights) <= change / 256 + 2 * ulp + 1e-40).all()


def test_rounding_is_to_the_nearest_even():
    base = {"w": np.zeros(3, np.float32)}
    weights = {"w": np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-7)], np.float32)}
    back = decode_delta(encode_delta(weights, base), base)["w"]
    np.testing.assert_array_equal(back, np.array([1, 1 + 2**-6, -(1 + 2**-7)], np.float32))


def test_what_is_not_finite_stays_so():
    base = {"w": np.zeros(3, np.float32)}
    back = decode_delta(encode_delta({"w": np.array([np.nan, np.inf, -np.inf], np.float32)}, base), base)["w"]
    np.testing.assert_array_equal(back, [np.nan, np.inf, -np.inf])


@pytest.mark.parametrize(
    "delta",
    [
        {},
        {"w": np.zeros(2, np.float32)},
        {"w": np.zeros(3, np.uint16)},
        {"w": np.zeros(2, np.uint16), "v": np.zeros(2, np.uint16)},
    ],
    ids=["nothing", "float32", "shape", "names"],
)
def test_a_delta_of_something_else_is_refused(delta):
    with pytest.raises(ProtocolError, match="delta"):
        decode_delta(delta, {"w": np.zeros(2, np.float32)})


def test_a_federation_learns_the_same_from_half_the_bytes():
    exact, rounded = (Federation(settings).train() for settings in (FLOAT32, DELTA))
    received = [result.rounds[0].bytes_received for result in (exact, rounded)]
    header = len(exact.weights) * 120 * 4  # names and shapes, of each of four sites
    assert received[1] < received[0] / 2 + header
    for name, wanted in exact.weights.items():
        np.testing.assert_allclose(rounded.weights[name], wanted, atol=2e-3, err_msg=name)
    assert any((rounded.weights[name] != exact.weights[name]).any() for name in exact.weights)


def test_a_poisoned_change_does_not_pass_the_gate():
    def poison(message, reply):
        if message.metadata.message_type != "train":
            return reply
        payload = from_records(reply.content)
        arrays = {name: array.copy() for name, array in payload.arrays["weights"].items()}
        next(iter(arrays.values())).reshape(-1)[0] = 0x7FC0  # NaN
        data = save(arrays)
        reply.content["weights"] = ArrayRecord({"safetensors": Array("uint8", (len(data),), "safetensors", data)})
        return Message(reply.content, reply_to=message)

    result = Federation(DELTA, faults={"site-02": poison}).train()
    assert "not finite" in result.rounds[0].sites["site-02"].failure
    assert all(np.isfinite(array).all() for array in result.weights.values())
