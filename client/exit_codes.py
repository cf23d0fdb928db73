"""Exit codes of `flower-client`, for scripts, service managers and container engines."""

from memamba_core.io.exit_codes import DescribedExitCode

__all__ = ["ExitCode"]


class ExitCode(DescribedExitCode):
    """Exit codes with the sentences that `flower-client --help` shows."""

    DONE = 0, "success, or stopped on request"
    PROBLEM = (
        1,
        "doctor: a check failed, and the site cannot take part until it is fixed; other commands: a program error",
    )
    MISTAKE = 2, "invalid command, setting, key, table or model; nothing was started or written"
    TAMPERED = 3, "the egress log or the privacy ledger was edited or truncated; nothing leaves until it is restored"
    INTERRUPTED = (
        130,
        "interrupted by Ctrl-C; run, connect, train: the work did not end within 9 s of a stop",
    )
