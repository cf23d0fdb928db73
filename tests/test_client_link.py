"""The link with a SuperNode of the test's own: started when it would be let in, explained, started again, ended."""

import os
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from client import link as module
from client.findings import error, ok, warning
from client.keys import SiteKeys
from client.link import Link
from client.network import KEY, PORT
from memamba_core.config.site import CoordinatorAddress

LET_IN = ok(KEY, "known")
NOT_LET_IN = error(KEY, "it does not know SHA256:abc", "compare the fingerprint")
NOBODY = warning(PORT, "nothing listens", "wait")


class Scene:
    """What the coordinator says in turn, what the SuperNode does, and what the log says."""

    def __init__(self, folder, monkeypatch, caplog):
        self.says, self.checks, self.starts = [LET_IN], 0, folder / "starts"
        self.starts.touch()
        self.program = folder / "supernode.py"
        self.becomes("import time; time.sleep(60)")
        self.caplog = caplog
        caplog.set_level("INFO")
        for name, seconds in (("_PAUSE_S", 0.02), ("_DELIVERY_S", 0.0), ("_TWICE_S", 0.02), ("_EARLY_S", 0.0)):
            monkeypatch.setattr(module, name, seconds)
        monkeypatch.setattr(module, "check_network", self._check)
        monkeypatch.setattr(module, "supernode_command", lambda *_arguments: ([sys.executable, str(self.program)], {}))
        self.stopping = threading.Event()
        self.link = Link(CoordinatorAddress(address="localhost:1"), SiteKeys(folder), ("127.0.0.1", 1), self.stopping)

    def _check(self, *_arguments):
        self.checks += 1
        yield self.says.pop(0) if len(self.says) > 1 else self.says[0]

    def becomes(self, code):
        text = f"import os\nwith open({str(self.starts)!r}, 'a') as f: f.write(f'{{os.getpid()}}\\n')\n"
        self.program.write_text(text + textwrap.dedent(code))

    def pids(self):
        return [int(line) for line in self.starts.read_text().split()]

    def run_until(self, reached, seconds=20):
        """Run until something is so; then end it, and give back how long the end took."""
        thread = threading.Thread(target=self.link.run)
        thread.start()
        deadline = time.monotonic() + seconds
        try:
            while not reached():
                assert time.monotonic() < deadline, self.caplog.text
                time.sleep(0.02)
        finally:
            begun = time.monotonic()
            self.stopping.set()
            thread.join()
        return time.monotonic() - begun

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


def test_a_child_that_does_not_listen_is_killed(scene, monkeypatch):
    monkeypatch.setattr(module, "_END_S", 0.2)
    scene.becomes("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)")
    scene.run_until(scene.pids)
    assert not alive(scene.pids()[0])


def test_it_is_not_started_before_it_would_be_let_in(scene):
    scene.says = [NOBODY, NOBODY, NOBODY, LET_IN]
    scene.run_until(scene.pids)
    assert len(scene.said("nothing listens")) == 1, "each reason is told once"
    assert "What to do: wait." in scene.said("nothing listens")[0]


def test_a_refused_key_is_at_first_taken_for_the_end_of_a_crash(scene, monkeypatch):
    monkeypatch.setattr(module, "_OLD_CONNECTION_S", 0.1)
    scene.says = [NOT_LET_IN]
    scene.run_until(lambda: scene.said("SHA256:abc"))
    assert len(scene.said("After a crash")) == 1
    assert scene.pids() == []


def test_one_that_ends_is_started_again(scene):
    scene.becomes("print('INFO : going', flush=True)")
    scene.run_until(lambda: len(scene.pids()) >= 3)
    assert len(scene.said("the SuperNode ended")) >= 2
    assert any("SuperNode: INFO : going" in record.getMessage() for record in scene.caplog.records)
    assert not scene.said("going"), "what it writes is not for the support log"


GIVES_UP = "import time; print('\\x1b[91mERROR\\x1b[0m: SSL/TLS handshake error detected.', flush=True); time.sleep(60)"


def test_one_that_has_given_up_is_started_again(scene):
    scene.becomes(GIVES_UP)
    scene.run_until(lambda: len(scene.pids()) >= 2)
    assert scene.said("has given up its connection")
    assert not alive(scene.pids()[0])


def test_one_that_is_connected_is_left_alone_whatever_it_writes(scene, monkeypatch):
    """A key that the coordinator does not let in is one that is connected."""
    monkeypatch.setattr(module, "_OLD_CONNECTION_S", 0.1)
    scene.becomes(GIVES_UP)
    scene.says = [LET_IN, NOT_LET_IN]
    scene.run_until(lambda: scene.checks > 4)
    assert len(scene.pids()) == 1


def test_one_let_in_alone_is_not_enough(scene, monkeypatch):
    """Between two heartbeats of one that is alive the key may be let in for a moment."""
    monkeypatch.setattr(module, "_OLD_CONNECTION_S", 0.1)
    scene.becomes(GIVES_UP)
    scene.says = [LET_IN, LET_IN, NOT_LET_IN]
    scene.run_until(lambda: scene.checks > 4)
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
