"""What the exit code of `flower-client` says to a script, a service manager or a container engine."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """Each with the sentence that `flower-client --help` shows."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        """A number that knows its sentence."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "done; run: it was told to stop, and did"
    PROBLEM = 1, "doctor: something has to be mended before this site can take part"
    MISTAKE = 2, "a mistake in the command, a setting, a key or a table; nothing was started or written"
    TAMPERED = 3, "the log of what left, or the ledger, was edited or cut: nothing leaves until that is cleared up"
    INTERRUPTED = 130, "interrupted by Ctrl-C"
