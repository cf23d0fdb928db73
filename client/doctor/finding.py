"""Findings of the doctor: a level, a sentence and a remedy each."""

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "Level", "error", "ok", "warning"]


class Level(Enum):
    """Severity of a finding."""

    OK = "ok"
    WARNING = "warning"
    """The site can take part."""
    ERROR = "error"
    """The site cannot take part until this is fixed."""


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes:
        level: severity.
        check: name of the check, one or two words. It is the same in every report, and may stand in any log.
        text: result of the check; for the site's screen.
        remedy: what to do; empty where no action is needed.
    """

    level: Level
    check: str
    text: str
    remedy: str = ""


def ok(check: str, text: str) -> Finding:
    """Report a check that passed."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str, remedy: str) -> Finding:
    """Report a condition to review; the site can take part."""
    return Finding(Level.WARNING, check, text, remedy)


def error(check: str, text: str, remedy: str) -> Finding:
    """Report a condition to fix before the site can take part."""
    return Finding(Level.ERROR, check, text, remedy)
