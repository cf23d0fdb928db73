"""Flower's stock SuperNode: its command line, and the state of its connection read from its output.

Written for flwr 1.42.0; `tests/site/test_flower_contract.py` checks every assumption.
"""

import enum
import sys
from pathlib import Path

from flwr.supercore.exit import ExitCode

__all__ = ["ConnectionEnd", "connection_end", "supernode_command"]

_ERROR = "ERROR :"  # as Flower's logger writes it; the embedded web server writes no space
_RECOVERABLE_ERRORS = (
    # of the message loop
    "The FAB could not be verified",
    "FAB verification failed",
    "Failed to create task",
    "Failed to receive message",
    "Failed to send message",
    "SSL/TLS handshake error detected",
    # of the bookkeeping about messages and tasks: a reply that comes late, for example after a pause
    "Cannot get processing duration",
    "Cannot record end time",
    "Start time or end time for message ID",
    "Failed to start task",
    "Failed to finish task",
    "Failed to store object",
    "Run series",
    "Invalid sub_status",
    "Cannot store message",
    "Task events could not be stored",
    # of the server from which the executor takes tasks: a request that it refused
    "[/",
)
_DEAD_THREAD = "Exception in thread "  # of Python; the thread that sends heartbeats is not started again


def supernode_command(
    superlink: str, ca: Path, private_key: Path, secret: Path, listen: tuple[str, int]
) -> tuple[list[str], dict[str, str]]:
    """Build the command of the SuperNode, in process isolation, so that it runs no code of a task itself.

    Args:
        superlink: `host:port` of the coordinator.
        ca: certificate of the only trusted authority.
        private_key: of the node.
        secret: file of the runtime secret, which a program needs to take tasks.
        listen: host and port on which tasks are handed out.

    Returns:
        The command, and the variables to set in its environment.
    """
    host, port = listen
    command = [sys.executable, "-P", "-m", "client.flower.supernode_process"]
    command += ["--superlink", superlink, "--root-certificates", str(ca)]
    command += ["--auth-supernode-private-key", str(private_key), "--isolation", "process"]
    command += ["--superexec-auth-secret-file", str(secret), "--host", host, "--port", str(port)]
    settings = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    }
    return command, settings


class ConnectionEnd(enum.Enum):
    """Reason why a SuperNode has to be restarted."""

    REFUSED = enum.auto()
    """The coordinator holds another connection with the same key, possibly one from before a crash."""
    BROKEN = enum.auto()
    """The SuperNode's message loop has ended, although its process may still run."""


def connection_end(line: str) -> ConnectionEnd | None:
    """Detect the end of the connection in a line of a SuperNode's output; return None while the connection lasts.

    When its message loop fails, for example because a proxy answers a handshake in plain text, the SuperNode logs the
    error and its process stays, without a connection. Errors that the loop survives begin with one of a few texts. When
    the thread that sends heartbeats fails, the coordinator counts the site as absent for good, although it answers.
    """
    if line.startswith(_DEAD_THREAD):
        return ConnectionEnd.BROKEN
    level, _, text = line.partition(_ERROR)
    text = text.strip()
    if level or not text or text.startswith(_RECOVERABLE_ERRORS):
        return None
    refused = text == f"Exit Code: {ExitCode.SUPERNODE_CONNECTION_ERROR}"
    return ConnectionEnd.REFUSED if refused else ConnectionEnd.BROKEN
