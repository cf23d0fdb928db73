"""Exit codes of `flower-simulate`, for scripts and batch systems."""

from memamba_core.io.exit_codes import DescribedExitCode

__all__ = ["ExitCode"]


class ExitCode(DescribedExitCode):
    """Exit codes with the sentences of the reference of commands."""

    DONE = 0, "success"
    MISTAKE = 2, "invalid command, setting or file, or a run of several that failed; finished rounds are kept"
    INTERRUPTED = 130, "interrupted by Ctrl-C or SIGTERM; continue the run with resume=FOLDER"
