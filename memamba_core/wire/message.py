"""Strict conversion between messages of the protocol and plain data.

Names on the wire are kebab-case; only this module knows both spellings.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy.typing as npt
import pydantic

from memamba_core.errors import ProtocolError

__all__ = ["ArraySets", "Payload", "WireMessage"]

Scalar = int | float | str | bool
FieldValue = Scalar | list[int] | list[float] | list[str]
ArraySets = Mapping[str, Mapping[str, npt.NDArray[Any]]]


@dataclass(frozen=True)
class Payload:
    """Message as plain data: named fields, and named sets of named arrays."""

    fields: Mapping[str, FieldValue]
    arrays: ArraySets = field(default_factory=dict)


class WireMessage(pydantic.BaseModel):
    """Base class of all messages, with strict conversion to and from `Payload`.

    A mapping-valued field travels as one entry per key (`trained.pathology`). A field that is None is not sent.
    """

    model_config = pydantic.ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        populate_by_name=True,
        arbitrary_types_allowed=True,
        alias_generator=lambda name: name.replace("_", "-"),
    )
    array_sets: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that hold arrays."""

    def to_payload(self) -> Payload:
        """Convert the message to plain data with the names of the wire."""
        fields: dict[str, FieldValue] = {}
        arrays: dict[str, Mapping[str, npt.NDArray[Any]]] = {}
        for name, info in type(self).model_fields.items():
            key, value = info.alias or name, getattr(self, name)
            if name in self.array_sets:
                arrays[key] = value
            elif isinstance(value, dict):
                fields.update({f"{key}.{part}": v for part, v in value.items()})
            elif isinstance(value, tuple):
                fields[key] = list(value)
            elif value is not None:
                fields[key] = value
        return Payload(fields, arrays)

    @classmethod
    def from_payload(cls, payload: Payload) -> Self:
        """Check plain data and build the message.

        Raises:
            ProtocolError: a key is unknown, missing or of the wrong type; the text names each.
        """
        values: dict[str, Any] = {key: dict(arrays) for key, arrays in payload.arrays.items()}
        for key, value in payload.fields.items():
            head, dot, part = key.partition(".")
            if not dot:
                values[key] = tuple(value) if isinstance(value, list) else value
            elif isinstance(parts := values.setdefault(head, {}), dict):
                parts[part] = value
            else:
                raise ProtocolError(f"{cls.__name__} does not have the agreed form: {head} and {key} at once")
        for name, info in cls.model_fields.items():  # an empty mapping leaves no entry on the wire
            if name in cls.array_sets or info.annotation == dict[str, int]:
                values.setdefault(info.alias or name, {})
        try:
            return cls.model_validate(values, by_alias=True, by_name=False)
        except pydantic.ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise ProtocolError(f"{cls.__name__} does not have the agreed form: {faults}") from None
