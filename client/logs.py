"""Two logs: one that may be sent to support, and one that never leaves the hospital.

The support log (standard error) holds what is written to `support_log` and nothing else: fixed sentences with numbers,
message kinds and names of error classes. The private log (`state/site.log`) holds everything, with the reasons in full
of what was refused, and so perhaps a file, a column or a patient. What a library logs reaches only the second.
"""

import logging
import logging.handlers
import sys
import threading
import traceback
from pathlib import Path
from types import TracebackType

from memamba_core.io.logs import TEXT, JsonLines, LogFormat

__all__ = ["code_location", "open_logs", "support_log"]

support_log = logging.getLogger("flower-client")
"""May leave the hospital: no patient, path of data, or value of one may be written to it."""

_PRIVATE_BYTES = 5_000_000
_PRIVATE_FILES = 4


def open_logs(log_format: LogFormat, state: Path | None) -> None:
    """Set up both logs for this process. Uncaught errors go to both, the support log without their text.

    Args:
        log_format: of the support log.
        state: folder of the private log; None where the process never sees data (the link in a container of its own).

    Raises:
        OSError: the private log cannot be written; nothing was set up.
    """
    private = logging.NullHandler() if state is None else _private_file(state / "site.log")
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(TEXT))
    support_log.setLevel(logging.INFO)
    support_log.handlers = [console]
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers = [private]
    for name in ("flwr", "httpx"):  # Flower brings a handler to standard error, httpx a line per request
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = lambda args: _uncaught(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)


def code_location(error: BaseException) -> str:
    """Where an error was raised, as `client/worker.py:97`: a place in installed code, without any data."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return "unknown place"
    path = Path(frames[-1].filename)
    return f"{path.parent.name}/{path.name}:{frames[-1].lineno}"


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).critical("uncaught", exc_info=(kind, error, trace))
    support_log.critical("stopped by an error of the program: %s at %s", kind.__name__, code_location(error))


def _private_file(path: Path) -> logging.Handler:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=_PRIVATE_BYTES, backupCount=_PRIVATE_FILES, encoding="utf-8"
    )
    path.chmod(0o600)
    handler.setFormatter(logging.Formatter(TEXT))
    return handler
