"""Log of all replies and refusals of a site: one line each, on the disk before the message leaves.

The answer that a run waits for approval leaves every few seconds; it has one line until another answer leaves.

The file is a chained log (`chained_log`) without a key, so that anyone with a copy can verify it.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from memamba_core.privacy.chained_log import ChainedLog
from memamba_core.wire.message import Payload

__all__ = ["EgressLog", "EgressRecord", "describe_answer", "describe_refusal"]


@dataclass(frozen=True)
class EgressRecord:
    """One reply or refusal to the coordinator.

    Attributes:
        time: UTC, ISO 8601.
        run_id: name of the run; empty if the request had no valid name.
        phase: phase of the request; the message type if the protocol has no such phase.
        server_round: from 1; 0 outside of training.
        kind: class in `memamba_core.wire.protocol`, or `Refusal`.
        fields: names of the fields; for a set of arrays its name and the number of arrays.
        text: code and text of a refusal; empty otherwise.
        num_bytes: size of all fields and arrays.
        sha256: digest over all fields and arrays (`describe_answer`).
    """

    time: str
    run_id: str
    phase: str
    server_round: int
    kind: str
    fields: tuple[str, ...]
    text: str
    num_bytes: int
    sha256: str


class EgressLog:
    """Egress log of one site.

    Args:
        state: folder of the state volume of the site.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "egress.jsonl"
        self._log = ChainedLog(self.path)
        self._last: EgressRecord | None = None

    def append(self, record: EgressRecord) -> None:
        """Write a line and wait until it is on the disk. Only then may the message leave.

        Raises:
            OSError: the line could not be written, for example because the disk is full.
            TamperedLogError: the log was changed since this site last wrote it.
        """
        self._log.append(asdict(record))
        self._last = record

    def append_once(self, record: EgressRecord) -> None:
        """Write a line like `append`, unless it repeats the last line of this process in all but the time."""
        if self._last is None or replace(record, time=self._last.time) != self._last:
            self.append(record)

    def read(self) -> tuple[EgressRecord, ...]:
        """Verify the chain and return all records, oldest first.

        Raises:
            TamperedLogError: a line was edited, removed, added or moved; the first such line is named.
        """
        return tuple(EgressRecord(**{**r, "fields": tuple(r["fields"])}) for r in self._log.read())


def describe_answer(payload: Payload, *, run_id: str, phase: str, server_round: int, kind: str) -> EgressRecord:
    """Build the record of a reply.

    The digest is SHA-256 over the fields as canonical JSON and over name, dtype, shape and bytes of each array.
    """
    fields = (*payload.fields, *(f"{name} ({len(arrays)} arrays)" for name, arrays in payload.arrays.items()))
    return EgressRecord(_now(), run_id, phase, server_round, kind, fields, "", *_size_and_digest(payload))


def describe_refusal(code: int, text: str, *, run_id: str, phase: str, server_round: int) -> EgressRecord:
    """Build the record of a refusal."""
    size, digest = _size_and_digest(Payload({"code": code, "text": text}))
    return EgressRecord(
        _now(), run_id, phase, server_round, "Refusal", ("code", "text"), f"{code}: {text}", size, digest
    )


def _size_and_digest(payload: Payload) -> tuple[int, str]:
    """Return the size in bytes and the SHA-256 of all parts, each preceded by its length."""
    sha, size = hashlib.sha256(), 0
    for part in _parts(payload):
        sha.update(len(part).to_bytes(8, "little"))
        sha.update(part)
        size += len(part)
    return size, sha.hexdigest()


def _parts(payload: Payload) -> Iterator[bytes | memoryview]:
    yield json.dumps(dict(payload.fields), sort_keys=True, separators=(",", ":")).encode()
    for name in sorted(payload.arrays):
        for key in sorted(payload.arrays[name]):
            array = np.ascontiguousarray(payload.arrays[name][key])
            yield json.dumps([name, key, array.dtype.str, list(array.shape)]).encode()
            yield array.reshape(-1).view(np.uint8).data


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
