"""Several hosts: coordinator and sites in network namespaces, over lines that are slow, lose packets, and break.

Needs root, `ip` and /dev/net/tun: `make test-hosts`.
"""

import json
import os
import re
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from fixtures.deployment import BIN
from fixtures.federation import GENES_ONLY, Federation, experiment_overrides, tiny
from fixtures.kit import ENVIRONMENT, call, unpack_kit
from fixtures.network import Host, Line
from safetensors.numpy import load_file

pytestmark = [
    pytest.mark.hosts,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("ip") is None or not Path("/dev/net/tun").exists(),
        reason="needs root, iproute2 and /dev/net/tun",
    ),
]

ADDRESS = "10.77.0.1"  # of the coordinator, the same from each site
DELAY_S = 0.04
LOSS = 0.01
CUT_S = 60.0
ROUNDS = 3
OVERRIDES = tiny(
    *GENES_ONLY,
    "agreement.gene_groups=kind",
    "data.synthetic.num_patients=400",
    "data.synthetic.num_genes=400",
    "partition.num_sites=2",
    "model.group_hidden=64",
    f"federation.num_rounds={ROUNDS}",
    "federation.min_results=2",
)


@pytest.fixture(scope="module")
def exported_sites(tmp_path_factory):
    """Export two sites of a generated cohort, a folder each."""
    folder = tmp_path_factory.mktemp("cohort") / "sites"
    call(BIN / "flower-simulate", "export-sites", *OVERRIDES, f"output_dir={folder}")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def undisturbed():
    """Final weights of the same sites in one process; they answer as over a network."""
    return Federation(OVERRIDES, strict=True).train().weights


class Network:
    """A coordinator, sites, and a line from each site to the coordinator."""

    def __init__(self, stack, num_sites):
        self.coordinator = stack.enter_context(Host("mm-coordinator"))
        self.coordinator.ip("addr", "add", f"{ADDRESS}/32", "dev", "lo")
        self.sites, self.lines = [], []
        for number in range(1, num_sites + 1):
            site = stack.enter_context(Host(f"mm-site{number}"))
            line = stack.enter_context(Line(site, self.coordinator, delay_s=DELAY_S, loss=LOSS, seed=number))
            near, far = line.devices()
            mine, theirs = f"10.77.{number}.2", f"10.77.{number}.1"
            site.ip("addr", "add", mine, "peer", theirs, "dev", near)
            self.coordinator.ip("addr", "add", theirs, "peer", mine, "dev", far)
            site.ip("route", "add", "default", "dev", near)
            self.sites.append(site)
            self.lines.append(line)


@contextmanager
def started(command, log):
    """Run a process with its output in a file, and terminate it at the end of the block."""
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def finished_rounds(run):
    metrics = run / "metrics.jsonl"
    lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
    return {json.loads(line)["round"] for line in lines}


def wait_for(what, seconds, *processes):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "waited too long"
        assert all(process.poll() is None for process in processes), "ended early"
        time.sleep(0.05)


def test_a_line_that_breaks_for_a_minute_in_the_middle_of_a_round_loses_nothing(exported_sites, undisturbed, tmp_path):
    federation, run = tmp_path / "federation", tmp_path / "federation" / "runs" / "lines"
    server = [BIN / "flower-server"]
    call(*server, "init", federation, "--address", ADDRESS)
    sites = []
    for exported in exported_sites:
        name = exported.name
        call(*server, "kit", name, "--dir", federation, "--output", tmp_path / f"{name}.zip")
        site = unpack_kit(tmp_path / f"{name}.zip", exported, tmp_path / name)
        call(BIN / "flower-client", "keygen", site / "keys")
        call(*server, "enroll", name, site / "keys" / "node.pub", "--dir", federation)
        sites.append(site)
    begin = time.monotonic()
    with ExitStack() as stack:
        network = Network(stack, len(sites))
        command = [*server, "run", "--dir", federation, "name=lines", "fold=0", *experiment_overrides(OVERRIDES)]
        coordinator = stack.enter_context(started(network.coordinator.command(*command), tmp_path / "server.log"))
        for site, host in zip(sites, network.sites, strict=True):
            command = host.command(BIN / "flower-client", "run", site / "site.yaml")
            stack.enter_context(started(command, tmp_path / f"{site.name}.log"))
        line = network.lines[0]
        wait_for(lambda: finished_rounds(run) == {1}, 400, coordinator)
        line.cut()
        cut = time.monotonic()
        time.sleep(CUT_S)
        assert finished_rounds(run) == {1}, "the round ended before the line was cut, or without that site"
        line.mend()
        coordinator.wait(500)
        end = time.monotonic()
        dropped = [line.dropped / (line.dropped + line.carried) for line in network.lines]
    assert coordinator.returncode == 0, (tmp_path / "server.log").read_text()

    weights = load_file(run / "model.safetensors")
    assert weights.keys() == undisturbed.keys()
    for name, values in undisturbed.items():
        np.testing.assert_allclose(weights[name], values, rtol=1e-5, atol=1e-6)
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(r["round"], r["site"]) for r in records] == [
        (number, site.name) for number in range(1, ROUNDS + 1) for site in sites
    ]
    assert not any("failure" in record for record in records)
    for site in sites:
        left = call(BIN / "flower-client", "egress", site / "site.yaml")
        answers = re.findall(r"train +(\d+) +[\d,]+ +(\w+) .*TrainReply", left)
        assert {int(number) for number, _ in answers} == set(range(1, ROUNDS + 1))
        assert len(set(answers)) == ROUNDS, "a repeated round received a different answer"
    assert all(share > 0.5 * LOSS for share in dropped)
    print(f"{end - begin:.0f} s in total, {end - cut - CUT_S:.0f} s after the line was mended; dropped {dropped}")
