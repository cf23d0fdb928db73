"""One connection at the open port: its state from `accept` to its end, and HTTP on it (`public_port.py`)."""

import asyncio
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .port_limits import address_group
from .port_notices import Refused

if TYPE_CHECKING:
    from .public_port import PublicPort

__all__ = ["Visitor", "VisitorProtocol"]

_quiet = logging.getLogger("server.flower.public_port.requests")
_quiet.addFilter(lambda record: record.levelno >= logging.ERROR)  # else a stranger fills the disk, line by line


class Visitor:
    """Connection from outside, from `accept` to its end.

    Attributes:
        peer: address and port of the caller.
        address: the address, as limits count it.
        site: name of the site whose key signed the last request; None if the caller is unknown.
        since: time at which the present wait began: for the hello, the handshake or a header; None during a request.
    """

    def __init__(self, connection: socket.socket, peer: tuple[str, int], now: float) -> None:
        self.peer = peer
        self.address = address_group(peer[0])
        self.site: str | None = None
        self.since: float | None = now
        self.connection = connection
        self.handshake: asyncio.Task[None] | None = None  # after the first byte
        self.protocol: VisitorProtocol | None = None  # after the handshake


class VisitorProtocol(H11Protocol):
    """HTTP on one connection."""

    def __init__(self, port: "PublicPort", visitor: Visitor) -> None:
        super().__init__(port.config, port.server_state, port.lifespan.state)
        self.logger = _quiet
        self.access_log = False
        self._port, self._visitor = port, visitor
        self.last_byte = port.now

    @property
    def waits_for_body(self) -> bool:
        """True while the next byte of a body has to come from the other end."""
        return self.cycle is not None and self.cycle.more_body and not self.flow.read_paused

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self.client = self._visitor.peer
        self._port.began(self._visitor, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        super().connection_lost(exc)
        self._port.ended(self._visitor)

    def shutdown(self) -> None:
        """End at the end of the process, also if the other end has broken the rules of HTTP."""
        if not self.transport.is_closing():
            with contextlib.suppress(h11.LocalProtocolError):
                super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Take bytes, unless the connection is being closed: these would be kept without end."""
        if self.transport.is_closing():
            return
        self.last_byte = self._port.now
        if self._visitor.since is None and (self.cycle is None or self.cycle.response_complete):
            self._visitor.since = self.last_byte  # first byte of a further request
        super().data_received(data)

    def handle_events(self) -> None:
        """Parse, and stop the clock of the header once it is complete."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._visitor.since = None

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP."""
        self._port.count(Refused.NOT_HTTP, self._visitor.peer)
        with contextlib.suppress(h11.LocalProtocolError):  # in the middle of an answer: there is no room for another
            super().send_400_response(msg)
        self.transport.close()
