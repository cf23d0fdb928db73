"""What somebody may send who has a hospital's key and a program of their own, and what the coordinator says of it."""

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors.numpy import save

from memamba_core.wire import from_records

ESCAPE = "\x1b[2J"
"""Clears a terminal."""


def with_arrays(records, name, change):
    arrays = {key: array.copy() for key, array in from_records(records).arrays[name].items()}
    change(arrays)
    records[name] = packed(save(arrays))
    return records


def packed(data):
    return ArrayRecord({"safetensors": Array("uint8", (len(data),), "safetensors", data)})


def with_fields(records, **fields):
    records["fields"] = ConfigRecord({**records.config_records["fields"], **fields})
    return records


def in_two_forms(records):
    records["fields"] = ConfigRecord({"trained": 5, **records.config_records["fields"]})
    return records


def poison(arrays):
    next(iter(arrays.values())).reshape(-1)[0] = np.nan


def widen(arrays):
    arrays[next(iter(arrays))] = np.zeros((2, 2, 2), np.float32)


def extra_record(records):
    records["diary"] = ConfigRecord({"patient": "x"})
    return records


def ten_gigabytes_claimed(records):
    header = json.dumps({"w": {"dtype": "F32", "shape": [25 * 10**8], "data_offsets": [0, 10**10]}}).encode()
    records["weights"] = packed(len(header).to_bytes(8, "little") + header)
    return records


def ten_gigabytes_in_flower_s_own_form(records):
    records["weights"] = ArrayRecord({"w": Array("float32", (25 * 10**8,), "numpy.ndarray", b"few bytes")})
    return records


def broken_array(records):
    records["weights"] = packed(b"nonsense")
    return records


LIES = {
    "NaN": (lambda r: with_arrays(r, "weights", poison), "not finite"),
    "wrong shape": (lambda r: with_arrays(r, "weights", widen), "(2, 2, 2)"),
    "missing key": (lambda r: with_arrays(r, "weights", lambda a: a.pop(next(iter(a)))), "names"),
    "negative count": (lambda r: with_fields(r, **{"trained.head": -5}), "-5 patients"),
    "a billion patients": (lambda r: with_fields(r, **{"trained.head": 10**9}), "1000000000 patients"),
    "count as text": (lambda r: with_fields(r, **{"trained.head": "many"}), "trained"),
    "unknown field": (lambda r: with_fields(r, mood="good"), "mood"),
    "NaN in the loss": (lambda r: with_fields(r, **{"loss-sum": float("nan")}), "loss_sum is nan"),
    "extra record": (extra_record, "diary"),
    "no message at all": (lambda r: RecordDict(), "fields"),
    "bytes that are no array": (broken_array, "decoded"),
    "10 GB claimed": (ten_gigabytes_claimed, "decoded"),
    "10 GB claimed otherwise": (ten_gigabytes_in_flower_s_own_form, "bytes of safetensors"),
    "words that move a cursor": (lambda r: with_fields(r, **{f"{ESCAPE}Jane Doe": 1}), "?[2JJane Doe"),
    "words without an end": (lambda r: with_fields(r, **{"x" * 10**6: 1}), "xxx..."),
    "a field in two forms": (in_two_forms, "trained and trained."),
}
"""Name -> what becomes of the records of an honest answer to a training request, and what the coordinator says."""
