"""Authenticate the caller of a request by its header alone, before any byte of the body is read.

A SuperNode signs each request: its public key, a time, and the signature of that time are headers. Flower checks them
as well, but after it has read the whole body. Written for flwr 1.42.0; `tests/coordinator/test_flower_contract.py`
checks every assumption.
"""

import binascii
import contextlib
import datetime as dt
import enum
import json
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from memamba_core.errors import ConfigError
from server.admin.roster import load_roster

__all__ = ["Caller", "Callers", "not_enrolled_answer"]

_PUBLIC_KEY, _TIME, _SIGNATURE = (
    name.encode() for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, TIMESTAMP_HEADER, FLEET_HTTP_SIGNATURE_HEADER)
)


class Caller(enum.Enum):
    """Reason why a caller is not known."""

    UNSIGNED = enum.auto()
    """A header is absent, damaged, of another time, or has a wrong signature."""
    NOT_ENROLLED = enum.auto()
    """The header names a key that is not in the roster. The signature was not checked."""


class Callers:
    """Keys that may send bodies: those of the roster.

    A key that joins the roster is known at once. One that leaves the roster stays known until the process ends
    with its run: as everywhere else, a removal takes effect with the next run. The SuperLink itself answers only keys
    that the run has registered.

    Args:
        roster: `roster.yaml`; read again when it changes.
    """

    def __init__(self, roster: Path) -> None:
        self._roster = roster
        self._names: Mapping[bytes, str] = {}
        self._stamp: tuple[int, int] | None = None

    def identify(self, headers: Sequence[tuple[bytes, bytes]]) -> str | Caller:
        """Return the name of the site that signed a request, or the reason why there is none.

        Args:
            headers: of the request, names in small letters.
        """
        given = dict(headers)
        try:
            public_key = b64decode(given[_PUBLIC_KEY], validate=True)
            signature = b64decode(given[_SIGNATURE], validate=True)
            age = (now() - dt.datetime.fromisoformat(given[_TIME].decode("ascii"))).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                return Caller.UNSIGNED
            name = self._enrolled().get(public_key)
            if name is None:
                return Caller.NOT_ENROLLED
            if not verify_signature(bytes_to_public_key(public_key), given[_TIME], signature):
                return Caller.UNSIGNED
        except (KeyError, ValueError, TypeError, OverflowError, binascii.Error, UnsupportedAlgorithm):
            return Caller.UNSIGNED
        return name

    def _enrolled(self) -> Mapping[bytes, str]:
        with contextlib.suppress(OSError, ConfigError):  # half edited by hand: the keys of before remain
            found = self._roster.stat()
            stamp = (found.st_mtime_ns, found.st_ino)
            if stamp != self._stamp:
                self._stamp = stamp
                present = {site.public_key_pem: site.name for site in load_roster(self._roster).sites}
                self._names = {**self._names, **present}
        return self._names


def not_enrolled_answer() -> tuple[int, bytes]:
    """Return status and JSON body with which a SuperLink answers the connection of a node that it does not know."""
    code = ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED
    spec = API_ERROR_MAP[code]
    return spec.http_status_code, json.dumps({"code": int(code), "detail": spec.public_message}).encode()
