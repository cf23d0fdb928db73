"""Payloads as Flower records and back: the one file of the core that knows Flower, and only its public message types.

Coordinator and sites both need it and are strangers to each other, so its home is below both.
"""

import math
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from memamba_core.errors import ProtocolError
from memamba_core.protocol import Payload, WireMessage

__all__ = ["from_records", "to_records"]

_FIELDS = "fields"


def to_records(message: WireMessage) -> RecordDict:
    """A message as Flower records: one `ArrayRecord` per set of arrays, one `ConfigRecord` named `fields`."""
    payload = message.to_payload()
    records = RecordDict({_FIELDS: ConfigRecord(dict(payload.fields))})
    for name, arrays in payload.arrays.items():
        records[name] = ArrayRecord({key: Array(array) for key, array in arrays.items()})
    return records


def from_records(records: RecordDict) -> Payload:
    """The plain data in Flower records.

    Raises:
        ProtocolError: there are records of a kind that no message of this protocol has.
    """
    strange = [name for name in records.config_records if name != _FIELDS] + list(records.metric_records)
    if strange or _FIELDS not in records.config_records:
        raise ProtocolError(f"got records {sorted(records)}; wanted one config record {_FIELDS!r} and arrays")
    try:
        arrays = {
            name: {key: _view(array) for key, array in record.items()} for name, record in records.array_records.items()
        }
    except Exception as error:  # foreign bytes: numpy's parser of headers may raise nearly anything
        raise ProtocolError(f"an array cannot be decoded: {type(error).__name__}") from None
    fields: Mapping[str, Any] = records.config_records[_FIELDS]
    return Payload(dict(fields), arrays)


def _view(array: Array) -> npt.NDArray[Any]:
    """The values of an array, read-only: a view of the bytes that arrived.

    `Array.numpy()` copies them, which for the weights of many sites doubles the coordinator's memory. It also opens
    archives and allocates whatever a header claims; here only a plain array passes whose bytes are all there.
    """
    if array.stype != "numpy.ndarray":
        raise TypeError(f"serialised as {array.stype!r}")
    header = BytesIO(array.data)
    if np.lib.format.read_magic(header) != (1, 0):
        raise ValueError("not the format of a plain array")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(header)
    offset = header.tell()
    if dtype.hasobject or offset + math.prod(shape) * dtype.itemsize != len(array.data):
        raise ValueError("holds objects, or more or fewer bytes than its shape")
    return np.ndarray(shape, dtype, array.data, offset, order="F" if fortran_order else "C")
