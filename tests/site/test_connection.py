"""Connector with a test double of the SuperNode: start, readable errors, restart, and end."""

import os
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from client import connection as module
from client.connection import Connection, Timing
from client.doctor.finding import ok, warning
from client.doctor.network import KEY, PORT
from client.keys import SiteKeys
from memamba_core.config.site import CoordinatorAddress

ENROLLED = ok(KEY, "enrolled")
NOT_LISTENING = warning(PORT, "nothing listens", "wait")


class Scene:
    """Scripted coordinator and SuperNode, and the log of the connection."""

    def __init__(self, folder, monkeypatch, caplog):
        self.says, self.checks, self.starts = [ENROLLED], 0, folder / "starts"
        self.starts.touch()
        self.program = folder / "supernode.py"
        self.becomes("import time; time.sleep(60)")
        self.caplog = caplog
        caplog.set_level("INFO")
        monkeypatch.setattr(module, "check_network", self._check)
        monkeypatch.setattr(module, "supernode_command", lambda *_arguments: ([sys.executable, str(self.program)], {}))
        self.stopping = threading.Event()
        self.connection = Connection(
            CoordinatorAddress(address="localhost:1"),
            SiteKeys(folder),
            ("127.0.0.1", 1),
            self.stopping,
            timing=Timing(retry_s=0.02, delivery_s=0.0, terminate_s=0.5, last_output_s=0.05),
        )

    def _check(self, *_arguments):
        self.checks += 1
        yield self.says.pop(0) if len(self.says) > 1 else self.says[0]

    def becomes(self, code):
        text = f"import os\nwith open({str(self.starts)!r}, 'a') as f: f.write(f'{{os.getpid()}}\\n')\n"
        self.program.write_text(text + textwrap.dedent(code))

    def pids(self):
        return [int(line) for line in self.starts.read_text().split()]

    def run_until(self, reached, seconds=20):
        """Run until a condition holds, then stop; return how many seconds the end took."""
        thread = threading.Thread(target=self.connection.run)
        thread.start()
        deadline = time.monotonic() + seconds
        try:
            while not reached():
                assert time.monotonic() < deadline, self.caplog.text
                time.sleep(0.02)
        finally:
            started = time.monotonic()
            self.stopping.set()
            thread.join()
        return time.monotonic() - started

    def said(self, text):
        return [r.getMessage() for r in self.caplog.records if r.name == "flower-client" and text in r.getMessage()]


@pytest.fixture
def scene(tmp_path, monkeypatch, caplog):
    return Scene(tmp_path, monkeypatch, caplog)


def alive(pid):
    return Path(f"/proc/{pid}").exists()


def test_it_ends_with_its_child(scene):
    took = scene.run_until(scene.pids)
    assert took < 5
    assert not alive(scene.pids()[0])


def test_a_child_that_does_not_listen_is_killed(scene):
    scene.becomes("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    scene.run_until(scene.pids)
    assert not alive(scene.pids()[0])


def test_it_is_not_started_before_it_would_be_let_in(scene):
    scene.says = [NOT_LISTENING, NOT_LISTENING, NOT_LISTENING, ENROLLED]
    scene.run_until(scene.pids)
    assert len(scene.said("nothing listens")) == 1, "each reason is logged once"
    assert "What to do: wait." in scene.said("nothing listens")[0]


def test_one_that_ends_is_started_again(scene):
    scene.becomes("print('INFO : going', flush=True)")
    scene.run_until(lambda: len(scene.pids()) >= 3)
    assert len(scene.said("the SuperNode ended unexpectedly")) == 1
    assert any("SuperNode: INFO : going" in record.getMessage() for record in scene.caplog.records)
    assert not scene.said("going"), "the SuperNode's output is not for the support log"


def test_one_that_is_refused_after_a_crash_is_tried_again_and_explained(scene):
    scene.becomes("print('ERROR :     Exit Code: 305\\nFailed to initialize', flush=True)")
    scene.run_until(lambda: len(scene.pids()) >= 3)
    assert len(scene.said("After a crash this lasts about 50 s")) == 1


@pytest.mark.parametrize("error", ["[SSL: WRONG_VERSION_NUMBER] wrong version number", "Server error '500'"])
def test_one_whose_loop_has_ended_is_started_again_though_its_process_stays(scene, error):
    line = f"\x1b[91mERROR \x1b[0m:     {error}"
    scene.becomes(f"import time; print({line!r}, flush=True); time.sleep(60)")
    scene.run_until(lambda: len(scene.pids()) >= 2)
    assert scene.said("the SuperNode stopped trying; restarting the SuperNode")
    assert not alive(scene.pids()[0])


@pytest.mark.parametrize("line", ["ERROR :     Failed to send message 1: x", "ERROR:    Exception in ASGI application"])
def test_one_that_goes_on_after_an_error_is_left_alone(scene, tmp_path, line):
    scene.becomes(f"""
        import time
        print({line!r}, flush=True)
        time.sleep(0.5)
        open({str(tmp_path / "later")!r}, "w").close()
        time.sleep(60)
    """)
    scene.run_until((tmp_path / "later").exists)
    assert len(scene.pids()) == 1


def test_the_child_gets_a_home_of_its_own_and_no_working_folder(scene, tmp_path):
    scene.becomes(f"""
        import time
        with open({str(tmp_path / "seen")!r}, "w") as f:
            f.write(os.environ["FLWR_HOME"] + "\\n" + os.getcwd())
        time.sleep(60)
    """)
    scene.run_until((tmp_path / "seen").exists)
    home, folder = (tmp_path / "seen").read_text().splitlines()
    assert home == folder
    assert home != os.environ.get("FLWR_HOME")
    assert not Path(home).exists(), "nothing is left behind"
