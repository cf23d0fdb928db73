"""A coordinator and three sites as real processes: the simulation's numbers, whichever process is killed."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from fixtures.deployment import Deployment
from fixtures.federation import Federation, tiny

from server.exit_codes import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

THREE = tiny(
    "data.synthetic.num_patients=36",
    "data.synthetic.num_sites=3",
    "partition.num_sites=3",
    "agreement.gene_groups=kind",
    "federation.num_rounds=3",
    "strategy=fedadam",  # its moments have to outlive a restart
)
SITES = ("site-01", "site-02", "site-03")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    deployment = Deployment(tmp_path_factory.mktemp("federation"), THREE).build()
    deployment.start_sites()
    yield deployment
    deployment.close()


@pytest.fixture(scope="module")
def simulated():
    """Result of the same sites in one process; they answer as over a network."""
    return Federation(THREE, strict=True).train()


def assert_same_weights(deployment, run, simulated):
    got = deployment.weights(run)
    assert got.keys() == simulated.weights.keys()
    for name, wanted in simulated.weights.items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)


def run_of(deployment, name, *settings):
    return ("fold=0", f"name={name}", *settings, *deployment.experiment)


def test_deployed_gives_the_numbers_of_the_simulation(federation, simulated):
    federation.server("run", *run_of(federation, "undisturbed"))
    assert_same_weights(federation, "undisturbed", simulated)
    summary = federation.summary("undisturbed")
    assert (summary["c_index_histogram"], summary["c_index_within_site"]) == (None, None)
    assert "do not leave a site that answers alone" in summary["without_c_index"]
    assert (federation.federation / "runs" / "undisturbed" / "figures" / "learning_curves.png").is_file()
    assert summary["closing_evaluation"]["loss"] == pytest.approx(simulated.evaluation.loss, rel=1e-4)


def test_a_killed_superlink_is_started_again_and_the_run_goes_on(federation, simulated):
    federation.start_run(*run_of(federation, "link-killed"), label="link-killed")
    federation.wait_for("link-killed", "round 1 of 3 done")
    os.kill(federation.superlink("link-killed"), signal.SIGKILL)
    assert federation.finish("link-killed") == ExitCode.DONE
    assert "the SuperLink ended (-9); it is started again" in federation.said("link-killed")
    assert_same_weights(federation, "link-killed", simulated)


def test_a_killed_coordinator_is_resumed_with_the_same_numbers(federation, simulated):
    run = federation.start_run(*run_of(federation, "killed"), label="killed")
    federation.wait_for("killed", "round 2 of 3 done")
    superlink = federation.superlink("killed")
    run.kill()
    run.wait()
    deadline = time.monotonic() + 10
    while (Path("/proc") / str(superlink)).exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    said = federation.server("run", "resume=killed")
    assert "resuming after round 2" in said
    assert "round 1 of 3 done" not in said
    assert_same_weights(federation, "killed", simulated)
    lines = (federation.federation / "runs" / "killed" / "metrics.jsonl").read_text().splitlines()
    assert [(json.loads(line)["round"], json.loads(line)["site"]) for line in lines] == [
        (server_round, site) for server_round in (1, 2, 3) for site in SITES
    ]
    assert "is finished" in federation.server("run", "resume=killed", code=ExitCode.MISTAKE)


def test_status_and_stop_from_another_terminal(federation):
    assert "no run is in progress" in federation.server("status", code=ExitCode.NOT_RUNNING)
    experiment = tuple(o for o in federation.experiment if not o.startswith("federation.num_rounds"))
    settings = ("fold=0", *experiment, "federation.num_rounds=100")
    run = federation.start_run("name=stopped", *settings, label="stopped")
    federation.wait_for("stopped", "round 1 of 100 done")
    said = federation.server("status")
    assert f"stopped (process {run.pid}). Round " in said
    assert "is in progress in process" in federation.server("run", *settings, code=ExitCode.BUSY)
    assert "the run has ended" in federation.server("stop")
    assert federation.finish("stopped", 5) == ExitCode.INTERRUPTED
    assert "flower-server run resume=stopped" in federation.said("stopped")
    assert "no run is in progress" in federation.server("stop", code=ExitCode.NOT_RUNNING)
    federation.start_run("resume=stopped", label="resumed")
    federation.wait_for("resumed", "resuming after round")
    federation.wait_for("resumed", "of 100 done")
    superlink = federation.superlink("resumed")
    federation.kill("resumed", signal.SIGTERM)
    assert federation.finish("resumed", 10) == ExitCode.INTERRUPTED
    assert not (Path("/proc") / str(superlink)).exists()


def test_a_site_that_is_killed_is_left_out_and_comes_back(federation):
    settings = ("federation.min_results=2", "federation.round_timeout_s=120", "federation.num_rounds=4")
    experiment = tuple(o for o in federation.experiment if not o.startswith("federation.num_rounds"))
    federation.start_run("fold=0", "name=site-killed", *experiment, *settings, label="site-killed")
    federation.wait_for("site-killed", "round 1 of 4 done")
    os.killpg(federation.processes["site-03"].pid, signal.SIGKILL)
    federation.finish("site-03", 15)
    federation.wait_for("site-killed", "round 2 of 4 done", 200)
    federation.start_sites("site-03")
    assert federation.finish("site-killed", 400) == ExitCode.INCOMPLETE
    failures = {line["site"] for line in federation.summary("site-killed")["failures"]}
    assert failures == {"site-03"}


def test_a_run_without_enough_sites_ends_and_says_who_is_missing(federation):
    federation.call("flower-client", "keygen", federation.root / "late-keys")
    federation.server("enroll", "late", federation.root / "late-keys" / "node.pub")
    said = federation.server("run", *run_of(federation, "few", "wait_s=20"), code=ExitCode.UNFINISHED)
    assert "3 of 4 sites are connected" in said
    assert "Not connected: late" in said
    assert "resume=few" in said
    federation.server("run", "resume=few", "wait_s=20", "min_sites=3", code=ExitCode.INCOMPLETE)
    federation.server("remove", "late")
    assert federation.summary("few")["num_sites"] == 3


def test_a_full_disk_ends_the_run_with_a_whole_journal(federation, simulated):
    runs = federation.federation / "runs"
    size = 100  # kB: enough for the state of a round, not for two
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", runs], check=False)
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        said = federation.server("run", *run_of(federation, "full"), code=ExitCode.UNFINISHED)
        assert "No space left on device" in said
        assert "resume=full" in said
        subprocess.run(["mount", "-o", "remount,size=50m", runs], check=True)
        federation.server("run", "resume=full")
        assert_same_weights(federation, "full", simulated)
    finally:
        subprocess.run(["umount", runs], check=True)


def test_a_site_that_calls_itself_otherwise_does_not_take_part(federation):
    """Last test: it changes a site for good. The key identifies the site, not its site.yaml."""
    federation.kill("site-03", signal.SIGTERM)
    federation.finish("site-03", 15)
    federation.edit("site-03", lambda site: site.update(name="site-01"))
    federation.start_sites("site-03")
    federation.server("run", *run_of(federation, "impostor", "federation.min_results=2"), code=ExitCode.INCOMPLETE)
    summary = federation.summary("impostor")
    assert set(summary["sites"]) == {"site-01", "site-02"}
    assert summary["left_out"] == {"site-03": "its name is 'site-01'; expected site-03. Correct name in its site.yaml"}
