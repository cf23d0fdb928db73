"""Log of `flower-server`: standard error, as text or as a JSON object per line, and `run.log` of each run."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from memamba_core.io.logs import TEXT, JsonLines, LogFormat

__all__ = ["also_log_to", "open_log"]

_OURS = ("memamba_core", "server")


def open_log(log_format: LogFormat, console: Console) -> None:
    """Log to a console that may show a live line below the log.

    Args:
        log_format: `text` or `json`.
        console: on standard error.
    """
    logging.raiseExceptions = False  # a log that cannot be written, on a full disk, must not end a run
    handler = _ConsoleHandler(console)
    handler.setFormatter(JsonLines() if log_format == "json" else logging.Formatter(TEXT, "%H:%M:%S"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("flwr", "httpx"):  # Flower installs its own handler, httpx logs a line per request
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
        logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def also_log_to(path: Path, packages: Sequence[str] = _OURS) -> Iterator[None]:
    """Append the log of these packages to a file while the block runs; restore the loggers afterwards."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in packages]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
        handler.close()


class _ConsoleHandler(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
