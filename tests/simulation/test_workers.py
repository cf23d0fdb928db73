"""Worker processes: out of reach of Ctrl-C, ended by the simulation, gone with it; and the first moment."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from fixtures.federation import GENES_ONLY, tiny

from simulation.grid.processes import WorkerContext

SCRIPTS = Path(sysconfig.get_path("scripts"))
linux = pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")


@pytest.fixture
def pool():
    context = WorkerContext()
    with ProcessPoolExecutor(1, mp_context=context) as made:
        yield made, context
        context.end()


def children(pid):
    """Processes that a process started, still there."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def wait_until(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_is_blocked_in_a_worker_and_not_in_who_starts_it(pool):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    executor, _ = pool
    assert signal.SIGINT in executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result(timeout=60)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert signal.SIGINT not in before


def test_a_ctrl_c_of_the_moment_in_which_a_worker_is_started_comes_afterwards():
    """In a process of its own, because the test runner handles Ctrl-C, too."""
    program = """
import signal
from simulation.grid.processes import _ctrl_c_held_back
signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with _ctrl_c_held_back():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # as in a thread that does not block it
        signal.raise_signal(signal.SIGINT)
        print("started")
    print("not interrupted")
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout.split(), done.stderr) == (["started", "True"], "")


def test_a_thread_may_start_workers_too(pool):
    executor, _ = pool
    with ThreadPoolExecutor(1) as threads:
        started = threads.submit(executor.submit, signal.pthread_sigmask, signal.SIG_BLOCK, []).result(timeout=60)
    assert signal.SIGINT in started.result(timeout=60)


def test_a_worker_is_ended_in_the_middle_of_its_work(pool):
    executor, context = pool
    at_work = executor.submit(time.sleep, 600)
    wait_until(lambda: at_work.running())
    context.end()
    with pytest.raises(BrokenProcessPool):
        at_work.result(timeout=60)
    wait_until(lambda: not [process for process in context.started if process.is_alive()])


def start(folder):
    """A simulation without end, with results and all that is temporary in a folder."""
    settings = [s for s in tiny(*GENES_ONLY, "federation.num_rounds=1000") if not s.startswith("device")]
    return subprocess.Popen(
        [SCRIPTS / "flower-simulate", *settings, "workers=2", f"output_dir={folder / 'out'}"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives one
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@linux
@pytest.mark.ci_slow
@pytest.mark.parametrize("when", ["importing", "training"])
def test_ctrl_c_with_workers_is_quiet_and_leaves_nobody(tmp_path, when):
    process = start(tmp_path)
    wait_until(lambda: len(children(process.pid)) >= 3)  # the workers, and the tracker of their resources
    workers = children(process.pid)
    if when == "training":
        wait_until(lambda: list(tmp_path.glob("out/fold-0/journal/round-*.safetensors")))
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert "Error" not in said
    if when == "training":
        assert said.splitlines()[-1].endswith(f"continue with: flower-simulate resume={tmp_path / 'out'}")
    else:
        assert said.splitlines()[-1] == "interrupted; no round was finished, and nothing is left behind"
        assert not list(tmp_path.iterdir())
    wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])


@linux
@pytest.mark.ci_slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_simulation_that_was_killed(tmp_path, number):
    process = start(tmp_path)
    wait_until(lambda: list(tmp_path.glob("out/fold-0/journal/round-*.safetensors")), 120)
    workers = children(process.pid)
    assert len(workers) >= 3
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGTERM else -number)
    wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])


@pytest.mark.parametrize("command", ["client", "server", "simulation"])
def test_ctrl_c_in_the_imports_of_a_command_is_quiet(command):
    """The first import of settings is made to be the moment of Ctrl-C."""
    program = f"""
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "pydantic":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from {command}.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
