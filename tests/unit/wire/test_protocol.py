"""The wire contract: every message survives the trip, and nothing but a message does."""

import contextlib
import types
import typing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memamba_core.errors import ProtocolError
from memamba_core.wire import protocol
from memamba_core.wire.message import Payload, WireMessage
from memamba_core.wire.protocol import SIZE_BANDS, Phase, Refusal, size_band

MESSAGES = sorted(
    (
        member
        for name in protocol.__all__
        if isinstance(member := getattr(protocol, name), type) and issubclass(member, WireMessage)
        if member not in (WireMessage, protocol.Metrics)
    ),
    key=lambda message: message.__name__,
)
REPLIES = {Phase.FACTS: "Facts", Phase.STATISTICS: "Statistics", Phase.AGREEMENT: "Agreement"} | {
    Phase.TRAIN: "Train",
    Phase.EVALUATE: "Evaluate",
}

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_.0123456789", min_size=1, max_size=12)
ARRAYS = hnp.arrays(
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
    shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
)
VALUES = {
    bool: st.booleans(),
    int: st.integers(-(2**62), 2**62),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=20),
    tuple[str, ...]: st.lists(st.text(max_size=12), max_size=4).map(tuple),
    dict[str, int]: st.dictionaries(NAMES, st.integers(0, 10**9), max_size=4),
}


def values_of(annotation):
    """Values that a field of a message may have."""
    if typing.get_origin(annotation) is typing.Literal:
        return st.sampled_from(typing.get_args(annotation))
    if isinstance(annotation, types.UnionType):
        (inner,) = (a for a in typing.get_args(annotation) if a is not type(None))
        return st.none() | VALUES[inner]
    return VALUES[annotation]


def messages(message_type):
    """Messages of one class, built by the names of Python."""
    fields = {
        name: st.dictionaries(NAMES, ARRAYS, max_size=3) if name in message_type.array_sets else values_of(f.annotation)
        for name, f in message_type.model_fields.items()
    }
    return st.fixed_dictionaries(fields).map(lambda values: message_type(**values))


def assert_same(one, other):
    """Equal, arrays included with type and shape."""
    assert type(one) is type(other)
    for name in type(one).model_fields:
        a, b = getattr(one, name), getattr(other, name)
        if name in one.array_sets:
            assert a.keys() == b.keys()
            for key in a:
                assert a[key].dtype == b[key].dtype
                np.testing.assert_array_equal(a[key], b[key], strict=True)
        else:
            assert a == b


def example(message_type):
    """A small valid payload of a class."""
    plain = {bool: True, int: 1, float: 0.5, str: "x", tuple[str, ...]: ("a",), dict[str, int]: {"head": 3}}
    values = {
        name: {"w": np.zeros(2)} if name in message_type.array_sets else plain.get(f.annotation, f.get_default())
        for name, f in message_type.model_fields.items()
    }
    return message_type(**values).to_payload()


@given(
    fields=st.dictionaries(
        st.sampled_from(["trained", "trained.head", "weights", "weights.x", "counts", "train-loss", ".", "x"]),
        st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.lists(st.text())),
    ),
    arrays=st.dictionaries(st.sampled_from(["weights", "counts", "trained", "x"]), st.just({})),
)
def test_whatever_arrives_is_a_message_or_refused(fields, arrays):
    with contextlib.suppress(ProtocolError):
        protocol.TrainReply.from_payload(Payload(fields, arrays))


def test_each_phase_has_a_request_and_a_reply():
    names = {message.__name__ for message in MESSAGES}
    assert names == {f"{REPLIES[phase]}{kind}" for phase in Phase for kind in ("Request", "Reply")}


@pytest.mark.parametrize("message_type", MESSAGES)
@settings(max_examples=20)
@given(data=st.data())
def test_a_message_survives_the_trip(message_type, data):
    message = data.draw(messages(message_type))
    assert_same(message_type.from_payload(message.to_payload()), message)


@pytest.mark.parametrize("message_type", MESSAGES)
@settings(max_examples=20)
@given(data=st.data())
def test_what_travels_is_kebab_case_and_of_types_that_flower_records_hold(message_type, data):
    payload = data.draw(messages(message_type)).to_payload()
    for key, value in payload.fields.items():
        head = key.partition(".")[0]
        assert "_" not in head
        items = value if isinstance(value, list) else [value]
        assert all(type(item) in (int, float, str, bool) for item in items)
    assert not any("_" in name for name in payload.arrays)


@pytest.mark.parametrize("message_type", MESSAGES)
def test_an_unknown_field_is_refused_by_name(message_type):
    payload = example(message_type)
    for fields in ({"patient-id": "x"}, {"extra.part": 1}):
        with pytest.raises(ProtocolError, match=r"patient-id|extra"):
            message_type.from_payload(Payload({**payload.fields, **fields}, payload.arrays))
    with pytest.raises(ProtocolError, match="patient-rows"):
        message_type.from_payload(Payload(payload.fields, {**payload.arrays, "patient-rows": {"x": np.zeros(1)}}))


@pytest.mark.parametrize("message_type", MESSAGES)
def test_a_missing_field_is_refused_by_name(message_type):
    payload = example(message_type)
    required = [
        info.alias
        for name, info in message_type.model_fields.items()
        if info.is_required() and name not in message_type.array_sets and info.annotation != dict[str, int]
    ]
    for key in required:
        with pytest.raises(ProtocolError, match=key):
            message_type.from_payload(Payload({k: v for k, v in payload.fields.items() if k != key}, payload.arrays))


@pytest.mark.parametrize("message_type", MESSAGES)
def test_a_field_of_another_type_is_refused_by_name(message_type):
    payload = example(message_type)
    for key, value in payload.fields.items():
        wrong = 1 if isinstance(value, str | list) else "1"
        with pytest.raises(ProtocolError, match=key.partition(".")[0]):
            message_type.from_payload(Payload({**payload.fields, key: wrong}, payload.arrays))


@pytest.mark.parametrize("message_type", [m for m in MESSAGES if m.array_sets])
def test_an_array_set_that_holds_no_arrays_is_refused_by_name(message_type):
    payload = example(message_type)
    for name in payload.arrays:
        with pytest.raises(ProtocolError, match=name):
            message_type.from_payload(Payload(payload.fields, {**payload.arrays, name: {"w": [1.0]}}))


@pytest.mark.parametrize("message_type", MESSAGES)
def test_the_spelling_of_python_is_not_accepted_from_the_wire(message_type):
    payload = example(message_type)
    for name, info in message_type.model_fields.items():
        if info.alias in payload.fields and info.alias != name:
            renamed = {name if k == info.alias else k: v for k, v in payload.fields.items()}
            with pytest.raises(ProtocolError, match=name):
                message_type.from_payload(Payload(renamed, payload.arrays))


def test_a_loss_that_is_not_finite_does_not_pass():
    payload = example(protocol.TrainReply)
    for value in (float("nan"), float("inf")):
        with pytest.raises(ProtocolError, match="train-loss"):
            protocol.TrainReply.from_payload(Payload({**payload.fields, "train-loss": value}, payload.arrays))


def test_every_refusal_has_a_code_and_a_text_of_its_own_without_a_place_for_data():
    assert len({refusal.code for refusal in Refusal}) == len(Refusal)
    assert len({refusal.text for refusal in Refusal}) == len(Refusal)
    assert all(not set(refusal.text) & set("{}%/\\") for refusal in Refusal)


def test_refusals_keep_their_codes():
    # Sites of another version read these numbers in their logs: add codes, never move them.
    assert {refusal.name: refusal.code for refusal in Refusal} == {
        "VERSION": 101,
        "MESSAGE": 102,
        "CONFIG": 103,
        "SETTINGS": 104,
        "AGREEMENT": 105,
        "AGREEMENT_FIELD": 106,
        "POLICY": 107,
        "DATA": 108,
        "NOTHING_TO_DO": 109,
        "NOT_FINITE": 110,
        "BUDGET": 111,
        "TIME": 112,
        "STOPPED": 113,
        "ABSENT": 114,
        "PENDING": 115,
        "DECLINED": 116,
        "INTERNAL": 199,
    }


@given(st.integers(0, 10_000))
def test_a_size_band_holds_its_count(count):
    lower = size_band(count)
    above = [band for band in SIZE_BANDS if band > lower]
    assert lower in SIZE_BANDS
    assert lower <= count
    assert not above or count < above[0]


def test_only_an_empty_site_is_in_the_band_of_zero():
    assert (size_band(0), size_band(1)) == (0, 1)
    with pytest.raises(ValueError, match="-1"):
        size_band(-1)
