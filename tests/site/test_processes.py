"""Faulty sites as real processes: texts at the coordinator, texts at the site, and files that remain."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from fixtures.deployment import Deployment
from fixtures.federation import tiny
from fixtures.odd_site import OLD_VERSION, PATIENT

from client.exit_codes import ExitCode
from memamba_core.privacy.egress import EgressLog
from memamba_core.training.checkpoint import load_checkpoint
from memamba_core.wire.protocol import Refusal, package_version
from server import exit_codes as server_codes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

THREE = tiny(
    "data.synthetic.num_patients=36",
    "data.synthetic.num_sites=3",
    "partition.num_sites=3",
    "agreement.gene_groups=kind",
    "model.experts=[genomics]",
)
ODD = Path(__file__).parents[1] / "fixtures" / "odd_site.py"


@pytest.fixture
def federation(tmp_path):
    deployment = Deployment(tmp_path, THREE).build()
    yield deployment
    deployment.close()


def start_odd(federation, name, fault, command="run", *options):
    """Start a site with one fault."""
    return federation.start(name, "python", ODD, fault, command, federation.site(name) / "site.yaml", *options)


def run_of(federation, name, *settings):
    changed = {setting.split("=")[0] for setting in settings}
    kept = [o for o in federation.experiment if o.split("=")[0] not in changed]
    return ("fold=0", f"name={name}", *kept, *settings)


def everything_at_the_coordinator(federation):
    """Return all bytes of the coordinator's folder, database and logs."""
    files = [p for p in federation.federation.rglob("*") if p.is_file()]
    return b"".join(p.read_bytes() for p in [*files, federation.root / "coordinator.log"])


def egress_records(federation, name):
    return EgressLog(federation.site(name) / "state").read()


def test_an_error_with_a_patient_and_a_slow_site(federation):
    """Each site refuses with a fixed text; the third site continues to train."""
    federation.edit("site-03", lambda site: site["limits"].update(minutes_per_round=0.05))
    federation.start_sites("site-01")
    start_odd(federation, "site-02", "raises_with_a_patient")
    start_odd(federation, "site-03", "is_slow")
    federation.start_run(*run_of(federation, "run", "federation.num_rounds=1", "federation.min_results=1"))
    assert federation.finish("coordinator") == server_codes.ExitCode.INCOMPLETE
    failed = {line["site"]: line["failure"] for line in federation.summary("run")["failures"]}
    assert failed == {"site-02": Refusal.INTERNAL.text, "site-03": Refusal.TIME.text}
    assert PATIENT.encode() not in everything_at_the_coordinator(federation)
    assert PATIENT not in federation.said("site-02"), "the support log may be sent away"
    assert PATIENT in (federation.site("site-02") / "state" / "site.log").read_text(), "the private log has the reason"
    for name, refusal in (("site-02", Refusal.INTERNAL), ("site-03", Refusal.TIME)):
        (line,) = [d for d in egress_records(federation, name) if d.phase == "train"]
        assert line.text == f"{refusal.code}: {refusal.text}"
    for name in ("site-01", "site-02", "site-03"):  # the closing request reached every site
        kept = load_checkpoint(federation.site(name) / "state" / "runs" / "run")
        assert kept.weights.keys() == federation.weights("run").keys()


def test_a_site_that_is_killed_in_a_round_reads_why_it_has_to_wait_and_continues(federation):
    federation.start_sites("site-01")
    start_odd(federation, "site-02", "is_held")  # keeps round 1 open until the other site is back
    start_odd(federation, "site-03", "is_held")
    federation.start_run(*run_of(federation, "run", "federation.num_rounds=2", "federation.min_results=2"))
    wait_for_training(federation, "site-03")
    site = federation.site("site-03")
    for process in supernodes(site):  # as when a machine or a container dies: no node unregisters at the coordinator
        os.kill(process, signal.SIGKILL)
    federation.kill("site-03", signal.SIGKILL)
    federation.finish("site-03")
    federation.wait_until(lambda: not supernodes(site), "the SuperNode is gone", 10)
    federation.start_sites("site-03")
    federation.wait_for("site-03", "After a crash this lasts about 50 s", 90)
    federation.wait_until(lambda: federation.connections("site-03") == 2, "site-03 is connected again")
    release(federation, "site-02")
    assert federation.finish("coordinator") in (server_codes.ExitCode.DONE, server_codes.ExitCode.INCOMPLETE)
    failed = {(line["round"], line["site"]) for line in federation.summary("run")["failures"]}
    assert failed <= {(1, "site-03")}, "a site that is back before it was missed is asked again"
    assert "evaluate of run run: answered" in federation.said("site-03"), "the site restored its run from its own disk"
    assert [d.phase for d in egress_records(federation, "site-03")].count("facts") == 1
    load_checkpoint(site / "state" / "runs" / "run")


def wait_for_training(federation, name):
    """Wait until a site with `is_held` is in the middle of a round."""
    started = federation.site(name) / "training"
    federation.wait_until(started.exists, f"{name} trains")
    started.unlink()


def release(federation, name):
    """Let a held site finish this round and every later one."""
    (federation.site(name) / "release").touch()


def supernodes(site: Path) -> list[int]:
    """Return the processes of the stock SuperNode with this site's key."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().decode(errors="replace")
        except OSError:  # it ended
            continue
        if str(site / "keys" / "node.key") in command:
            found.append(int(entry.parent.name))
    return found


def test_connector_and_executor_apart_and_the_executor_killed(federation):
    """As in two containers: the executor dies in a round, a new one continues, and is stopped in a later round."""
    site = federation.site("site-03")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        runtime = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--runtime", runtime, "--log-format", "json")
    federation.start_sites("site-01", "site-02")
    federation.start("connector", "flower-client", "connect", site / "site.yaml", *options)
    start_odd(federation, "site-03", "is_held", "train", *options)
    settings = ("federation.num_rounds=3", "federation.min_results=2")
    federation.start_run(*run_of(federation, "run", *settings))
    wait_for_training(federation, "site-03")
    federation.kill("site-03", signal.SIGKILL)
    federation.finish("site-03")
    start_odd(federation, "site-03", "is_held", "train", *options)
    federation.wait_for("site-01", "train, round 2", 200)
    wait_for_training(federation, "site-03")
    started = time.monotonic()
    federation.kill("site-03", signal.SIGTERM)
    assert federation.finish("site-03", 15) == ExitCode.DONE
    assert time.monotonic() - started < 10
    assert federation.finish("coordinator") == server_codes.ExitCode.INCOMPLETE
    lines = egress_records(federation, "site-03")
    assert f"{Refusal.STOPPED.code}: {Refusal.STOPPED.text}" in [line.text for line in lines]
    failures = {(line["round"], line["failure"]) for line in federation.summary("run")["failures"]}
    assert (2, Refusal.STOPPED.text) in failures, "the answer arrived"
    assert (3, Refusal.ABSENT.text) in failures, "the connector refused on behalf of the absent executor"
    assert all(line.startswith('{"time"') for line in federation.said("connector").splitlines())
    started = time.monotonic()
    federation.kill("connector", signal.SIGTERM)
    assert federation.finish("connector", 15) == ExitCode.DONE
    assert time.monotonic() - started < 10
    assert not supernodes(site)


def test_a_clock_that_is_ahead_and_an_old_version_are_named(federation):
    federation.start_sites("site-01")
    start_odd(federation, "site-02", "is_early")
    start_odd(federation, "site-03", "is_old")
    federation.start_run(*run_of(federation, "run", "federation.num_rounds=1", "min_sites=1", "wait_s=45"))
    assert federation.finish("coordinator") == server_codes.ExitCode.INCOMPLETE
    assert set(federation.summary("run")["sites"]) == {"site-01"}
    assert re.search(r"this machine's clock is \d+ s ahead of the coordinator's", federation.said("site-02"))
    assert "set the clock by NTP" in federation.said("site-02")
    both = f"the site runs version {OLD_VERSION} .*; this coordinator runs version {re.escape(package_version())}"
    assert re.search(both, federation.said("coordinator"))
    reason = (federation.site("site-03") / "state" / "site.log").read_text()
    assert f"the coordinator runs version {package_version()}" in reason
    assert f"this site {OLD_VERSION}" in reason


class Wire:
    """Relay of TCP between a site and its coordinator; when broken, it answers in plain text, as load balancers do."""

    def __init__(self, port: int) -> None:
        self.broken = threading.Event()
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self.broken.set()
        self._hang_up()

    def close(self) -> None:
        self._listener.close()
        self._hang_up()

    def _hang_up(self) -> None:
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # closed
                return
            if self.broken.is_set():
                near.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=[one, other], daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65_536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


def test_a_connection_that_breaks_in_the_handshake_comes_back(federation):
    """Flower's SuperNode treats the failure as a wrong certificate and stops trying, while its process stays."""
    wire = Wire(federation.port)
    try:
        federation.edit("site-03", lambda site: site["coordinator"].update(address=f"127.0.0.1:{wire.port}"))
        federation.start_sites("site-02", "site-03")
        start_odd(federation, "site-01", "is_held")  # keeps round 1 open until the other site is back
        federation.start_run(*run_of(federation, "run", "federation.num_rounds=2", "federation.min_results=2"))
        federation.wait_for("site-03", "train, round 1")
        delivered = "Round 1 of 2: 2 of 3 sites returned, waiting for site-01"
        federation.wait_until(lambda: delivered in federation.server("status"), "site-03 has delivered its answer")
        wire.cut()
        federation.wait_for("site-03", "the SuperNode stopped trying; restarting the SuperNode")
        wire.broken.clear()
        federation.wait_until(lambda: federation.connections("site-03") == 2, "site-03 is connected again")
        release(federation, "site-01")
        assert federation.finish("coordinator", 400) == server_codes.ExitCode.DONE
        assert "train, round 2 of run run: answered" in federation.said("site-03")
        assert "evaluate of run run: answered" in federation.said("site-03")
    finally:
        wire.close()
