"""Process of the SuperLink: `python -P -m server.flower.superlink_process PARENT_PID HOST PORT ROSTER NOTICES ...`.

Run Flower's stock SuperLink with a second listener for sites. Only `superlink.py` starts this process; it ends together
with its parent. It uses private names of flwr 1.42.0; `tests/coordinator/test_flower_contract.py` checks them.
"""

import asyncio
import os
import signal
import sys
from asyncio.sslproto import SSLProtocol
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.main import create_app

from memamba_core.io.child_process import end_with_parent

from .callers import Caller, Callers, not_enrolled_answer
from .patient_superlink import make_patient
from .port_limits import Limits, raise_file_limit
from .port_notices import Notices, Refused
from .public_port import Listener, PublicPort, settings_of_port

__all__ = ["FleetOnly", "serve"]

_MAX_REQUEST_BYTES = 16_000_000  # Flower sends weights in pieces of 5 MB
# Writers to the database wait for each other. Flower's own limit is 5 s, after which the request fails: on a busy disk
# that ended runs of 190 MB. A client waits 30 s for its answer.
_WAIT_FOR_DATABASE_MS = 25_000
_TLS_BUFFER_BYTES = 65_536  # of a connection; asyncio takes 262,144, up to four times over, and is no faster for it
_ACTIVATE = "/v1/fleet/activate-node"


class Port(Protocol):
    """Calls of `FleetOnly` to the port that a request came through."""

    limits: Limits

    def know(self, peer: tuple[str, int], site: str) -> None:
        """Count a connection as one of a site."""

    def is_known(self, peer: tuple[str, int]) -> bool:
        """Return True if an enrolled key has signed a request on this connection."""

    def count(self, kind: Refused, peer: tuple[str, int]) -> None:
        """Count a refused request."""


class FleetOnly:
    """Part of a SuperLink that sites may reach: `/v1/fleet/*` for enrolled keys, and `/health` for all.

    The control interface has no authentication: any program that reaches it can start runs. Therefore every other path
    is refused before the SuperLink sees the request, as is a request larger than any SuperNode sends. No byte of a body
    is read before the header has named an enrolled key with its signature.

    Args:
        app: the SuperLink (ASGI).
        callers: enrolled keys.
        port: port of the requests; learns which connections are known.
    """

    def __init__(self, app: Any, callers: Callers, port: Port) -> None:
        self._app, self._callers, self._port = app, callers, port
        self._large_bodies: dict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(port.limits.large_bodies_per_key)
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request (ASGI)."""
        peer = tuple(scope.get("client") or ("", 0))
        path = scope.get("path", "")
        if scope["type"] != "http" or not (path.startswith("/v1/fleet/") or path == "/health"):
            self._port.count(Refused.CLOSED_PATH, peer)
            await _refuse(send, 403)
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0" if scope["method"] == "GET" else b"")
        if not length.isdigit() or b"transfer-encoding" in headers:
            self._port.count(Refused.BODY_SIZE, peer)
            await _refuse(send, 411)
        elif int(length) > (0 if path == "/health" else _MAX_REQUEST_BYTES):
            self._port.count(Refused.BODY_SIZE, peer)
            await _refuse(send, 413)
        elif path == "/health":
            await self._app(scope, receive, send if self._port.is_known(peer) else _closing(send))
        else:
            await self._serve_site(scope, receive, send, peer, int(length))

    async def _serve_site(self, scope: Any, receive: Any, send: Any, peer: tuple[str, int], length: int) -> None:
        caller = self._callers.identify(scope["headers"])
        if isinstance(caller, Caller):
            self._port.count(Refused.UNKNOWN_CALLER, peer)
            if caller is Caller.NOT_ENROLLED and scope["path"] == _ACTIVATE:
                await _refuse(send, *not_enrolled_answer())
            else:
                await _refuse(send, 401)
            return
        self._port.know(peer, caller)
        if length <= self._port.limits.small_body:  # a heartbeat never waits behind weights
            await self._app(scope, receive, send)
        else:
            async with self._large_bodies[caller]:
                await self._app(scope, receive, send)


async def _refuse(send: Any, status: int, body: bytes = b"") -> None:
    """Answer and close: the body that may follow is not read."""
    headers = [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
    if body:
        headers.append((b"content-type", b"application/json"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _closing(send: Any) -> Any:
    """Return `send` for the only answer on a connection."""

    async def send_and_close(event: Any) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event.get("headers", ()), (b"connection", b"close")]}
        await send(event)

    return send_and_close


def serve(arguments: Sequence[str], host: str, port: int, roster: Path, notices: int) -> None:
    """Serve until SIGTERM: the whole SuperLink on loopback, and the sites' part of it on the public address.

    Args:
        arguments: arguments of Flower's `flower-superlink`; `--host` is an address on loopback.
        host: address on which sites connect.
        port: port on which sites connect.
        roster: `roster.yaml`, the enrolled keys.
        notices: file descriptor for lines about refused connections.
    """
    limits = Limits.for_files(raise_file_limit())
    SSLProtocol.max_size = _TLS_BUFFER_BYTES
    pragmas = dict(SQLITE_PRAGMAS) | {"busy_timeout": str(_WAIT_FOR_DATABASE_MS)}
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(pragmas.items())
    make_patient()
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    loopback = Listener(
        uvicorn.Config(
            app,
            host=config.host,
            port=config.port,
            ssl_keyfile=config.ssl_keyfile,
            ssl_certfile=config.ssl_certfile,
            access_log=False,
            timeout_graceful_shutdown=2,
        )
    )

    async def fleet(scope: Any, receive: Any, send: Any) -> None:
        await fleet_only(scope, receive, send)

    assert config.ssl_keyfile is not None
    assert config.ssl_certfile is not None
    settings = settings_of_port(fleet, host, port, (config.ssl_keyfile, config.ssl_certfile), limits)
    public = PublicPort(settings, limits, Notices(_writer(notices), lambda: public.now))
    fleet_only = FleetOnly(app, Callers(roster), public)
    asyncio.run(_serve(loopback, public))


def _writer(notices: int) -> Any:
    """Return a function that writes a line to a pipe, or drops it if nothing reads the pipe."""
    os.set_blocking(notices, False)

    def write(line: str) -> None:
        try:
            os.write(notices, line.encode() + b"\n")
        except OSError:
            print(line, file=sys.stderr)

    return write


async def _serve(*listeners: Listener) -> None:
    def stop() -> None:
        for listener in listeners:
            listener.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(listener.serve() for listener in listeners))


def main() -> None:
    """Tie this process to its parent, then serve."""
    parent, host, port, roster, notices, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    serve(arguments, host, int(port), Path(roster), int(notices))


if __name__ == "__main__":
    main()
