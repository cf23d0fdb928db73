"""Overhead of a round over the network, excluding training, of this project and of stock Flower, in seconds.

    python benchmarks/deployment_round.py [--sites 2] [--width 312] [--rounds 4] [--ours-only]

Both move a model (20 MB with the width of 312, in as many arrays as the model has) to each site and back, over
loopback, between real processes. The sites do not train: they return the weights that they received, changed.

* ours: `flower-server run` and stock SuperNodes with this project's executor, with TLS, keys, validation and journal. A
  round trains and evaluates the received weights.
* stock: unchanged `flower-superlink` and `flower-supernode` (each message in a new process), `FedAvg.start`, without
  TLS. A round trains and evaluates, in two exchanges.

The first round of both is not counted: it starts processes and compiles. Memory is the peak of a process of each kind
(`VmHWM`), including memory shared with other processes.
"""

import argparse
import datetime as dt
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

from federation_overhead import MODEL, SiteDouble, build_app
from rich.console import Console
from rich.table import Table

from client.connection import Connection
from client.executor import Executor
from client.flower.tasks import NodeTasks
from client.interrupts import Interrupts
from client.keys import SiteKeys
from memamba_core.config.coordinator import CoordinatorConfig
from memamba_core.config.site import CoordinatorAddress
from memamba_core.io.node_key import normalise_public_key
from memamba_core.privacy.egress import EgressLog
from memamba_core.training.checkpoint import load_checkpoint
from server.admin.folder import create_folder
from server.admin.roster import Roster

PORT = 18280  # and the ports after it
BIN = Path(sys.executable).parent
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "NO_PROXY": "127.0.0.1",
    "OMP_NUM_THREADS": "1",
    "BENCHMARK": str(os.getpid()),  # marks all processes that this program starts
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # the stock programs start others by name
}

STOCK_PROJECT = """
[project]
name = "stock"
version = "1.0.0"
description = "What Flower does by itself"
license = {text = "Apache-2.0"}
[tool.flwr.app]
publisher = "benchmark"
[tool.flwr.app.components]
serverapp = "app:server"
clientapp = "app:client"
[tool.flwr.app.config]
rounds = 0
sites = 0
shapes = ""
ends = ""
"""
STOCK_CONNECTION = """
[superlink]
default = "here"
[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""
STOCK_APP = """
import json, pathlib, time
import numpy as np, torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

client = ClientApp()
server = ServerApp()

@client.train()
def train(message, context):
    arrays = [array + np.float32(1e-3) for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
    records = {"arrays": ArrayRecord(arrays), "metrics": MetricRecord({"num-examples": 40})}
    return Message(RecordDict(records), reply_to=message)

@client.evaluate()
def evaluate(message, context):
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 40, "loss": 1.0})}), reply_to=message)

@server.main()
def main(grid, context):
    config = context.run_config
    ends = pathlib.Path(config["ends"])
    def mark(server_round, arrays):
        with ends.open("a") as file:
            file.write(f"{time.time()}\\n")
    arrays = ArrayRecord([np.zeros(shape, np.float32) for shape in json.loads(config["shapes"])])
    strategy = FedAvg(min_train_nodes=config["sites"], min_evaluate_nodes=config["sites"],
                      min_available_nodes=config["sites"])
    strategy.start(grid, arrays, num_rounds=config["rounds"], evaluate_fn=mark)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sites", type=int, default=2)
    parser.add_argument(
        "--width", type=int, default=312, help="width of the model: 130 is 6 MB, 312 is 20 MB, 1050 is 190 MB"
    )
    parser.add_argument("--rounds", type=int, default=4, help="rounds that are measured, after one more")
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--as-site", nargs=3, metavar=("FOLDER", "CA", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.as_site:
        be_a_site(Path(options.as_site[0]), Path(options.as_site[1]), int(options.as_site[2]))
        return
    console = Console()
    table, memory = Table(), Table(title="peak memory of a process, MB")
    for column in ("deployment", "median", "each"):
        table.add_column(column)
    for column in ("deployment", "program", "processes", "MB"):
        memory.add_column(column)
    for name in ("ours",) if options.ours_only else ("ours", "stock"):
        with tempfile.TemporaryDirectory() as folder, Watch() as watch:
            if name == "ours":
                seconds, shapes = measure_ours(Path(folder), options.sites, options.rounds, options.width)
            else:
                seconds = measure_stock(Path(folder), options.sites, options.rounds, shapes)
        table.add_row(name, f"{statistics.median(seconds):.1f}", ", ".join(f"{s:.1f}" for s in seconds))
        for program, peaks in sorted(watch.peaks.items()):
            memory.add_row(name, program, str(len(peaks)), f"{max(peaks.values()) / 1e3:,.0f}")
    size = 4e-6 * sum(math.prod(shape) for shape in shapes)
    table.title = f"{options.sites} sites, {size:.0f} MB each way, seconds per round"
    console.print(table, memory)


PROGRAMS = {
    "server.flower.superlink_process": "SuperLink",
    "flower-superlink": "SuperLink",
    "client.flower.supernode_process": "SuperNode",
    "flower-supernode": "SuperNode",
    "flower-superexec": "SuperExec",
    "flwr-serverapp": "ServerApp",
    "flwr-clientapp": "ClientApp",
    "flower-server": "flower-server",
    "--as-site": "executor",
}


class Watch:
    """Observer of the memory of a deployment's programs, twice a second; a context manager.

    Attributes:
        peaks: program -> process -> peak in kB.
    """

    def __init__(self) -> None:
        self.peaks: dict[str, dict[int, int]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.5):
            for folder in Path("/proc").glob("[0-9]*"):
                with suppress(OSError, StopIteration):
                    if f"BENCHMARK={os.getpid()}" not in (folder / "environ").read_text().split("\0"):
                        continue
                    words = (folder / "cmdline").read_text().split("\0")
                    program = next(PROGRAMS[name] for word in words[:5] if (name := Path(word).name) in PROGRAMS)
                    status = (folder / "status").read_text()
                    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
                    self.peaks.setdefault(program, {})[int(folder.name)] = peak


def be_a_site(folder: Path, ca: Path, port: int) -> None:
    """Run the process of a site: connector and executor around a double."""
    coordinator = CoordinatorAddress(address=f"127.0.0.1:{PORT}", ca=ca, keys=folder)
    keys, listen, ended = SiteKeys(folder), ("127.0.0.1", port), threading.Event()
    site = SiteDouble(folder.name, work=0.0)
    interrupts = Interrupts()
    thread = threading.Thread(target=Connection(coordinator, keys, listen, ended).run)
    thread.start()
    tasks = NodeTasks(f"127.0.0.1:{port}", keys.load_secret())
    Executor(tasks, build_app(lambda _context: site), EgressLog(folder), interrupts, 3600.0).run()
    ended.set()
    thread.join()


def measure_ours(root: Path, sites: int, rounds: int, width: int) -> tuple[list[float], list[tuple[int, ...]]]:
    """Return the seconds of each counted round, from the coordinator's log, and the shapes of the model's arrays."""
    config = CoordinatorConfig(addresses=("127.0.0.1",), port=PORT, listen_host="127.0.0.1", loopback_port=PORT + 1)
    federation = create_folder(root / "federation", config)
    with ExitStack() as stack:
        for number in range(sites):
            folder = root / f"site-{number + 1:02d}"
            folder.mkdir()
            SiteKeys(folder).generate()
            key, now = normalise_public_key(SiteKeys(folder).public.read_bytes(), folder.name), dt.datetime.now(dt.UTC)
            federation.change_roster(partial(Roster.enroll, name=folder.name, public_key=key, now=now))
            where = (folder, federation.pki.ca_certificate, PORT + 2 + number)
            stack.enter_context(started(root, folder.name, sys.executable, __file__, "--as-site", *where))
        model = [setting for setting in MODEL if not setting.startswith("model.d_model")]
        settings = ("name=ours", *model, f"model.d_model={width}", f"federation.num_rounds={rounds + 1}")
        run = [BIN / "flower-server", "run", "--dir", federation.path, *settings]
        done = subprocess.run(run, env=os.environ | QUIET, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    logged = re.findall(r"round \d+ of \d+ done: .* ([0-9.]+) s, [0-9.]+ MB", done.stderr)
    weights = load_checkpoint(federation.runs / "ours").weights
    return [float(seconds) for seconds in logged][1:], [array.shape for array in weights.values()]


def measure_stock(root: Path, sites: int, rounds: int, shapes: list[tuple[int, ...]]) -> list[float]:
    """Return the seconds between the ends of rounds, as the ServerApp notes them."""
    (root / "app").mkdir()
    (root / "app" / "pyproject.toml").write_text(STOCK_PROJECT, encoding="utf-8")
    (root / "app" / "app.py").write_text(STOCK_APP, encoding="utf-8")
    (root / "config.toml").write_text(STOCK_CONNECTION.format(port=PORT), encoding="utf-8")
    ends, link = root / "ends", f"127.0.0.1:{PORT}"
    chosen = f"rounds={rounds + 1} sites={sites} shapes='{json.dumps(shapes)}' ends='{ends}'"
    with ExitStack() as stack:
        superlink = ("flower-superlink", "--insecure", "--host", "127.0.0.1", "--port", PORT)
        stack.enter_context(started(root, "superlink", *superlink))
        time.sleep(5.0)
        for number in range(sites):
            node = ("flower-supernode", "--insecure", "--superlink", link, "--host", "127.0.0.1")
            stack.enter_context(started(root, f"node-{number}", *node, "--port", PORT + 2 + number))
        stack.enter_context(started(root, "run", "flwr", "run", "app", "here", "--run-config", chosen, cwd=root))
        deadline = time.monotonic() + 120.0 * (rounds + 2)
        while len(marks := ends.read_text().split() if ends.exists() else []) < rounds + 2:  # one before round 1
            if time.monotonic() > deadline:
                raise RuntimeError(f"the stock deployment makes no progress; read its logs in {root}")
            time.sleep(0.2)
    times = [float(mark) for mark in marks]
    return [after - before for before, after in pairwise(times[1:])]


@contextmanager
def started(root: Path, label: str, program: str, *arguments: object, cwd: Path | None = None) -> Iterator[None]:
    """Start a process, and end it with all its children when the block is left."""
    with (root / f"{label}.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / program, *map(str, arguments)],
            env=os.environ | QUIET | {"FLWR_HOME": str(root)},
            stdout=log,
            stderr=log,
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


if __name__ == "__main__":
    main()
