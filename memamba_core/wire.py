"""Payloads as Flower records and back: the one file of the core that knows Flower, and only its public message types.

Coordinator and sites both need it and are strangers to each other, so its home is below both.
"""

from collections.abc import Mapping
from typing import Any

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
            name: {key: array.numpy() for key, array in record.items()}
            for name, record in records.array_records.items()
        }
    except (TypeError, ValueError, EOFError, OSError) as error:  # what numpy raises on bytes that are not an array
        raise ProtocolError(f"an array cannot be decoded: {type(error).__name__}") from None
    fields: Mapping[str, Any] = records.config_records[_FIELDS]
    return Payload(dict(fields), arrays)
