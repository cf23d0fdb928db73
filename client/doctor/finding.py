"""What a check found: a sentence, how bad it is, and what to do about it."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level", "error", "ok", "warning"]


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """The site can take part."""
    ERROR = "error"
    """It cannot, until this is mended."""


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        level: how bad it is.
        check: what was looked at, a word or two. The same in every report, and fit for any log.
        text: what was seen; for the hospital's screen.
        remedy: what to do; empty where all is well.
    """

    level: Level
    check: str
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Worth a look."""
    return Finding(Level.WARNING, check, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Has to be mended."""
    return Finding(Level.ERROR, check, text, remedy)
