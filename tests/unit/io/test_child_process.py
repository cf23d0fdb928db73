"""Child processes: a site's SuperNode does not outlive the process that started it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

_TIED = ["-m", "memamba_core.io.child_process"]
_PARENT = """
import os, subprocess, sys
command = ["-m", "memamba_core.io.child_process", str(os.getpid()), *sys.argv[1:]]
print(subprocess.Popen([sys.executable, "-P", *command]).pid, flush=True)
sys.stdin.read()
"""
_SLEEP = [sys.executable, "-c", "import time; print('slept', flush=True); time.sleep(60)"]


def _is_running(pid):
    """Count an orphan that no process has waited for yet as ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process of its parent's end")
def test_a_killed_parent_takes_its_child_along():
    command = [sys.executable, "-c", _PARENT, *_SLEEP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        assert parent.stdout.readline() == "slept\n", "it became the other program"
        assert _is_running(child)
        parent.kill()
        parent.wait()
        deadline = time.monotonic() + 10
        while _is_running(child) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _is_running(child)


def test_a_parent_that_is_gone_already_leaves_nothing_behind():
    stranger = os.getpid() + 1
    done = subprocess.run([sys.executable, "-P", *_TIED, str(stranger), *_SLEEP], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
