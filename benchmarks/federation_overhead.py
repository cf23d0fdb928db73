"""Overhead of a federation, excluding the sites' own computing: wall time per round and memory, printed.

    python benchmarks/federation_overhead.py [--sites 33] [--work 1.0] [--rounds 3] [--strategy fedavg]

Everything but the local work is real: the round loop with its handshake, validation, journal and Flower strategies,
both conversions of every message, and `LocalGrid`, which copies messages as a network would. Only the site is a double.
It declares a cohort, sends made-up sums, and in training waits for `--work` seconds and returns every received weight,
changed. It holds no patients, so the measured memory is that of the federation.

Goals, on a laptop: at most 15 % over the local work at one second per site, and 1.6 GB. Neither is asserted: a busy
machine is not a fault of the code.
"""

import argparse
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from rich.console import Console
from rich.table import Table

from memamba_core.config.compose import compose_experiment
from memamba_core.data.agreement import Agreement
from memamba_core.data.statistics import ColumnMoments
from memamba_core.training.checkpoint import initial_model
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.message import WireMessage
from memamba_core.wire.protocol import (
    AgreementReply,
    AgreementRequest,
    EvaluateReply,
    EvaluateRequest,
    FactsReply,
    FactsRequest,
    Phase,
    StatisticsReply,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    size_band,
)
from server.federation.handshake import Run
from server.federation.journal import Journal, RoundRecord
from server.federation.rounds import run_federation
from simulation.grid.local import InlineRunner, LocalGrid

GOAL_OVERHEAD = 0.15
GOAL_BYTES = 1.6e9
NUM_PATIENTS = 40  # of each site; only the averaging weights depend on it
FEATURE_WIDTH = 1024
GENE_COLUMNS = tuple(sorted(f"GENE{i:04d}_{kind}" for kind in ("rnaseq", "cnv", "mut") for i in range(500)))
# The three experts as in deployment, with a width that gives all of them together five million parameters.
MODEL = ("model.d_model=312", "model.group_hidden=256", "agreement.gene_groups=kind")


class SiteDouble:
    """Double of a site that answers the whole protocol without patients.

    Args:
        name: name of the site.
        work: seconds that its training takes.
    """

    def __init__(self, name: str, work: float) -> None:
        self._name, self._work = name, work

    def facts(self, request: FactsRequest) -> FactsReply:
        """Declare slides and genes."""
        band = size_band(NUM_PATIENTS)
        return FactsReply(
            site=self._name,
            time_unit="months",
            event_means="happened",
            encoder="made_up",
            feature_width=FEATURE_WIDTH,
            feature_columns=(),
            feature_families=(),
            gene_columns=GENE_COLUMNS,
            size_band=band,
            pathology_band=band,
            genomics_band=band,
            num_patients=NUM_PATIENTS,
            num_events=NUM_PATIENTS // 2,
        )

    def statistics(self, request: StatisticsRequest) -> StatisticsReply:
        """Return sums of standard normal genes, and events spread over five years."""
        width = len(request.gene_columns)
        genes = ColumnMoments(np.full(width, float(NUM_PATIENTS)), np.zeros(width), np.full(width, float(NUM_PATIENTS)))
        events = np.zeros(60, dtype=np.int64)
        events[:10] = NUM_PATIENTS // 20
        return StatisticsReply(
            genes=dict(genes.arrays()), features=dict(ColumnMoments.zeros(0).arrays()), events=_counts(events)
        )

    def agreement(self, request: AgreementRequest) -> AgreementReply:
        """Accept the agreement, after reading it as a site does."""
        agreement = Agreement.from_json(request.agreement, request.scaling)
        return AgreementReply(agreement_digest=agreement.digest())

    def train(self, request: TrainRequest) -> TrainReply:
        """Wait as long as training takes, and return new weights in memory of their own."""
        until = time.perf_counter() + self._work
        weights = {name: array + np.float32(1e-3) for name, array in request.weights.items()}
        # Sleep instead of computing: sites take turns in one process, so both take the same wall time of a round.
        time.sleep(max(0.0, until - time.perf_counter()))
        groups = dict.fromkeys(("pathology", "genomics", "synergistic", "head"), NUM_PATIENTS)
        return TrainReply(weights=weights, trained=groups, train_loss=1.0, counts={})

    def evaluate(self, request: EvaluateRequest) -> EvaluateReply:
        """Return no counts, as a site below its threshold does."""
        return EvaluateReply(counts={})


def _counts(events: np.ndarray) -> dict[str, np.ndarray]:
    return {"event": events, "censored": events.copy()}


def build_app(site_of: Callable[[Context], SiteDouble]) -> ClientApp:
    """Build Flower's ClientApp around the doubles, with the same conversions as `client.app`."""
    app = ClientApp()

    def answer(request_class: type[WireMessage], name: str) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            request = request_class.from_payload(from_records(message.content))
            work = getattr(site_of(context), name)
            return Message(to_records(work(request)), reply_to=message)

        return handle

    app.query(Phase.FACTS.value)(answer(FactsRequest, "facts"))
    app.query(Phase.STATISTICS.value)(answer(StatisticsRequest, "statistics"))
    app.query(Phase.AGREEMENT.value)(answer(AgreementRequest, "agreement"))
    app.train()(answer(TrainRequest, "train"))
    app.evaluate()(answer(EvaluateRequest, "evaluate"))
    return app


@dataclass
class Clock:
    """Observer of the round loop: end of each round, and processor time and peak memory until then."""

    ends: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    peaks: list[int] = field(default_factory=list)

    def on_phase(self, phase: Phase, num_sites: int, server_round: int) -> None:
        """Record the start of the first round."""
        if phase is Phase.TRAIN and not self.ends:
            self._mark()

    def on_round(self, record: RoundRecord) -> None:
        """Record the end of a round, when it is in the journal."""
        assert not record.failed, f"round {record.server_round}: {len(record.failed)} sites failed, {record.failed}"
        self._mark()

    def _mark(self) -> None:
        self.ends.append(time.perf_counter())
        self.processor.append(time.process_time())
        self.peaks.append(memory()[1])


def memory() -> tuple[int, int]:
    """Return the resident bytes of this process: the current value and the peak.

    Linux reports both. Elsewhere the current value is unknown, and the peak stands for it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        return int(lines["VmRSS"].split()[0]) * 1024, int(lines["VmHWM"].split()[0]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return most, most


def measure(num_sites: int, work: float, rounds: int, strategy: str) -> dict[str, Any]:
    """Run a federation of doubles: one round to warm up, then `rounds` measured rounds.

    Returns:
        `parameters`; per measured round `seconds` (journal included), `overhead` as a share of `num_sites * work`,
        `processor_seconds` (the doubles sleep, so this is the overhead on an idle machine) and `peak_bytes` so far;
        `total_peak_bytes` at the end. Bytes exclude those that the process held before.
    """
    overrides = (*MODEL, f"strategy={strategy}", f"federation.num_rounds={rounds + 1}", "federation.update_norm=null")
    experiment = compose_experiment(overrides)
    names = [f"site-{i + 1:02d}" for i in range(num_sites)]
    sites = {name: SiteDouble(name, work) for name in names}
    app = build_app(lambda context: sites[str(context.node_config["site"])])
    clock = Clock()
    before = memory()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = run_federation(
            LocalGrid(names, InlineRunner(app)),
            Run("overhead", experiment),
            journal=Journal(Path(folder) / "journal", experiment.digest(), -1),
            observer=clock,
        )
    seconds = np.diff(clock.ends)[1:]
    return {
        "parameters": sum(p.numel() for p in initial_model(experiment, result.agreement).parameters()),
        "seconds": seconds.tolist(),
        "overhead": ((seconds - num_sites * work) / (num_sites * work)).tolist(),
        "processor_seconds": np.diff(clock.processor)[1:].tolist(),
        "peak_bytes": [peak - before for peak in clock.peaks[2:]],
        "total_peak_bytes": memory()[1] - before,
    }


def show(figures: dict[str, Any], num_sites: int, work: float, strategy: str) -> None:
    """Print a table, and say if the goals are met."""
    megabytes = figures["parameters"] * 4 / 1e6
    table = Table(
        title=f"{num_sites} sites, {figures['parameters'] / 1e6:.2f} M parameters ({megabytes:.0f} MB), {strategy}, "
        f"{work:g} s of local work"
    )
    for column in ("round", "wall s", "wall minus work s", "processor s", "overhead", "peak memory"):
        table.add_column(column, justify="right")
    columns = ("seconds", "processor_seconds", "overhead", "peak_bytes")
    for number, (seconds, processor, overhead, peak) in enumerate(zip(*(figures[c] for c in columns), strict=True), 2):
        table.add_row(
            str(number),
            f"{seconds:.2f}",
            f"{seconds - num_sites * work:.2f}",
            f"{processor:.2f}",
            f"{overhead:.1%}",
            f"{peak / 1e9:.2f} GB",
        )
    console = Console()
    console.print(table)
    worst, peak = max(figures["overhead"]), figures["total_peak_bytes"]
    console.print(
        f"overhead: {worst:.1%} in the slowest round, {_verdict(worst, GOAL_OVERHEAD, f'{GOAL_OVERHEAD:.0%}')}"
    )
    console.print(
        f"memory: peak of {peak / 1e9:.2f} GB, the closing evaluation included, "
        f"{_verdict(peak, GOAL_BYTES, f'{GOAL_BYTES / 1e9:g} GB')}"
    )


def _verdict(value: float, goal: float, text: str) -> str:
    return f"{'within' if value <= goal else 'OVER'} the goal of {text}"


def main() -> None:
    """Measure once with the settings of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sites", type=int, default=33, help="number of sites (default 33, as BLCA has)")
    parser.add_argument("--work", type=float, default=1.0, help="seconds of local work per site and round (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds, after one to warm up (default 3)")
    parser.add_argument("--strategy", default="fedavg", help="a file of configs/strategy (default fedavg)")
    arguments = parser.parse_args()
    if arguments.sites < 1 or arguments.rounds < 1 or arguments.work <= 0:
        parser.error("--sites and --rounds must be at least 1, --work more than 0")
    logging.getLogger("flwr").setLevel(logging.ERROR)  # it logs every aggregation of every parameter group
    figures = measure(arguments.sites, arguments.work, arguments.rounds, arguments.strategy)
    show(figures, arguments.sites, arguments.work, arguments.strategy)


if __name__ == "__main__":
    main()
