"""Format of a command's log on standard error: lines for people, or one JSON object per line for machines."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final, Literal

__all__ = ["TEXT", "JsonLines", "LogFormat", "PlainLines"]

LogFormat = Literal["text", "json"]
TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"


class JsonLines(logging.Formatter):
    """Formatter that writes one JSON object per line: `time` (UTC), `level`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(fields)


class PlainLines(logging.Formatter):
    """Formatter of lines in printable characters, in the form of `TEXT`.

    A log quotes texts of other machines. Control characters in them could move the cursor of a terminal, and a line
    break could begin a line that this program never wrote; both are written as escapes.
    """

    def __init__(self) -> None:
        super().__init__(TEXT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # a method of logging
        """Return the line of a record, without its traceback."""
        record.message = _escaped(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: N802  # a method of logging
        """Return a traceback; its own line breaks stay."""
        return "\n".join(map(_escaped, super().formatException(ei).split("\n")))


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
