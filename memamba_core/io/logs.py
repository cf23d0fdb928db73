"""How a command's log looks on standard error: lines for people, or an object per line for machines."""

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal

__all__ = ["TEXT", "JsonLines", "LogFormat"]

LogFormat = Literal["text", "json"]
TEXT: Final = "%(asctime)s %(levelname)-7s %(message)s"


class JsonLines(logging.Formatter):
    """One object per line: `time` (UTC), `level`, `message`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        return json.dumps(told)
