"""Process of the SuperLink: `python -P -m server.flower.superlink_process PARENT_PID HOST PORT ARGUMENT...`.

Run Flower's stock SuperLink with a second listener for sites. Only `superlink.py` starts this process; it ends together
with its parent. It uses private names of flwr 1.42.0; `tests/coordinator/test_flower_contract.py` checks them.
"""

import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import uvicorn
from flwr.supercore import sql_mixin
from flwr.supercore.constant import SQLITE_PRAGMAS
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.main import create_app

from memamba_core.io.child_process import end_with_parent

from .patient_superlink import make_patient

__all__ = ["FleetOnly", "serve"]

_MAX_REQUEST_BYTES = 16_000_000  # Flower sends weights in pieces of 5 MB
# Writers to the database wait for each other. Flower's own limit is 5 s, after which the request fails: on a busy disk
# that ended runs of 190 MB. A client waits 30 s for its answer.
_WAIT_FOR_DATABASE_MS = 25_000


class FleetOnly:
    """Part of a SuperLink that sites may reach: `/v1/fleet/*` and `/health`.

    The control interface has no authentication: any program that reaches it can start runs. Therefore every other path
    is refused before the SuperLink sees the request, as is a request larger than any SuperNode sends.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http" or not (scope["path"].startswith("/v1/fleet/") or scope["path"] == "/health"):
            await _refuse(send, 403)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0" if scope["method"] == "GET" else b"")
        if not length.isdigit():
            await _refuse(send, 411)
        elif int(length) > _MAX_REQUEST_BYTES:
            await _refuse(send, 413)
        else:
            await self._app(scope, receive, send)


async def _refuse(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


class _Listener(uvicorn.Server):
    """Uvicorn server that leaves signals to `serve`, which runs two servers."""

    def capture_signals(self) -> Any:
        return nullcontext()


def serve(arguments: Sequence[str], host: str, port: int) -> None:
    """Serve until SIGTERM: the whole SuperLink on loopback, and the sites' part of it on the public address.

    Args:
        arguments: arguments of Flower's `flower-superlink`; `--host` is an address on loopback.
        host: address on which sites connect.
        port: port on which sites connect.
    """
    pragmas = dict(SQLITE_PRAGMAS) | {"busy_timeout": str(_WAIT_FOR_DATABASE_MS)}
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(pragmas.items())
    make_patient()
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    shared: dict[str, Any] = {
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_certfile": config.ssl_certfile,
        "access_log": False,
        "timeout_graceful_shutdown": 2,
    }
    loopback = _Listener(uvicorn.Config(app, host=config.host, port=config.port, **shared))
    public = _Listener(uvicorn.Config(FleetOnly(app), host=host, port=port, lifespan="off", **shared))
    asyncio.run(_serve(loopback, public))


async def _serve(*listeners: _Listener) -> None:
    def stop() -> None:
        for listener in listeners:
            listener.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(listener.serve() for listener in listeners))


def main() -> None:
    """Tie this process to its parent, then serve."""
    parent, host, port, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    serve(arguments, host, int(port))


if __name__ == "__main__":
    main()
