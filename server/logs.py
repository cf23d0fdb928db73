"""The log of `flower-server`: standard error, as text or as a JSON object per line, and `run.log` of each run."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console

__all__ = ["LogFormat", "also_log_to", "open_log"]

LogFormat = Literal["text", "json"]
_OURS = ("memamba_core", "server")
_TEXT = "%(asctime)s %(levelname)-7s %(message)s"


def open_log(log_format: LogFormat, console: Console) -> None:
    """Log to a console, which may show a live line below.

    Args:
        log_format: `text` or `json`.
        console: on standard error.
    """
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, must not end a run
    handler = _ConsoleHandler(console)
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter(_TEXT, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("flwr", "httpx"):  # Flower brings a handler of its own, httpx a line per request
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def also_log_to(path: Path) -> Iterator[None]:
    """Append this project's log to a file within the block."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in _OURS:
        logging.getLogger(name).addHandler(handler)
    try:
        yield
    finally:
        for name in _OURS:
            logging.getLogger(name).removeHandler(handler)
        handler.close()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


class _Json(logging.Formatter):
    """One object per line: `time` (UTC), `level`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(told)
