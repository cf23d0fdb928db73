"""Interrupts: training stops at any point; work that must be completed does not."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from client import interrupts as module
from client.exit_codes import ExitCode
from client.interrupts import StopRequested, TaskLost, TimeOver, finish_once_begun


def later(action, seconds=0.05):
    timer = threading.Timer(seconds, action)
    timer.start()
    return timer


def work(seconds=5.0):
    """Run a long loop that Python can interrupt."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_breaks_off_what_may_be_broken_off(interrupts, number):
    later(lambda: os.kill(os.getpid(), number))
    started = time.monotonic()
    with pytest.raises(StopRequested), interrupts.breakable():
        work()
    assert time.monotonic() - started < 4
    assert interrupts.stopping.is_set()


def test_it_does_not_touch_anything_else(interrupts):
    interrupts.stop()
    work(0.05)
    assert interrupts.stopping.is_set()


def test_no_work_begins_after_a_request_to_stop(interrupts):
    interrupts.stop()
    work(0.05)
    with pytest.raises(StopRequested), interrupts.breakable():
        pytest.fail("the work began")


def test_a_lost_task_is_left(interrupts):
    later(interrupts.lose)
    with pytest.raises(TaskLost), interrupts.breakable():
        work()
    assert not interrupts.stopping.is_set()
    with interrupts.breakable():
        work(0.05)


def test_time_runs_out(interrupts):
    started = time.monotonic()
    with pytest.raises(TimeOver), interrupts.breakable(limit_s=0.05):
        work()
    assert time.monotonic() - started < 4


def test_time_that_ran_out_unnoticed_counts_too(interrupts):
    """A library may swallow the interrupt; its late result is not used either."""

    def swallow():
        with contextlib.suppress(TimeOver):
            work()

    with pytest.raises(TimeOver), interrupts.breakable(limit_s=0.05):
        swallow()


def test_work_in_time_is_left_alone_also_afterwards(interrupts):
    with interrupts.breakable(limit_s=0.2):
        work(0.01)
    work(0.3)
    with interrupts.breakable():
        work(0.05)


def test_an_interrupt_passes_through_a_handler_of_errors(interrupts):
    """ClientApp code catches `Exception`; an interrupt is not one."""

    def careless():
        with contextlib.suppress(Exception):
            work()

    with pytest.raises(TimeOver), interrupts.breakable(limit_s=0.05):
        careless()
    started = time.monotonic()
    with pytest.raises(TimeOver), interrupts.breakable(limit_s=0.05):
        careless()
    assert time.monotonic() - started < 4


PROGRAM = """
import client.interrupts as module, time
module.GRACE_S = 0.5
interrupts = module.Interrupts()
print("ready", flush=True)
while True:
    time.sleep(1)
"""


def test_a_process_that_does_not_listen_ends_all_the_same():
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(20) == ExitCode.INTERRUPTED
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


def test_the_grace_is_shorter_than_the_ten_seconds_of_a_container_engine():
    assert module.GRACE_S < 10


def test_work_that_was_charged_is_finished_although_its_task_is_lost(interrupts):
    with interrupts.breakable():
        with finish_once_begun():
            later(interrupts.lose)
            work(0.3)
        with pytest.raises(ZeroDivisionError), finish_once_begun():
            _ = 1 / 0
    later(interrupts.lose)
    with pytest.raises(TaskLost), interrupts.breakable():
        work()


def test_a_request_to_stop_ends_work_that_was_charged(interrupts):
    later(interrupts.stop)
    with pytest.raises(StopRequested), interrupts.breakable(), finish_once_begun():
        work()


def test_a_pause_of_the_process_does_not_count_towards_the_time_limit(interrupts, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_STEP_S", 0.2)
    program = "import os, signal, sys, time; os.kill(int(sys.argv[1]), signal.SIGSTOP); time.sleep(2); "
    program += "os.kill(int(sys.argv[1]), signal.SIGCONT)"
    with interrupts.breakable(1.5):
        subprocess.run([sys.executable, "-c", program, str(os.getpid())], check=True)
        work(0.1)
    with pytest.raises(TimeOver), interrupts.breakable(0.2):
        work()
