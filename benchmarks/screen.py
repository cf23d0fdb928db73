"""Compare settings on inner holdouts of the training folds. This project's defaults were chosen in this way.

In each outer fold, a seeded quarter of the training patients (stratified by event) is held out, and a model is trained
on the others and evaluated on that quarter. Patients of an outer test fold are never read for their own fold.

    python benchmarks/screen.py --cohorts tcga_blca,tcga_luad --base "model=genomics" \
        "" "model.scans=[]" "training.optimizer.learning_rate=0.003"

Each argument is one setting: overrides separated by spaces, in addition to --base. With --method federated the sites of
`partition=tss` are trained together, otherwise one pooled model is trained.
"""

import argparse
import json
import logging
import shlex
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
import torch
from cohorts import COHORTS, tables_are_here
from rich.console import Console
from rich.table import Table

from memamba_core.config.compose import compose_simulation
from memamba_core.data.records import Cohort
from memamba_core.survival.concordance import concordance_index
from server.federation.handshake import Run
from simulation.cohort import SimulatedCohort, prepare_cohort
from simulation.folds import assign_folds
from simulation.grid.build import open_grid
from simulation.methods import build_agreement_only, predict_weights, train_federated, train_pooled

HELD_OUT = 0  # one of the four inner folds


def inner_cohort(outer: SimulatedCohort, fold: int, seed: int) -> SimulatedCohort:
    """Return the training patients of an outer fold, with inner folds of their own."""
    known = outer.cohort.subset([r.case_id for r in outer.cohort.records if r.fold not in (None, fold)])
    known, _ = assign_folds(known, source="random", splits=None, num_folds=4, seed=seed, sites={})
    by_id = {r.case_id: r for r in known.records}

    def inner(cohort: Cohort) -> Cohort:
        return replace(cohort, records=tuple(by_id[r.case_id] for r in cohort.records if r.case_id in by_id))

    sites = {name: replace(site, cohort=inner(site.cohort)) for name, site in outer.sites.items()}
    return replace(outer, cohort=known, sites={n: s for n, s in sites.items() if s.cohort.records})


def screen(cohort_name: str, setting: str, method: str, folds: Sequence[int], seeds: Sequence[int]) -> list[float]:
    """Return the C-index on the inner holdouts, one per outer fold and seed."""
    indices = []
    for seed in seeds:
        merged = dict(o.split("=", 1) for o in (f"data={cohort_name}", f"seed={seed}", *shlex.split(setting)))
        overrides = tuple(f"{key}={value}" for key, value in merged.items())  # the setting overrides the base
        config = compose_simulation(overrides)
        outer = prepare_cohort(config)
        for fold in folds:
            cohort = inner_cohort(outer, fold, seed)
            run = Run(f"inner-{fold}", config.experiment, HELD_OUT)
            with tempfile.TemporaryDirectory() as ledgers:  # a new budget for every fold and seed
                private = config.experiment.privacy.name != "none"
                grid = open_grid(config, cohort, state=Path(ledgers) if private else None)
                if method == "federated":
                    result = train_federated(grid, run, cohort)
                else:
                    agreement = build_agreement_only(grid, run, cohort)
            if method == "federated":
                test = cohort.test_cohort(HELD_OUT)
                predictions = predict_weights(result.weights, test, config.experiment, result.agreement)
            else:
                predictions = train_pooled(cohort, config.experiment, agreement, HELD_OUT).predictions
            indices.append(concordance_index(predictions.risk, predictions.time_months, predictions.event))
    return indices


def main() -> None:
    """Print a table of settings by cohorts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", help='overrides of one setting, for example "model.scans=[]"')
    parser.add_argument("--cohorts", default=",".join(COHORTS))
    parser.add_argument("--base", default="model=genomics", help="overrides of every setting")
    parser.add_argument("--method", choices=["pooled", "federated"], default="pooled")
    parser.add_argument("--folds", default="0,1,2,3,4")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--output", type=Path, help="also write the numbers as JSON lines")
    arguments = parser.parse_args()
    if "tcga" in arguments.cohorts and not tables_are_here():
        return
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    for name in ("memamba_core", "server"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cohorts = arguments.cohorts.split(",")
    folds, seeds = ([int(n) for n in text.split(",")] for text in (arguments.folds, arguments.seeds))
    table = Table(title=f"C-index on inner holdouts, {arguments.method}, base {arguments.base!r}", title_justify="left")
    for name in ("setting", *cohorts, "mean", "s"):
        table.add_column(name, justify="left" if name == "setting" else "right")
    for setting in arguments.settings:
        start = time.perf_counter()
        overrides = f"{arguments.base} {setting}"
        scores = {name: screen(name, overrides, arguments.method, folds, seeds) for name in cohorts}
        means = {name: float(np.mean(values)) for name, values in scores.items()}
        mean, seconds = float(np.mean(list(means.values()))), time.perf_counter() - start
        table.add_row(setting or "(base)", *(f"{m:.3f}" for m in means.values()), f"{mean:.4f}", f"{seconds:.0f}")
        print(f"{setting or '(base)'}: {mean:.4f} { ({n: round(m, 4) for n, m in means.items()}) }", flush=True)
        if arguments.output:
            line = {"base": arguments.base, "setting": setting, "method": arguments.method, "scores": scores}
            with arguments.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main()
