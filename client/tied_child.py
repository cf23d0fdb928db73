"""Become another program that ends when its parent does: `python -P tied_child.py PARENT_PID PROGRAM ARGUMENT...`.

Linux tells a process of its parent's end if it asks for that. The request outlives the `exec`, so the program itself
is the stock one. On other systems the program may outlive a parent that was killed.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, look whether the parent is still there, and become the program."""
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):  # it died before the request
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606 - a program of this installation, chosen by the parent


if __name__ == "__main__":
    main()
