"""Damage that hostile sites do to a model, by strategy, with and without bounds on norms.

    python benchmarks/poison.py [--write] [--seeds 3] [--jobs 2]

Five sites of generated patients train a small model of the genes by the coordinator's own round loop. One or two of
them are hostile: they train honestly and send another update (a multiple of the honest one, or none), with the largest
counts that their size band allows; or they train on reversed outcomes. The page shows the exact C-index on the union
test fold, mean and sample standard deviation over seeds; a seed draws the cohort and the training. Every run is made
with the default bounds on the norm of an update, and, where they left out an update, once more without them.

`--write` writes docs/results/poison.md.
"""

import argparse
import datetime as dt
import json
import logging
import multiprocessing
import statistics
import sys
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
from flwr.app import Context, Message

from client.app import build_client_app
from client.model_cache import ModelCache
from client.site import Site
from client.worker import SiteWorker
from memamba_core.config.compose import compose_simulation
from memamba_core.config.federation import FederationConfig
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import SIZE_BANDS, TrainReply, TrainRequest
from server.federation.handshake import Run
from server.federation.rounds import FederationResult
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.grid.local import InlineRunner, LocalGrid
from simulation.methods import evaluate_predictions, predict_weights, train_federated

PAGE = Path(__file__).parents[1] / "docs" / "results" / "poison.md"
NUM_SITES, NUM_ROUNDS, FOLD = 5, 8, 0
COHORT = (
    "data.synthetic.num_patients=300",
    f"data.synthetic.num_sites={NUM_SITES}",
    "data.synthetic.risk=genes",
    "data.synthetic.effect=2",
    "data.synthetic.missing_genes=0",
    "data.synthetic.missing_slides=0",
    "data.synthetic.patches=[1,2]",
    "data.synthetic.feature_width=4",
    "data.synthetic.num_genes=60",
    "partition=iid",
    f"partition.num_sites={NUM_SITES}",
    "model=genomics",
    "model.d_model=16",
    "training.batch_size=32",
    f"federation.num_rounds={NUM_ROUNDS}",
    "device=cpu",
)
"""Five sites of 60 patients, 48 of them for training: two steps a round."""
BOUNDS = [name for name in ("update_norm", "update_norm_factor") if name in FederationConfig.model_fields]
STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum")
SETTINGS = {"krum": ("strategy.num_malicious_sites=1",)}
"""All other strategies have their defaults: `fedtrimmedavg` cuts off one site of five at either end."""


@dataclass(frozen=True)
class Attack:
    """Behaviour of a hostile site.

    Attributes:
        label: row of the table.
        factor: the site sends this multiple of its honest update; None: the honest one.
        reversed_outcomes: the site trains on reversed times.
    """

    label: str
    factor: float | None = None
    reversed_outcomes: bool = False


ATTACKS = (
    Attack("sign flip (-1 times the update)", -1.0),
    Attack("scaled by 10", 10.0),
    Attack("scaled by 100", 100.0),
    Attack("scaled by -9.9, just inside ten medians", -9.9),
    Attack("scaled by -100", -100.0),
    Attack("label flip (trained on reversed times)", reversed_outcomes=True),
    Attack("no update, every round", 0.0),
)


@dataclass(frozen=True)
class Case:
    """One run: a cell of the table, for one seed."""

    strategy: str
    attack: Attack | None
    num_hostile: int
    seed: int
    bounds: bool = True


@dataclass(frozen=True)
class Outcome:
    """Result of a run.

    Attributes:
        c_index: exact C-index on the union test fold.
        caught: updates of hostile sites that were left out, over all rounds.
        wronged: the same of honest sites.
    """

    c_index: float
    caught: int
    wronged: int


def hostile_names(cohort: SimulatedCohort, num_hostile: int) -> list[str]:
    """Return the first sites by name."""
    return sorted(cohort.sites)[:num_hostile]


def with_reversed_outcomes(site: Site) -> Site:
    """Return the site with the longest follow-up turned into the shortest; events stay with their patients."""
    longest = max(record.time_months for record in site.cohort.records)
    records = tuple(replace(r, time_months=longest - r.time_months + 0.1) for r in site.cohort.records)
    return replace(site, cohort=replace(site.cohort, records=records))


def scale_update(message: Message, reply: Message, factor: float) -> Message:
    """Return the training reply with a multiple of its update, and the largest counts that its size band allows."""
    sent = TrainRequest.from_payload(from_records(message.content)).weights
    honest = TrainReply.from_payload(from_records(reply.content))
    weights = {
        name: (sent[name] + factor * (array.astype(np.float64) - sent[name])).astype(np.float32)
        for name, array in honest.weights.items()
    }
    most = {
        group: min(lower for lower in SIZE_BANDS if lower > count) - 1 if count else 0
        for group, count in honest.trained.items()
    }
    return Message(to_records(honest.model_copy(update={"weights": weights, "trained": most})), reply_to=message)


def federate(case: Case) -> tuple[FederationResult, float]:
    """Train a federation with hostile sites, and return it with the C-index of its model."""
    rule = () if case.bounds else tuple(f"federation.{name}=null" for name in BOUNDS)
    words = (f"seed={case.seed}", f"data.synthetic.seed={case.seed}", f"strategy={case.strategy}", *rule)
    config = compose_simulation((*COHORT, *words, *SETTINGS.get(case.strategy, ())))
    cohort = prepare_cohort(config)
    attack, bad = case.attack, hostile_names(cohort, case.num_hostile)
    models = ModelCache()
    workers = {
        name: SiteWorker(
            with_reversed_outcomes(site) if attack and attack.reversed_outcomes and name in bad else site, models
        )
        for name, site in cohort.sites.items()
    }
    app = build_client_app(lambda context: workers[str(context.node_config["site"])])

    factor = attack.factor if attack else None

    def answer(message: Message, context: Context) -> Message:
        reply = app(message=message, context=context)
        if factor is None or context.node_config["site"] not in bad or message.metadata.message_type != "train":
            return reply
        return scale_update(message, reply, factor)

    grid = LocalGrid(sorted(cohort.sites), InlineRunner(answer))  # type: ignore[arg-type]
    result = train_federated(grid, Run("poison", config.experiment, FOLD), cohort)
    predictions = predict_weights(
        result.weights, cohort.test_cohort(FOLD), config.experiment, result.agreement, config.device
    )
    metrics = evaluate_predictions(predictions, cohort.training_cohort(FOLD, config.experiment), result.agreement)
    return result, metrics.c_index if metrics.c_index is not None else float("nan")


def measure(case: Case) -> dict[Case, Outcome]:
    """Run a case with bounds on norms, and once more without them if they left out an update."""
    import torch

    torch.set_num_threads(1)
    for name in ("flwr", "memamba_core", "server", "client", "simulation"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    result, c_index = federate(case)
    bad = set(sorted(result.facts)[: case.num_hostile])
    out = [site for record in result.rounds for site in record.failed]
    measured = {case: Outcome(c_index, sum(site in bad for site in out), sum(site not in bad for site in out))}
    return measured | (measure(replace(case, bounds=False)) if out else {})


def measure_all(cases: list[Case], jobs: int, path: Path) -> dict[Case, Outcome]:
    """Run cases, each process one at a time; what the file holds already is not repeated."""
    results = read_results(path)
    todo = [case for case in cases if case not in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for number, measured in enumerate(pool.imap_unordered(measure, todo), 1):
            results |= measured
            for case, outcome in measured.items():
                label = case.attack.label if case.attack else None
                file.write(json.dumps(asdict(case) | {"attack": label} | asdict(outcome)) + "\n")
            file.flush()
            print(f"\r{number} of {len(todo)} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return results


def read_results(path: Path) -> dict[Case, Outcome]:
    """Read the runs of an interrupted benchmark."""
    attacks: dict[str | None, Attack | None] = {attack.label: attack for attack in ATTACKS} | {None: None}
    results = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        values = json.loads(line)
        outcome = Outcome(**{field.name: values.pop(field.name) for field in fields(Outcome)})
        results[Case(**values | {"attack": attacks[values["attack"]]})] = outcome
    return results


def cases_of(seeds: int) -> list[Case]:
    """Return all runs with bounds, seed by seed: an honest one, then each attack by one and by two sites."""
    settings = [(None, 0), *((attack, number) for attack in ATTACKS for number in (1, 2))]
    return [Case(s, attack, number, seed) for seed in range(seeds) for attack, number in settings for s in STRATEGIES]


def show(outcomes: list[Outcome]) -> str:
    """Format a cell: mean and sample standard deviation over seeds."""
    values = [outcome.c_index for outcome in outcomes]
    return f".{round(statistics.mean(values) * 1000):03d} ± .{round(statistics.stdev(values) * 1000):03d}"


def table(results: dict[Case, Outcome], seeds: int, *, bounds: bool) -> str:
    """Format attacks by strategies, with or without bounds."""
    lines = ["| attack | hostile sites | " + " | ".join(STRATEGIES) + " |", "|---|---|" + "---|" * len(STRATEGIES)]
    for attack, number in [(None, 0), *((attack, number) for attack in ATTACKS for number in (1, 2))]:
        cells = []
        for strategy in STRATEGIES:
            cases = [Case(strategy, attack, number, seed) for seed in range(seeds)]
            without = [replace(case, bounds=False) for case in cases]
            chosen = [w if not bounds and w in results else c for c, w in zip(cases, without, strict=True)]
            cells.append(show([results[case] for case in chosen]))
        lines.append(f"| {attack.label if attack else 'none'} | {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def count_left_out(results: dict[Case, Outcome], seeds: int) -> str:
    """Format how many updates the bounds left out: share of hostile ones, number of honest ones."""
    lines = ["| attack | hostile sites | hostile updates left out | honest updates left out |", "|---|---|---|---|"]
    for attack, number in [(None, 0), *((attack, number) for attack in ATTACKS for number in (1, 2))]:
        these = [o for c, o in results.items() if c.bounds and (c.attack, c.num_hostile) == (attack, number)]
        sent = len(STRATEGIES) * seeds * NUM_ROUNDS * number
        caught = f"{sum(o.caught for o in these)} of {sent}" if number else "-"
        label = attack.label if attack else "none"
        lines.append(f"| {label} | {number} | {caught} | {sum(o.wronged for o in these)} |")
    return "\n".join(lines)


def write_page(results: dict[Case, Outcome], seeds: int) -> None:
    """Replace the measured part of the page; the text around it is written by hand."""
    begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(begin) + len(begin)], text[text.index(end) :]
    measured = f"""

Printed by `python benchmarks/poison.py --write --seeds {seeds}` on {dt.datetime.now(dt.UTC):%Y-%m-%d}, seeds 0 to
{seeds - 1}: {len(results)} runs.

## With the default bounds on norms

{table(results, seeds, bounds=True)}

## Without bounds on norms

{table(results, seeds, bounds=False)}

## What the bounds left out

{count_left_out(results, seeds)}

"""
    PAGE.write_text(head + measured + tail, encoding="utf-8")


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/results/poison.md")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, at least 2")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/poison.jsonl"),
        help="file of finished runs, which are not repeated",
    )
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    arguments = parser.parse_args()
    started = time.perf_counter()
    results = measure_all(cases_of(arguments.seeds), arguments.jobs, arguments.output)
    seconds = time.perf_counter() - started
    for bounds, name in ((True, "with"), (False, "without")):
        print(f"{name} bounds on norms\n\n{table(results, arguments.seeds, bounds=bounds)}\n")
    print(count_left_out(results, arguments.seeds))
    print(f"\n{len(results)} runs, {seconds:.0f} s")
    if arguments.write:
        write_page(results, arguments.seeds)


if __name__ == "__main__":
    main()
