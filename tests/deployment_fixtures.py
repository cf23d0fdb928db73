"""A federation of real processes on this machine: `flower-server`, `flower-client`, TLS and keys, on loopback.

The hospitals are those of `federation_fixtures.tiny`, exported as site folders; their floors are lowered, because they
have a dozen patients each.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from federation_fixtures import tiny

from memamba_core.config.compose import compose_simulation, experiment_overrides
from memamba_core.training.checkpoint import load_checkpoint
from simulation.cohort import prepare_cohort
from simulation.export import export_sites

BIN = Path(sys.executable).parent
_PORTS = range(18100, 18300, 2)
FLOORS = {"min_patients": 1, "min_events": 0, "min_pairs": 1, "min_round_patients": 1}


def free_ports() -> tuple[int, int]:
    """Two ports that nobody has, for hospitals and on loopback; other test processes look elsewhere first."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port, port + 1
    raise AssertionError(f"no free ports in {_PORTS}")


@dataclass
class Deployment:
    """Coordinator and hospitals, each with its folder below `root`.

    Attributes:
        root: an empty folder.
        overrides: of the simulation that the hospitals are cut from, as given to `tiny`.
        port: where hospitals connect to; the next one is on loopback only.
    """

    root: Path
    overrides: tuple[str, ...] = tiny("agreement.gene_groups=kind")
    port: int = field(default_factory=lambda: free_ports()[0])
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def federation(self) -> Path:
        """The coordinator's folder."""
        return self.root / "federation"

    @property
    def experiment(self) -> tuple[str, ...]:
        """The overrides that a run takes."""
        return experiment_overrides(self.overrides)

    def site(self, name: str) -> Path:
        """A hospital's folder."""
        return self.root / "sites" / name

    def build(self) -> "Deployment":
        """Export the hospitals, make the coordinator's folder, make keys and enroll them."""
        config = compose_simulation(self.overrides)
        cohort = prepare_cohort(config)
        case_ids = {name: tuple(r.case_id for r in site.cohort.records) for name, site in cohort.sites.items()}
        export_sites(cohort.cohort, config.data, case_ids, self.root / "sites")
        self.server(
            "init",
            self.federation,
            "--address=127.0.0.1",
            f"--port={self.port}",
            "--listen-host=127.0.0.1",
            f"--loopback-port={self.port + 1}",
            folder=False,
        )
        for name in cohort.sites:
            self.join(name)
        return self

    def join(self, name: str) -> None:
        """A hospital makes its key, is enrolled, and learns where the coordinator is."""
        folder = self.site(name)
        self.call("flower-client", "keygen", folder / "keys")
        self.server("enroll", name, folder / "keys" / "node.pub")
        self.edit(
            name,
            lambda site: site.update(
                coordinator={"address": f"127.0.0.1:{self.port}", "ca": str(self.federation / "pki" / "ca.crt")},
                disclosure=FLOORS,
                threads=1,
            ),
        )

    def edit(self, name: str, change: Callable[[dict], None]) -> None:
        """Change a `site.yaml`."""
        path = self.site(name) / "site.yaml"
        settings = yaml.safe_load(path.read_text())
        change(settings)
        path.write_text(yaml.safe_dump(settings))

    def call(self, *command: object, code: int = 0) -> str:
        """Run a command to its end and return what it wrote; fails if it ends with another code."""
        program, *arguments = map(str, command)
        done = subprocess.run(
            [BIN / program, *arguments], env=_environment(), capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == code, (
            f"{command} ended with {done.returncode}, wanted {code}: {done.stdout}{done.stderr}"
        )
        return done.stdout + done.stderr

    def server(self, command: str, *arguments: object, folder: bool = True, code: int = 0) -> str:
        """A command of the coordinator."""
        return self.call(
            "flower-server", command, *arguments, *(("--dir", self.federation) if folder else ()), code=code
        )

    def start_sites(self, *names: str) -> None:
        """Start hospitals; they stay until `close`."""
        for name in names or sorted(p.name for p in (self.root / "sites").iterdir()):
            self.start(name, "flower-client", "run", self.site(name) / "site.yaml")

    def start(self, label: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a process; what it says goes to `LABEL.log`."""
        program, *arguments = map(str, command)
        with (self.root / f"{label}.log").open("ab") as log:
            self.processes[label] = subprocess.Popen(
                [BIN / program, *arguments], env=_environment(), stdout=log, stderr=log, start_new_session=True
            )
        return self.processes[label]

    def start_run(self, *settings: str, label: str = "coordinator") -> subprocess.Popen[bytes]:
        """Start a run of the coordinator."""
        return self.start(label, "flower-server", "run", "--dir", self.federation, *settings)

    def said(self, label: str) -> str:
        """What a started process has said so far."""
        path = self.root / f"{label}.log"
        return path.read_text() if path.exists() else ""

    def wait_for(self, label: str, text: str, seconds: float = 300.0) -> None:
        """Wait until a process has said something; on a busy machine four of them need two minutes to start."""
        deadline = time.monotonic() + seconds
        while text not in self.said(label):
            assert self.processes[label].poll() is None, f"{label} ended: {self.said(label)}"
            assert time.monotonic() < deadline, f"{label} has not said {text!r} within {seconds} s: {self.said(label)}"
            time.sleep(0.1)

    def wait_until(self, holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Wait until something can be seen."""
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, f"after {seconds} s not yet: {what}"
            time.sleep(0.1)

    def connections(self, name: str) -> int:
        """How often a hospital's SuperNode has got its connection so far."""
        return (self.site(name) / "state" / "site.log").read_text().count("SuperNode ID:")

    def finish(self, label: str, seconds: float = 240.0) -> int:
        """Wait for the end of a process."""
        return self.processes[label].wait(seconds)

    def kill(self, label: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process itself."""
        self.processes[label].send_signal(number)

    def superlink(self, label: str = "coordinator") -> int:
        """The process of the SuperLink that a coordinator started."""
        parent = self.processes[label].pid
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                    return int(stat.parent.name)
        raise AssertionError(f"{label} has no child")

    def weights(self, run: str) -> dict[str, np.ndarray]:
        """The final model of a run."""
        return load_checkpoint(self.federation / "runs" / run).weights

    def summary(self, run: str) -> dict:
        """The results of a run."""
        return json.loads((self.federation / "runs" / run / "summary.json").read_text())

    def close(self) -> None:
        """End all processes."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment() -> dict[str, str]:
    """Without settings of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "MEMAMBA_"))}
    return {**kept, "OMP_NUM_THREADS": "1"}
