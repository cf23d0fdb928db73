"""Run a program that ends when its parent does: `python -P -m memamba_core.io.child_process PARENT_PID PROGRAM ...`.

Linux sends a signal to a process whose parent ends, if the process asks for the signal. The request survives `exec`, so
the program itself needs no change. On other systems the program can outlive a parent that was killed.
"""

import ctypes
import os
import signal
import sys

__all__ = ["command_tied_to_this_process", "end_with_parent"]

_PR_SET_PDEATHSIG = 1


def command_tied_to_this_process(command: list[str]) -> list[str]:
    """Return the command line that runs `command` until it ends or this process does."""
    return [sys.executable, "-P", "-m", __name__, str(os.getpid()), *command]


def end_with_parent(parent: int) -> None:
    """Ask Linux for SIGTERM when the parent ends; exit at once if it has ended already.

    Args:
        parent: process id that the parent passed on.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != parent:  # the parent ended before the request
        sys.exit(1)


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, *command = sys.argv[1:]
    end_with_parent(int(parent))
    os.execv(command[0], command)  # noqa: S606 - a program of this installation, chosen by the parent


if __name__ == "__main__":
    main()
