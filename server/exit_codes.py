"""Exit codes of `flower-server`, for scripts and service managers."""

from memamba_core.io.exit_codes import DescribedExitCode

__all__ = ["ExitCode"]


class ExitCode(DescribedExitCode):
    """Exit code with the sentence that `flower-server --help` shows."""

    DONE = 0, "done"
    MISTAKE = 2, "a mistake in the command, a setting or a file; nothing was changed or started"
    UNFINISHED = (
        3,
        "the run ended early, for example for too few answers; continue it with `flower-server run resume=RUN`",
    )
    BUSY = 4, "another `flower-server run` is using the folder"
    NOT_RUNNING = 5, "status, stop: no run is in progress"
    INCOMPLETE = (
        6,
        "the run is done, but a site missed some of it, or spent budgets ended it early; the results say so",
    )
    INTERRUPTED = 130, "interrupted by Ctrl-C or SIGTERM; a run can be continued with resume=RUN"
