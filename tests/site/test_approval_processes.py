"""Real processes: a run waits for the operator of a site, who approves it from another process."""

import signal
import time

import pytest
import yaml
from fixtures.deployment import Deployment

ASKS = "site-02"
RUN = ("federation.min_results=2", "fold=0")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    federation = Deployment(tmp_path_factory.mktemp("approval")).build()
    federation.edit(ASKS, lambda site: site.update(approve="ask"))
    federation.start_sites()
    yield federation
    federation.close()


def waits(federation, run):
    federation.wait_for(ASKS, f"run {run} waits for approval")
    status = federation.server("status")
    assert f"Waiting for approval at {ASKS}" in status, status


@pytest.mark.ci_slow
def test_a_run_waits_until_the_operator_has_approved_it(federation):
    federation.start_run("name=first", *RUN, *federation.experiment)
    waits(federation, "first")
    line = next(line for line in federation.said(ASKS).splitlines() if "waits for approval" in line)
    command = line.split("decide: ")[1].split()
    site_file = str(federation.site(ASKS) / "site.yaml")
    assert command == ["flower-client", "approve", site_file, "first"]
    assert not (federation.site(ASKS) / "state" / "runs").exists()
    approved = time.monotonic()
    refused = federation.call(*command, code=2)  # no terminal; the digest of the screen names the terms
    approval = refused.split("on this screen: ")[1].split()
    assert approval[:-1] == [*command, "--digest"]
    shown = federation.call(*approval)
    assert "4, as the coordinator says: site-01, site-02, site-03, site-04" in shown
    federation.wait_for(ASKS, "facts of run first: answered")
    assert time.monotonic() - approved < 60
    assert federation.finish("coordinator") == 0
    assert set(federation.summary("first")["sites"]) >= {ASKS}
    assert federation.said(ASKS).count("115") == 0  # one line when the run waits, not one for each request
    assert "approved  first" in federation.call("flower-client", "runs", site_file)


@pytest.mark.slow
def test_a_refused_run_goes_on_without_the_site_and_ctrl_c_ends_a_wait(federation):
    site_file = federation.site(ASKS) / "site.yaml"
    federation.start_run("name=second", *RUN, *federation.experiment, label="second")
    waits(federation, "second")
    federation.kill("second", signal.SIGINT)
    assert federation.finish("second", 20) == 130
    federation.call("flower-client", "refuse", site_file, "second", "--yes")  # makes room for the next run at once
    federation.start_run("name=third", *RUN, *federation.experiment, label="third")
    waits(federation, "third")
    federation.call("flower-client", "refuse", site_file, "third", "--yes")
    federation.finish("third")
    assert "the site's operator refused this run" in federation.said("third")
    egress = federation.call("flower-client", "egress", site_file)
    assert "the log is complete" in egress


@pytest.mark.ci_slow
def test_a_client_that_does_not_say_how_runs_are_approved_does_not_start(federation):
    name = "site-04"
    settings = yaml.safe_load((federation.site(name) / "site.yaml").read_text())
    federation.edit(name, lambda site: site.pop("approve"))
    try:
        said = federation.call("flower-client", "train", federation.site(name) / "site.yaml", code=2)
        assert "Add `approve: ask`" in said
    finally:
        (federation.site(name) / "site.yaml").write_text(yaml.safe_dump(settings))
