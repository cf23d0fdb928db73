"""Flower's stock SuperNode: how it is started, and what the lines it writes say of its connection.

Written for flwr 1.42.0; `tests/site/test_flower_contract.py` holds what is relied on.
"""

import enum
import sysconfig
from pathlib import Path

from flwr.supercore.exit import ExitCode

__all__ = ["ConnectionEnd", "connection_end", "supernode_command"]

_ERROR = "ERROR :"  # Flower's own; the web server in it writes without the space
_OF_ITS_LOOP = (
    "The FAB could not be verified",
    "FAB verification failed",
    "Failed to create task",
    "Failed to receive message",
    "Failed to send message",
    "SSL/TLS handshake error detected",
)


def supernode_command(
    superlink: str, ca: Path, private_key: Path, secret: Path, listen: tuple[str, int]
) -> tuple[list[str], dict[str, str]]:
    """How the stock SuperNode is started: in process isolation, so that it runs no code by itself.

    Args:
        superlink: `host:port` of the coordinator.
        ca: the authority that is believed.
        private_key: of the node.
        secret: what a program must have to take tasks.
        listen: where tasks are handed out.

    Returns:
        The command, and what has to be set in its environment.
    """
    program = Path(sysconfig.get_path("scripts")) / "flower-supernode"
    host, port = listen
    command = [str(program), "--superlink", superlink, "--root-certificates", str(ca)]
    command += ["--auth-supernode-private-key", str(private_key), "--isolation", "process"]
    command += ["--superexec-auth-secret-file", str(secret), "--host", host, "--port", str(port)]
    settings = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    return command, settings


class ConnectionEnd(enum.Enum):
    """Why a SuperNode is of no use any more."""

    REFUSED = enum.auto()
    """The coordinator holds another connection with the same key, perhaps the one of before a crash."""
    BROKEN = enum.auto()
    """Its loop has broken off. Its process may stay all the same."""


def connection_end(line: str) -> ConnectionEnd | None:
    """What a line that a SuperNode wrote says of its connection; None if it goes on.

    When its loop breaks, for example because a proxy answers a handshake in plain text, it logs the error and its
    process stays, without a connection. Errors that its loop survives begin with one of a few texts.
    """
    level, _, text = line.partition(_ERROR)
    text = text.strip()
    if level or not text or text.startswith(_OF_ITS_LOOP):
        return None
    refused = text == f"Exit Code: {ExitCode.SUPERNODE_CONNECTION_ERROR}"
    return ConnectionEnd.REFUSED if refused else ConnectionEnd.BROKEN
