"""Two logs: the support log, which may be sent to support, and the private log, which never leaves the site.

The support log (standard error) holds only what is written to `support_log`: fixed sentences with numbers, message
kinds and names of error classes. The private log (`state/site.log`) holds everything, with the full reason of each
refusal, and therefore possibly a file name, a column or a patient. Log records of libraries reach the private log only.
"""

import logging
import logging.handlers
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

from memamba_core.io.logs import JsonLines, LogFormat, PlainLines

__all__ = ["code_location", "open_logs", "support_log"]

support_log = logging.getLogger("flower-client")
"""May leave the site: never log a patient, a path of data or a value to it."""

_PRIVATE_BYTES = 5_000_000
_PRIVATE_FILES = 4


def open_logs(log_format: LogFormat, state: Path | None) -> None:
    """Set up both logs for this process. Uncaught errors go to both logs; the support log omits their text.

    Args:
        log_format: of the support log.
        state: folder of the private log; None where the process never sees data (the connector in its own container).

    Raises:
        OSError: the private log cannot be written; nothing was set up.
    """
    private = logging.NullHandler() if state is None else _private_file(state / "site.log")
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(JsonLines() if log_format == "json" else PlainLines())
    support_log.setLevel(logging.INFO)
    support_log.handlers = [console]
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [private]
    for name in ("flwr", "httpx"):  # Flower installs a handler for standard error; httpx logs a line per request
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


def code_location(error: BaseException) -> str:
    """Return where an error was raised, as `client/worker.py:97`: a place in installed code, without any data."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown location"
    path = Path(frames[-1].filename)
    return f"{path.parent.name}/{path.name}:{frames[-1].lineno}"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error, trace))
    support_log.critical("stopped by a program error: %s at %s", kind.__name__, code_location(error))


def _private_file(path: Path) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_PRIVATE_BYTES, backupCount=_PRIVATE_FILES, encoding="utf-8"
    )
    path.chmod(0o600)
    handler.setFormatter(PlainLines())
    return handler
