"""The SuperLink's own process: `python -P -m server.flower.superlink_process PARENT_PID HOST PORT ARGUMENT...`.

Flower's stock SuperLink with a second door. Started by `superlink.py` only; it ends when that process does. It uses
private names of flwr 1.42.0; `tests/coordinator/test_flower_contract.py` holds them.
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

__all__ = ["FleetOnly", "serve"]

_MAX_REQUEST_BYTES = 16_000_000  # Flower sends weights in pieces of 5 MB
# Whoever writes to the database waits for whoever does. Flower waits 5 s, and what then fails is the request: on a busy
# disk that ended runs of 190 MB. A client waits 30 s for its answer.
_WAIT_FOR_DATABASE_MS = 25_000


class FleetOnly:
    """The part of a SuperLink that may be reached from outside: `/v1/fleet/*` and `/health`.

    Its control interface has no authentication, and whoever reaches it may start runs; so everything else is refused
    before the SuperLink sees it, and requests of a size that no SuperNode sends, too.
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
    """A uvicorn server that leaves signals to `serve`, which has two of them."""

    def capture_signals(self) -> Any:
        return nullcontext()


def serve(arguments: Sequence[str], host: str, port: int) -> None:
    """Serve until SIGTERM: all of the SuperLink where its arguments say, and to hospitals what is theirs.

    Args:
        arguments: of Flower's `flower-superlink`; its `--host` is an address on loopback.
        host: address on which hospitals are awaited.
        port: likewise.
    """
    pragmas = dict(SQLITE_PRAGMAS) | {"busy_timeout": str(_WAIT_FOR_DATABASE_MS)}
    vars(sql_mixin)["SQLITE_PRAGMAS"] = tuple(pragmas.items())
    sys.argv = ["flower-superlink", *arguments]
    config = _parse_superlink_lifespan_config()
    app = create_app(config, SuperLinkLifespan)
    shared: dict[str, Any] = {
        "ssl_keyfile": config.ssl_keyfile,
        "ssl_certfile": config.ssl_certfile,
        "access_log": False,
        "timeout_graceful_shutdown": 2,
    }
    inside = _Listener(uvicorn.Config(app, host=config.host, port=config.port, **shared))
    outside = _Listener(uvicorn.Config(FleetOnly(app), host=host, port=port, lifespan="off", **shared))
    asyncio.run(_serve(inside, outside))


async def _serve(*listeners: _Listener) -> None:
    def stop() -> None:
        for listener in listeners:
            listener.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(listener.serve() for listener in listeners))


def main() -> None:
    """Tie this process to its parent and serve."""
    parent, host, port, *arguments = sys.argv[1:]
    end_with_parent(int(parent))
    serve(arguments, host, int(port))


if __name__ == "__main__":
    main()
