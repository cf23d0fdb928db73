"""Strangers at the open port of a real SuperLink, and of a run: sites keep working, memory and log stay small."""

import datetime as dt
import logging
import os
import resource
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures.deployment import Deployment, free_ports
from fixtures.federation import tiny
from fixtures.port_attacks import Stranger, openssh, peak_memory, resident_memory

from client.flower.tasks import KeyStatus, check_key_at_coordinator
from memamba_core.config.coordinator import CoordinatorConfig
from server.admin.folder import create_folder
from server.flower.control import Control
from server.flower.superlink import SuperLink

MOST_GROWTH = 100  # MB
MANY = tuple(f"127.0.1.{i}" for i in range(1, 200))
TWO = tiny(
    "data.synthetic.num_patients=24",
    "data.synthetic.num_sites=2",
    "partition.num_sites=2",
    "agreement.gene_groups=kind",
    "model.experts=[genomics]",
)


@pytest.fixture(scope="module", autouse=True)
def files():
    """Allow this process the files of an attacker, but start the coordinator with the usual 1,024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[1], 8192), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    """A SuperLink with one registered site."""
    port, loopback = free_ports()
    config = CoordinatorConfig(addresses=("127.0.0.1",), port=port, listen_host="127.0.0.1", loopback_port=loopback)
    folder = create_folder(tmp_path_factory.mktemp("federation") / "folder", config)
    key = ec.generate_private_key(ec.SECP384R1())
    roster = folder.change_roster(lambda roster: roster.enroll("county", openssh(key), dt.datetime.now(dt.UTC)))
    with SuperLink(folder) as link:
        control = Control(link.address, folder.pki.ca_certificate)
        control.register({"county": roster.get("county").public_key_pem})
        trust = ssl.create_default_context(cafile=str(folder.pki.ca_certificate))
        link.site_gets_in = lambda: (
            check_key_at_coordinator(config.address_for_sites(), trust, key) is KeyStatus.ENROLLED
        )
        assert link.site_gets_in()
        yield link
        control.start_run()  # on loopback, after everything
        control.end_runs()
        control.close()


ATTACKS = {
    "1,100 idle connections": lambda s: (s.idle(1100), time.sleep(12)),
    "1,100 idle connections of 199 addresses": lambda s: (s.idle(1100, MANY), time.sleep(12)),
    "300 TLS connections that say nothing": lambda s: (s.idle(300, MANY, tls=True), time.sleep(2)),
    "endless header of 300 MB": lambda s: s.endless_header(300),
    "endless request line of 300 MB": lambda s: s.endless_target(300),
    "3,000,000 header lines": lambda s: s.many_small_headers(3_000_000),
    "40 bodies of 16 MB": lambda s: s.bodies(40),
    "128 bodies of 16 MB of 199 addresses": lambda s: s.bodies(128, addresses=MANY),
    "128 chunked bodies of 199 addresses": lambda s: s.bodies(128, addresses=MANY, chunked=True),
    "10,000 handshakes": lambda s: s.handshakes(10_000, seconds=10),
    "10,000 handshakes of 199 addresses": lambda s: s.handshakes(10_000, seconds=10, addresses=MANY),
}


@pytest.mark.ci_slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_site_gets_in_during_an_attack_and_memory_stays(link, attack, caplog):
    process, stranger = link._process.pid, Stranger(int(link._folder.config.port))
    before = resident_memory(process)
    forget_peak(process)
    caplog.set_level(logging.WARNING)
    thread = threading.Thread(target=ATTACKS[attack], args=(stranger,))
    thread.start()
    waits = []
    while thread.is_alive():
        begin = time.monotonic()
        assert link.site_gets_in()
        waits.append(time.monotonic() - begin)
        thread.join(1)
    stranger.close()
    growth = peak_memory(process) - before
    print(f"\n{attack}: memory +{growth:.0f} MB, a site got in {len(waits)} times, the slowest in {max(waits):.2f} s")
    assert growth < MOST_GROWTH
    assert link._process.poll() is None
    assert "Traceback" not in link.log_file.read_text()
    assert link.log_file.stat().st_size < 100_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_run_continues_under_all_attacks_at_once(tmp_path):
    """Print the numbers of docs/how_to/deployment.md; `ATTACK_ROUNDS=100` makes them those of ten minutes."""
    rounds = int(os.environ.get("ATTACK_ROUNDS", "10"))
    deployment = Deployment(tmp_path, (*TWO, f"federation.num_rounds={rounds}")).build()
    strangers = [Stranger(deployment.port), Stranger(deployment.port), Stranger(deployment.port, "127.0.0.1")]
    ended = threading.Event()
    try:
        deployment.start_sites()
        deployment.start_run("fold=0", "name=run", *deployment.experiment)
        deployment.wait_for("coordinator", "round 2 of")
        process = deployment.superlink()
        before, begin = resident_memory(process), time.monotonic()
        forget_peak(process)
        threads = [
            threading.Thread(target=repeat, args=(ended, strangers[0], hold_idle)),
            threading.Thread(target=repeat, args=(ended, strangers[1], attack_in_turn)),
            threading.Thread(target=repeat, args=(ended, strangers[2], attack_from_the_address_of_a_site)),
        ]
        for thread in threads:
            thread.start()
        peak = 0.0
        while deployment.processes["coordinator"].poll() is None:
            with suppress(OSError, StopIteration):  # at its end
                peak = max(peak, peak_memory(process))
            time.sleep(0.2)
        lasted = time.monotonic() - begin
        ended.set()
        for thread in threads:
            thread.join(60)
    finally:
        ended.set()
        for stranger in strangers:
            stranger.close()
        deployment.close()
    said = deployment.said("coordinator")
    notices = [line for line in said.splitlines() if "port for sites" in line]
    print(
        f"\n{lasted:.0f} s, {rounds} rounds; memory of the SuperLink {before:.0f} MB, at most +{peak - before:.0f} MB"
    )
    print("\n".join(notices))
    assert deployment.processes["coordinator"].returncode == 0, said
    summary = deployment.summary("run")
    assert (summary["num_rounds"], summary["failures"], summary["left_out"]) == (rounds, [], {})
    assert peak - before < MOST_GROWTH
    assert "Traceback" not in said
    assert "Traceback" not in (deployment.federation / "state" / "superlink.log").read_text()
    assert 4 <= len(notices) <= 12 * (2 + lasted // 600)
    assert all("127.0." in line for line in notices)


def forget_peak(process):
    """Let the peak of a process's memory begin at what it is now."""
    Path(f"/proc/{process}/clear_refs").write_text("5")


def repeat(ended, stranger, attack):
    while not ended.is_set():
        attack(stranger)
        ended.wait(0.5)


def hold_idle(stranger):
    """Keep 1,100 connections open that say nothing."""
    stranger.held = [held for held in stranger.held if not closed(held)]
    stranger.idle(1100 - len(stranger.held))


def attack_in_turn(stranger):
    stranger.endless_header(300, seconds=5)
    stranger.bodies(40, seconds=5)
    stranger.handshakes(500, seconds=5)
    stranger.idle(100, MANY, tls=True)
    stranger.handshakes(2000, seconds=5, addresses=MANY)
    stranger.say(b"\x00" * 100, tls=False)
    stranger.say(b"POST /v1/control/start-run HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n")
    stranger.close()


def attack_from_the_address_of_a_site(stranger):
    stranger.idle(200)
    stranger.bodies(10, seconds=3)
    stranger.handshakes(500, seconds=5)
    stranger.idle(50, tls=True)
    time.sleep(3)
    stranger.close()


def closed(connection):
    alive = Stranger(0, held=[connection]).alive()
    if not alive:
        connection.close()
    return not alive
