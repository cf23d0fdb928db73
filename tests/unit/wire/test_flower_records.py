"""Messages as Flower records and back; what is not a message of ours is refused by name."""

import json
import pickle
import typing

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.errors import ProtocolError
from memamba_core.wire import protocol
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.message import WireMessage
from memamba_core.wire.protocol import FactsReply, StatisticsReply, StatisticsRequest, TrainReply

VALUES = {
    int: st.integers(-(2**62), 2**62),
    bool: st.booleans(),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: st.text(max_size=10),
    tuple[str, ...]: st.lists(st.text(max_size=5), max_size=3).map(tuple),
    dict[str, int]: st.dictionaries(st.sampled_from(["pathology", "head"]), st.integers(0, 9)),
}
ARRAYS = st.dictionaries(
    st.sampled_from(["a.weight", "b"]),
    st.sampled_from([np.zeros((0, 3), np.float32), np.array(2.5), np.arange(6, dtype=np.int64).reshape(2, 3)]),
)
MESSAGES = [
    member
    for name in protocol.__all__
    if isinstance(member := getattr(protocol, name), type) and issubclass(member, WireMessage)
    if member is not WireMessage
]


def a_message(draw, message_type):
    def value(name, annotation):
        if name in message_type.array_sets:
            return draw(ARRAYS)
        if typing.get_origin(annotation) is typing.Literal:
            return draw(st.sampled_from(typing.get_args(annotation)))
        optional = [part for part in getattr(annotation, "__args__", ()) if part in VALUES]
        return draw(st.none() | VALUES[optional[0]] if annotation not in VALUES else VALUES[annotation])

    return message_type(**{name: value(name, info.annotation) for name, info in message_type.model_fields.items()})


@pytest.mark.parametrize("message_type", MESSAGES, ids=lambda m: m.__name__)
@given(data=st.data())
def test_a_message_comes_back_as_it_was_sent(message_type, data):
    message = a_message(data.draw, message_type)
    back = message_type.from_payload(from_records(to_records(message)))
    for name in message_type.model_fields:
        sent, got = getattr(message, name), getattr(back, name)
        if name in message_type.array_sets:
            assert sent.keys() == got.keys()
            for key, array in sent.items():
                assert (got[key].dtype, got[key].shape) == (array.dtype, array.shape)
                np.testing.assert_array_equal(got[key], array)
        else:
            assert got == sent
            assert type(got) is type(sent)


def test_empty_lists_and_array_sets_survive():
    request = StatisticsRequest(
        run_id="r", config_digest="d", fold=0, gene_columns=(), scale_features=False, count_events=True
    )
    assert StatisticsRequest.from_payload(from_records(to_records(request))) == request
    reply = StatisticsReply(genes={}, features={}, events={})
    back = StatisticsReply.from_payload(from_records(to_records(reply)))
    assert (back.genes, back.features, back.events) == ({}, {}, {})


def records(**extra):
    return RecordDict({"fields": ConfigRecord({"agreement-digest": "x"}), **extra})


@pytest.mark.parametrize(
    ("foreign", "word"),
    [
        (records(notes=ConfigRecord({"patient": "Doe"})), "notes"),
        (records(metrics=MetricRecord({"loss": 1.0})), "metrics"),
        (RecordDict({"settings": ConfigRecord({})}), "settings"),
        (RecordDict(), "fields"),
    ],
    ids=["second config record", "metric record", "other name", "nothing"],
)
def test_foreign_records_are_refused(foreign, word):
    with pytest.raises(ProtocolError, match=word):
        from_records(foreign)


def safetensors(claim, data=b""):
    header = json.dumps(claim).encode()
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a set of arrays",
        pickle.dumps({"w": np.zeros(2)}),
        safetensors({"w": {"dtype": "F32", "shape": [10**10], "data_offsets": [0, 4 * 10**10]}}),
        safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"1234"),
        safetensors({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, b"123456789"),
        safetensors({"w": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}, b"12345678"),
        (2**60).to_bytes(8, "little") + b"{}",
    ],
    ids=["empty", "text", "pickle", "40 GB claimed", "too few bytes", "too many bytes", "objects", "huge header"],
)
def test_bytes_that_are_no_arrays_are_refused(data):
    array = Array(dtype="uint8", shape=(len(data),), stype="safetensors", data=data)
    with pytest.raises(ProtocolError, match="weights cannot be decoded"):
        from_records(records(weights=ArrayRecord({"safetensors": array})))


@pytest.mark.parametrize(
    "foreign",
    [
        {"w": Array(np.zeros(2, np.float32))},
        {"safetensors": Array(dtype="uint8", shape=(0,), stype="torch.pickle", data=b"")},
        {},
    ],
    ids=["an array by itself", "another serialisation", "none"],
)
def test_arrays_in_another_form_are_refused(foreign):
    with pytest.raises(ProtocolError, match="expected one, with the bytes of a safetensors file"):
        from_records(records(weights=ArrayRecord(foreign)))


def test_a_set_of_many_arrays_is_one_array_of_flowers():
    """Each array of Flower's costs requests of its own on every hop."""
    reply = StatisticsReply(genes={f"column-{i}": np.zeros(3) for i in range(100)}, features={}, events={})
    assert [len(record) for record in to_records(reply).array_records.values()] == [1, 1, 1]


def test_one_message_is_not_taken_for_another():
    facts = FactsReply(
        **dict.fromkeys(("site", "time_unit", "event_means", "encoder"), "x"),
        **dict.fromkeys(("feature_columns", "feature_families", "gene_columns"), ()),
        **dict.fromkeys(("feature_width", "size_band", "pathology_band", "genomics_band"), 1),
    )
    with pytest.raises(ProtocolError, match="gene-columns: Extra inputs"):
        TrainReply.from_payload(from_records(to_records(facts)))
