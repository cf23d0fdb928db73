"""Encoding of messages as Flower records, and decoding. The only file of the core that imports Flower (public types).

Coordinator and sites both need this module and do not import each other, so it lies below both.

A set of arrays travels as one Flower array, whose bytes are a safetensors file. Flower transfers each array in separate
requests over three hops in each direction: a model of a hundred parameters would take a thousand requests per site and
round.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors.numpy import load, save

from memamba_core.errors import ProtocolError
from memamba_core.wire.message import Payload, WireMessage

__all__ = ["from_records", "to_records"]

_FIELDS = "fields"
_PACKED = "safetensors"


def to_records(message: WireMessage) -> RecordDict:
    """Encode a message: one `ArrayRecord` per set of arrays, and one `ConfigRecord` named `fields`."""
    payload = message.to_payload()
    records = RecordDict({_FIELDS: ConfigRecord(dict(payload.fields))})
    for name, arrays in payload.arrays.items():
        records[name] = ArrayRecord({_PACKED: _pack(arrays)})
    return records


def from_records(records: RecordDict) -> Payload:
    """Decode Flower records into plain data.

    Raises:
        ProtocolError: a record is of a kind that no message of this protocol has, or its bytes are not arrays.
    """
    unknown = [name for name in records.config_records if name != _FIELDS] + list(records.metric_records)
    if unknown or _FIELDS not in records.config_records:
        raise ProtocolError(f"got records {sorted(records)}; expected one config record {_FIELDS!r} and arrays")
    arrays = {name: _unpack(name, record) for name, record in records.array_records.items()}
    fields: Mapping[str, Any] = records.config_records[_FIELDS]
    return Payload(dict(fields), arrays)


def _pack(arrays: Mapping[str, npt.NDArray[Any]]) -> Array:
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return Array(dtype="uint8", shape=(len(data),), stype=_PACKED, data=data)


def _unpack(name: str, record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a set from the bytes that arrived; safetensors refuses a header that claims other sizes."""
    if list(record) != [_PACKED] or record[_PACKED].stype != _PACKED:
        raise ProtocolError(
            f"{name} has {len(record)} Flower arrays; expected one, with the bytes of a safetensors file"
        )
    try:
        return dict(load(record[_PACKED].data))
    except Exception as error:  # bytes of another machine: an unknown dtype raises another class of error
        raise ProtocolError(f"{name} cannot be decoded: {type(error).__name__}") from None
