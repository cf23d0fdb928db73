"""Open port of the coordinator: uvicorn behind bounded connections, bounded times and bounded headers.

::

    accepted ──> hello ──> TLS handshake ──> header ──> body ──> answer ──┐
    (a file)   (10 s)         (10 s)         (10 s)   (known)             │
                                               ^──── next request ────────┘  (known callers only)

Until an enrolled key has signed a request, a connection counts against its address, may be pushed out by a newer one,
and is closed after one answer. Memory for TLS is taken only after the first byte. `FleetOnly` reports who is known.

uvicorn has no limit for connections, handshakes or headers in time, and its faster parser has none for the size of a
header; this module adds them with uvicorn's own hooks (`startup`, `on_tick`, `H11Protocol`). uvicorn 0.34 to 0.49.
"""

import asyncio
import contextlib
import errno
import socket
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import uvicorn

from .port_limits import Groups, Limits, Pace
from .port_notices import Notices, Refused
from .port_visitor import Visitor, VisitorProtocol

__all__ = ["Listener", "PublicPort", "settings_of_port"]

_TLS_HANDSHAKE = b"\x16"  # first byte of every TLS connection
_SWEEP_S = 0.5
_LONGEST_STEP_S = 1.0  # of the clock between two sweeps; time in which the process was suspended is longer
_ACCEPTS = 64  # in a row, before others have their turn
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_FAMILIAR = 1024


def settings_of_port(app: Any, host: str, port: int, tls: tuple[str, str], limits: Limits) -> uvicorn.Config:
    """Return uvicorn's settings for a port that strangers reach.

    Args:
        app: program (ASGI).
        host: address to listen on.
        port: port to listen on.
        tls: files of the private key and of the certificate.
        limits: bounds.
    """
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        ssl_keyfile=tls[0],
        ssl_certfile=tls[1],
        lifespan="off",
        http="h11",  # its header is bounded; that of httptools is not, and bodies are as fast
        ws="none",
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=int(limits.idle_s),
        timeout_graceful_shutdown=2,
        access_log=False,
        proxy_headers=False,  # a stranger's X-Forwarded-For would be taken for the caller's address
    )


class Listener(uvicorn.Server):
    """Uvicorn server that leaves signals to the process, which runs two servers."""

    def capture_signals(self) -> Any:
        """Leave signals alone."""
        return nullcontext()


class PublicPort(Listener):
    """Listener for sites.

    Args:
        config: of uvicorn, with TLS; must not trust proxy headers.
        limits: bounds.
        notices: where refusals are counted; its clock may be `now` of this object.
    """

    def __init__(self, config: uvicorn.Config, limits: Limits, notices: Notices) -> None:
        super().__init__(config)
        self.limits = limits
        self._notices = notices
        self._swept, self._served = time.monotonic(), 0.0
        self._visitors: dict[tuple[str, int], Visitor] = {}
        self._familiar: OrderedDict[str, None] = OrderedDict()  # addresses from which an enrolled key has spoken
        self._unknown: Groups[Visitor, str] = Groups(
            limits.unknown, limits.unknown_per_address, spared=self._familiar.__contains__
        )
        self._known: Groups[Visitor, str] = Groups(limits.known, limits.known_per_key)
        self._rare: Pace[str] = Pace(limits.rare_new_per_second, limits.rare_new_at_once)
        self._strangers: Pace[str] = Pace(limits.new_per_second, limits.new_at_once)
        self._all_strangers: Pace[bool] = Pace(limits.all_new_per_second, limits.all_new_at_once)
        self._neighbours: Pace[str] = Pace(limits.familiar_new_per_second, limits.familiar_new_at_once)
        self._door: socket.socket | None = None

    @property
    def now(self) -> float:
        """Return the time that this process has served, in seconds; suspended time does not count."""
        return self._served + min(time.monotonic() - self._swept, _LONGEST_STEP_S)

    # uvicorn's hooks

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port; uvicorn itself opens none."""
        await super().startup(sockets=[])
        assert self.config.ssl is not None
        self.config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
        self._door = socket.create_server((self.config.host, self.config.port), family=family, backlog=1024)
        self._door.setblocking(False)
        self._open_door()

    async def on_tick(self, counter: int) -> bool:
        """Look at all connections twice a second."""
        if time.monotonic() - self._swept >= _SWEEP_S:
            self._served, self._swept = self.now, time.monotonic()
            for visitor in list(self._visitors.values()):
                self._check_times(visitor)
            self._notices.flush()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, then end as uvicorn does."""
        if self._door is not None:
            asyncio.get_running_loop().remove_reader(self._door)
            self._door.close()
        self._close_all(lambda visitor: visitor.protocol is None)
        self._notices.flush(everything=True)
        await super().shutdown(sockets=[])
        self._close_all(lambda _: True)
        await asyncio.sleep(0)

    # For FleetOnly

    def know(self, peer: tuple[str, int], site: str) -> None:
        """Count a connection as one of a site, whose key has signed a request on it.

        Args:
            peer: address and port of the caller.
            site: name of the site.
        """
        visitor = self._visitors.get(peer)
        if visitor is None:  # gone in the meantime
            return
        self._familiar[visitor.address] = None
        self._familiar.move_to_end(visitor.address)
        if len(self._familiar) > _FAMILIAR:
            self._familiar.popitem(last=False)
        if visitor.site == site:
            self._known.touch(visitor)
            return
        self._unknown.remove(visitor)
        visitor.site = site
        if (victim := self._known.add(visitor, site)) is not None:
            self._close(victim, Refused.TOO_MANY_OF_A_SITE)

    def is_known(self, peer: tuple[str, int]) -> bool:
        """Return True if an enrolled key has signed a request on this connection."""
        visitor = self._visitors.get(peer)
        return visitor is not None and visitor.site is not None

    def count(self, kind: Refused, peer: tuple[str, int]) -> None:
        """Count a refused request.

        Args:
            kind: reason.
            peer: address and port of the caller.
        """
        self._notices.count(kind, peer[0])

    # A connection's way in

    def _open_door(self) -> None:
        if self._door is not None and self._door.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._door, self._accept)

    def _accept(self) -> None:
        assert self._door is not None
        for _ in range(_ACCEPTS):
            try:
                connection, address = self._door.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in _OUT_OF_FILES:  # the limits leave files; another part of the process took them
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(self._door)
                    loop.call_later(1.0, self._open_door)
                    return
                continue  # this caller is gone already
            self._admit(connection, (address[0], address[1]))

    def _admit(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        visitor = Visitor(connection, peer, self.now)
        if not self._has_time_for(visitor.address):
            connection.close()
            self.count(Refused.TOO_FAST, peer)
            return
        connection.setblocking(False)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # ends an answer that the other end does not read
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self.limits.stall_s * 1000))
        self._visitors[peer] = visitor
        if (victim := self._unknown.add(visitor, visitor.address)) is not None:
            self._close(victim, Refused.TOO_MANY)
        asyncio.get_running_loop().add_reader(connection, self._hello, visitor)

    def _has_time_for(self, address: str) -> bool:
        now = self.now
        if address in self._familiar:
            return self._neighbours.allow(address, now)
        # Addresses that connect rarely, as a new site does, have a pool apart from those that connect all the time.
        rare = self._rare.allow(address, now)
        return (rare or self._strangers.allow(address, now)) and self._all_strangers.allow(rare, now)

    def _hello(self, visitor: Visitor) -> None:
        """Begin TLS if the first byte is one of TLS."""
        connection = visitor.connection
        try:
            first = connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if first != _TLS_HANDSHAKE:
            self._close(visitor, Refused.NOT_TLS if first else None)
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(connection)
        visitor.since = self.now
        visitor.handshake = loop.create_task(self._shake_hands(visitor))

    async def _shake_hands(self, visitor: Visitor) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: VisitorProtocol(self, visitor),
                visitor.connection,
                ssl=self.config.ssl,
                ssl_handshake_timeout=10 * self.limits.handshake_s,  # the sweep is earlier, and knows suspended time
                ssl_shutdown_timeout=self.limits.answer_s,
            )
        except OSError:  # asyncio has closed the socket
            if self._visitors.get(visitor.peer) is visitor:  # else `_close` broke off the handshake
                self._forget(visitor)
                self.count(Refused.NOT_TLS, visitor.peer)

    def began(self, visitor: Visitor, protocol: "VisitorProtocol") -> None:
        """Take note of the end of a handshake."""
        visitor.protocol, visitor.since = protocol, self.now
        if self._visitors.get(visitor.peer) is not visitor:  # closed at this moment
            protocol.transport.abort()

    # Its way out

    def _check_times(self, visitor: Visitor) -> None:
        limits, now = self.limits, self.now
        protocol = visitor.protocol
        if visitor.handshake is None:
            late, kind = self._later_than(visitor, limits.hello_s), Refused.SILENT
        elif protocol is None:
            late, kind = self._later_than(visitor, limits.handshake_s), Refused.SLOW_HANDSHAKE
        elif visitor.since is not None:
            late, kind = self._later_than(visitor, limits.header_s), Refused.SLOW_HEADER
        else:
            late, kind = protocol.waits_for_body and now - protocol.last_byte > limits.stall_s, Refused.STALLED
        if late:
            self._close(visitor, kind)

    def _later_than(self, visitor: Visitor, seconds: float) -> bool:
        return visitor.since is not None and self.now - visitor.since > seconds

    def _close(self, visitor: Visitor, kind: Refused | None = None) -> None:
        """Close a connection at once, whatever its state."""
        self._forget(visitor)
        if kind is not None:
            self.count(kind, visitor.peer)
        if visitor.handshake is None:
            asyncio.get_running_loop().remove_reader(visitor.connection)
            visitor.connection.close()
        elif visitor.protocol is None:  # the socket belongs to asyncio, which sees its end
            with contextlib.suppress(OSError):
                visitor.connection.shutdown(socket.SHUT_RDWR)
        else:
            visitor.protocol.transport.abort()

    def _close_all(self, which: Callable[[Visitor], bool]) -> None:
        for visitor in [v for v in self._visitors.values() if which(v)]:
            self._close(visitor)

    def _forget(self, visitor: Visitor) -> None:
        if self._visitors.get(visitor.peer) is visitor:
            del self._visitors[visitor.peer]
        self._unknown.remove(visitor)
        self._known.remove(visitor)

    def ended(self, visitor: Visitor) -> None:
        """Take note of the end of a connection."""
        self._forget(visitor)
