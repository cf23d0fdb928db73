"""What the exit code of `flower-client` says to a script, a service manager or a container engine."""

from memamba_core.io.exit_codes import DescribedExitCode

__all__ = ["ExitCode"]


class ExitCode(DescribedExitCode):
    """Each with the sentence that `flower-client --help` shows."""

    DONE = 0, "done; run: it was told to stop, and did"
    PROBLEM = 1, "doctor: something has to be mended before this site can take part; else: an error of the program"
    MISTAKE = 2, "a mistake in the command, a setting, a key, a table or a model; nothing was started or written"
    TAMPERED = 3, "the log of what left, or the ledger, was edited or cut: nothing leaves until that is cleared up"
    INTERRUPTED = 130, "interrupted by Ctrl-C; run: told to stop, and ended in the middle of its work after 9 s"
