"""Exit codes with their meaning, for the help of a command and for its callers."""

from enum import IntEnum

__all__ = ["DescribedExitCode"]


class DescribedExitCode(IntEnum):
    """Base of a command's exit codes: each is a number with the sentence that `--help` shows."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "DescribedExitCode":
        """Create a member from its number and its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member
