"""A hostile site over the wire: an enrolled key, this protocol, a stock SuperNode, and its own program."""

import http.client
import json
import ssl
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from fixtures.deployment import Deployment
from fixtures.federation import tiny
from fixtures.hostile_answers import ESCAPE, LIES
from fixtures.odd_site import PATIENT

from memamba_core.wire.protocol import Refusal
from server.exit_codes import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

THREE = tiny(
    "data.synthetic.num_patients=36",
    "data.synthetic.num_sites=3",
    "partition.num_sites=3",
    "agreement.gene_groups=kind",
    "model.experts=[genomics]",
    f"federation.num_rounds={len(LIES)}",
    "federation.min_results=2",
)
HONEST = {"site-01", "site-02"}
LIAR = "site-03"


@pytest.fixture
def federation(tmp_path):
    deployment = Deployment(tmp_path, THREE).build()
    yield deployment
    deployment.close()


def start(federation, what):
    federation.start_sites(*HONEST)
    odd = Path(__file__).parents[1] / "fixtures" / "odd_site.py"
    federation.start(LIAR, "python", odd, what, "run", federation.site(LIAR) / "site.yaml")
    federation.start_run("fold=0", "name=run", *federation.experiment)


def status_of_a_request_of(federation, claimed):
    """HTTP status of a request that declares this number of bytes."""
    trust = ssl.create_default_context(cafile=str(federation.federation / "pki" / "ca.crt"))
    with closing(http.client.HTTPSConnection("127.0.0.1", federation.port, context=trust, timeout=30)) as connection:
        connection.putrequest("POST", "/v1/fleet/push-object")
        connection.putheader("content-length", str(claimed))
        connection.endheaders()
        return connection.getresponse().status


def all_that_the_coordinator_wrote(federation):
    folder = federation.federation / "runs" / "run"
    texts = [path.read_text() for path in folder.glob("*") if path.suffix in {".log", ".json", ".jsonl"}]
    return "\n".join([federation.said("coordinator"), *texts])


def test_every_lie_is_left_out_and_named_and_the_rounds_go_on(federation):
    start(federation, "lies")
    federation.wait_for("coordinator", "round 1 of")
    assert status_of_a_request_of(federation, 10**10) == 413
    assert federation.finish("coordinator", 600) == ExitCode.INCOMPLETE
    attendance = federation.summary("run")["attendance"]
    assert attendance["text"].startswith("2 of 3 sites, ")
    assert attendance["text"] in federation.said("coordinator")
    assert attendance["missed_rounds"] == {LIAR: len(LIES)}

    lines = (federation.federation / "runs" / "run" / "metrics.jsonl").read_text().splitlines()
    trained = {(line["round"], line["site"]) for line in map(json.loads, lines) if "trained" in line}
    assert trained == {(number + 1, site) for number in range(len(LIES)) for site in HONEST}
    failures = {
        line["round"]: line["failure"] for line in federation.summary("run")["failures"] if line["site"] == LIAR
    }
    for number, (name, (_, words)) in enumerate(LIES.items()):
        assert words in failures[number + 1], name
        assert f"round {number + 1}: {LIAR} is left out: {failures[number + 1]}" in federation.said("coordinator")
    assert all(np.isfinite(array).all() for array in federation.weights("run").values())
    assert f"closing evaluation: {LIAR} is left out: {Refusal.INTERNAL.text}" in federation.said("coordinator")

    written = all_that_the_coordinator_wrote(federation)
    assert ESCAPE not in written
    assert PATIENT not in written, "words of an error are not repeated"
    assert max(map(len, written.splitlines())) < 2000


def test_a_site_of_a_billion_patients_does_not_take_part(federation):
    start(federation, "lies_of_its_size")
    federation.wait_for("coordinator", "round 1 of")
    federation.server("stop")
    assert f"{LIAR} does not take part: size_band is 1000000000; expected one of" in federation.said("coordinator")
