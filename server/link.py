"""The SuperLink's own process: `python -P -m server.link PARENT_PID HOST PORT ARGUMENT...`.

Flower's stock SuperLink with a second door. Started by `superlink.py` only; it ends when that process does.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent and serve."""
    parent, host, port, *arguments = sys.argv[1:]
    if sys.platform == "linux":  # elsewhere it may outlive a parent that was killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
    if os.getppid() != int(parent):  # it died before the request
        sys.exit(1)
    from .flwr_compat import serve_superlink

    serve_superlink(arguments, host, int(port))


if __name__ == "__main__":
    main()
