"""Exit codes that know what they mean, for the help of a command and for who calls it."""

from enum import IntEnum

__all__ = ["DescribedExitCode"]


class DescribedExitCode(IntEnum):
    """Base of a command's exit codes: each is a number and the sentence that `--help` shows."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "DescribedExitCode":
        """A number that knows its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member
