"""Format of a command's log on standard error: lines for people, or one JSON object per line for machines."""

import json
import logging
from datetime import UTC, datetime
from typing import Final, Literal

__all__ = ["TEXT", "JsonLines", "LogFormat"]

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
