"""Pauses of real processes at their real length: 90 s of SIGSTOP of either side, and a site cut off for six minutes.

A process that is stopped notices nothing; its peers' clocks advance. As in a suspended machine or a frozen container.
"""

import json
import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from fixtures.deployment import Deployment
from fixtures.federation import tiny

from memamba_core.privacy.egress import EgressLog
from server.exit_codes import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

PAUSE_S = 90.0
CUT_S = 360.0
TWO = tiny(
    "data.synthetic.num_patients=24",
    "data.synthetic.num_sites=2",
    "partition.num_sites=2",
    "agreement.gene_groups=kind",
    "model.experts=[genomics]",
)
ODD = Path(__file__).parents[1] / "fixtures" / "odd_site.py"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("pauses"), TWO).build()
    yield deployment
    deployment.close()


@pytest.fixture
def federation(built):
    """The federation without running sites and without marks of earlier tests."""
    for mark in built.root.glob("sites/*/*"):
        if mark.name in ("training", "release"):
            mark.unlink()
    yield built
    built.close()
    for log in (*built.root.glob("*.log"), *built.root.glob("sites/*/state/site.log")):
        log.rename(log.with_suffix(f".{len(list(log.parent.glob('*')))}"))
    built.processes.clear()


def start_held(federation, name="site-02", *options, label="site-02", command="run"):
    """Start a site that stays in its first training round until `release`."""
    federation.start(label, "python", ODD, "is_held", command, federation.site(name) / "site.yaml", *options)


def run_of(federation, name, *settings):
    changed = {setting.split("=")[0] for setting in settings}
    kept = [o for o in federation.experiment if o.split("=")[0] not in changed]
    return ("fold=0", f"name={name}", "wait_s=900", *kept, *settings)


def start_run_of_all(federation, name):
    """Start a run of two rounds in which every site is needed, and wait until a held site trains."""
    federation.start_run(*run_of(federation, name, "federation.min_results=2", "federation.num_rounds=2"))
    federation.wait_until((federation.site("site-02") / "training").exists, "site-02 trains", 400)


def descendants(pid):
    """Return a process and all processes that it started."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found


@contextmanager
def stopped(*processes):
    """Stop processes for the length of the block."""
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def pause(*processes, seconds=PAUSE_S):
    with stopped(*processes):
        time.sleep(seconds)


def finish(federation):
    (federation.site("site-02") / "release").touch()
    assert federation.finish("coordinator", 900) == ExitCode.DONE, federation.said("coordinator")


def trainings(federation, run, name):
    """Return the rounds of a run in which a site's answer left, refusals included, in their order."""
    records = EgressLog(federation.site(name) / "state").read()
    return [record.server_round for record in records if record.run_id == run and record.phase == "train"]


def assert_no_round_lost(federation, run):
    assert federation.summary(run)["failures"] == []
    lines = (federation.federation / "runs" / run / "metrics.jsonl").read_text().splitlines()
    assert [(json.loads(line)["round"], json.loads(line)["site"]) for line in lines] == [
        (server_round, site) for server_round in (1, 2) for site in ("site-01", "site-02")
    ]


def test_the_coordinator_stands_still(federation):
    federation.start_sites("site-01")
    start_held(federation)
    start_run_of_all(federation, "coordinator")
    pause(federation.processes["coordinator"].pid)
    finish(federation)
    assert "stood still for" in federation.said("coordinator")
    assert_no_round_lost(federation, "coordinator")
    assert trainings(federation, "coordinator", "site-01") == trainings(federation, "coordinator", "site-02") == [1, 2]
    assert federation.connections("site-02") == 1, "its SuperNode was not restarted"


def test_the_superlink_stands_still(federation):
    federation.start_sites("site-01")
    start_held(federation)
    start_run_of_all(federation, "superlink")
    pause(federation.superlink())
    finish(federation)
    assert "stood still for" in federation.said("coordinator")
    assert_no_round_lost(federation, "superlink")
    for name in ("site-01", "site-02"):
        assert trainings(federation, "superlink", name) in ([1, 2], [1, 1, 2]), "an answer may get lost and is repeated"
        assert federation.connections(name) == 1, "its SuperNode was not restarted"


def test_both_sides_stand_still(federation):
    federation.start_sites("site-01")
    start_held(federation)
    start_run_of_all(federation, "both")
    coordinator, site = (descendants(federation.processes[label].pid) for label in ("coordinator", "site-02"))
    pause(*coordinator, *site)
    finish(federation)
    assert_no_round_lost(federation, "both")


@pytest.mark.parametrize("half", ["connector", "site-02"])
def test_a_half_of_a_site_stands_still(federation, half):
    """The SuperNode gives up the task of its executor after a minute; the request is repeated and answered."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = ("--runtime", f"127.0.0.1:{free.getsockname()[1]}")
    federation.start_sites("site-01")
    federation.start("connector", "flower-client", "connect", federation.site("site-02") / "site.yaml", *options)
    start_held(federation, "site-02", *options, command="train")
    start_run_of_all(federation, f"half-{half}")
    pause(*descendants(federation.processes[half].pid))
    finish(federation)
    assert_no_round_lost(federation, f"half-{half}")


def test_a_site_that_is_cut_off_is_waited_for_if_it_is_needed(federation):
    federation.start_sites("site-01")
    start_held(federation)
    start_run_of_all(federation, "needed")
    (supernode,) = descendants(federation.processes["site-02"].pid)[1:]
    with stopped(supernode):
        federation.wait_for("coordinator", "site-02: not connected; waiting for the return", 200)
        time.sleep(CUT_S)
    finish(federation)
    assert_no_round_lost(federation, "needed")


def test_a_site_that_is_cut_off_costs_rounds_if_it_is_not_needed(federation):
    federation.start_sites("site-01", "site-02")
    settings = ("federation.min_results=1", "federation.num_rounds=100")
    federation.start_run(*run_of(federation, "spare", *settings))
    federation.wait_for("coordinator", "round 1 of 100 done: 2 of 2 sites", 400)
    (supernode,) = descendants(federation.processes["site-02"].pid)[1:]
    pause(supernode, seconds=CUT_S)
    missed = federation.said("coordinator").count("done: 1 of 2 sites")
    assert missed >= 5
    federation.wait_until(
        lambda: "2 of 2 sites" in federation.said("coordinator").rpartition("done: 1 of 2 sites")[2],
        "site-02 takes part again",
        300,
    )
    federation.server("stop")
    federation.finish("coordinator", 30)
    after = federation.said("coordinator").rpartition("done: 1 of 2 sites")[0].count("done: 1 of 2 sites")
    answered = trainings(federation, "spare", "site-02")
    assert len(answered) <= len(set(answered)) + 1, "it did not work through the rounds that it missed"
    assert after - missed <= 5


def test_a_resume_after_a_pause_finds_every_living_site(federation):
    federation.start_sites("site-01")
    start_held(federation)
    start_run_of_all(federation, "resumed")
    coordinator = federation.processes["coordinator"]
    pause(coordinator.pid)
    coordinator.kill()
    coordinator.wait()
    (federation.site("site-02") / "release").touch()
    time.sleep(5)
    federation.start_run("resume=resumed", label="coordinator")
    assert federation.finish("coordinator", 900) == ExitCode.DONE, federation.said("coordinator")
    assert_no_round_lost(federation, "resumed")
