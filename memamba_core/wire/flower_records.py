"""Payloads as Flower records and back: the one file of the core that knows Flower, and only its public message types.

Coordinator and sites both need it and are strangers to each other, so its home is below both.

A set of arrays travels as one array of Flower's, whose bytes are a safetensors file. Flower moves every array by
requests of its own, over three hops in each direction: a model of a hundred parameters would take a thousand of them
per site and round.
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
    """A message as Flower records: one `ArrayRecord` per set of arrays, one `ConfigRecord` named `fields`."""
    payload = message.to_payload()
    records = RecordDict({_FIELDS: ConfigRecord(dict(payload.fields))})
    for name, arrays in payload.arrays.items():
        records[name] = ArrayRecord({_PACKED: _pack(arrays)})
    return records


def from_records(records: RecordDict) -> Payload:
    """The plain data in Flower records.

    Raises:
        ProtocolError: there are records of a kind that no message of this protocol has, or bytes that are no arrays.
    """
    unknown = [name for name in records.config_records if name != _FIELDS] + list(records.metric_records)
    if unknown or _FIELDS not in records.config_records:
        raise ProtocolError(f"got records {sorted(records)}; wanted one config record {_FIELDS!r} and arrays")
    arrays = {name: _unpack(name, record) for name, record in records.array_records.items()}
    fields: Mapping[str, Any] = records.config_records[_FIELDS]
    return Payload(dict(fields), arrays)


def _pack(arrays: Mapping[str, npt.NDArray[Any]]) -> Array:
    data = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return Array(dtype="uint8", shape=(len(data),), stype=_PACKED, data=data)


def _unpack(name: str, record: ArrayRecord) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a set, of the bytes that arrived: the reader refuses a header that claims others."""
    if list(record) != [_PACKED] or record[_PACKED].stype != _PACKED:
        raise ProtocolError(f"{name} has {len(record)} arrays of Flower's; wanted one, with the bytes of safetensors")
    try:
        return dict(load(record[_PACKED].data))
    except Exception as error:  # foreign bytes: a type that numpy does not have is an error of another kind
        raise ProtocolError(f"{name} cannot be decoded: {type(error).__name__}") from None
