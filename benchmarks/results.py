"""Run the studies of docs/results/survival.md and print their tables.

    python benchmarks/results.py genomics            # 1. Genomics Expert alone, pooled, with ablations
    python benchmarks/results.py federated           # 2. federated, pooled and alone, by tissue source site
    python benchmarks/results.py histology           # 3. real slide vectors and genes
    python benchmarks/results.py slide_skip          # 3. the pathology expert with an additional linear path
    python benchmarks/results.py planted             # 4. generated cohorts: effects that only fusion can find
    python benchmarks/results.py privacy             # 5. federated under differential privacy, by epsilon
    python benchmarks/results.py privacy-region      #    the same, BRCA by region
    python benchmarks/results.py privacy-slides      #    the same, three experts on LUAD

A study is a list of `flower-simulate` runs. Each is made once, in a folder below --output (default outputs/results). A
run that exists is read instead, so that an interrupted study can be resumed. --jobs makes several runs at a time.
"""

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
import pandas as pd
from cohorts import tables_are_here
from studies import PLANTED_PAIRS, STUDIES, Study, folder_name

from memamba_core.config.compose import compose_simulation
from memamba_core.survival.concordance import concordance_index


def make(job: tuple[Path, tuple[str, ...]]) -> str:
    """Make one run, unless it exists."""
    import logging

    set_up_process()  # in each process of the pool: the allocator's setting is not inherited
    import torch

    from simulation.run import simulate

    folder, overrides = job
    if (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if len(summary["folds"]) == len(summary["settings"]["folds"]):
            return f"exists: {folder}"
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    where = f"resume={folder}" if (folder / "settings.json").is_file() else f"output_dir={folder}"
    result = simulate(compose_simulation((*overrides, where)), overrides)
    return f"{folder}: {result.summary.c_index.model_dump(mode='json')}"


def print_table(study: Study, root: Path, methods: Sequence[str]) -> None:
    """Print the tables in Markdown: mean over seeds and folds ± standard deviation over folds of the seeds' mean."""
    header = ["", *study.cohorts, *(["mean"] if len(study.cohorts) > 2 else [])]
    print("| " + " | ".join(header) + " |\n|" + "---|" * len(header))
    for setting in study.settings:
        for method in methods:
            cells, means = [], []
            for cohort in study.cohorts:
                by_fold = study.values(root, setting, cohort, method).mean(axis=0)
                means.append(by_fold.mean())
                spread = f" ± {by_fold.std(ddof=1):.3f}" if len(by_fold) > 1 else ""
                cells.append(f"{by_fold.mean():.3f}{spread}")
            if len(study.cohorts) > 2:
                cells.append(f"{np.mean(means):.3f}")
            label = setting.label if len(methods) == 1 else method
            print("| " + " | ".join([label, *cells]) + " |")


def print_planted(study: Study, root: Path) -> None:
    """Print C-index by seed, its mean ± standard deviation over seeds, the best possible, and paired differences."""
    print("| planted risk, model | C-index by seed | mean | best reachable |\n|---|---|---|---|")
    (cohort,) = study.cohorts
    for setting in study.settings:
        reached = study.values(root, setting, cohort, "pooled")[:, 0]
        seeds = ", ".join(f"{value:.3f}" for value in reached)
        runs = (root / folder_name(setting.label) / f"{cohort}-seed-{seed}" for seed in study.seeds)
        best = np.mean([json.loads((run / "summary.json").read_text("utf-8"))["oracle_c_index"] for run in runs])
        print(f"| {setting.label} | {seeds} | {reached.mean():.3f} ± {reached.std(ddof=1):.3f} | {best:.3f} |")
    print()
    by_label = {setting.label: setting for setting in study.settings}
    for first, second in PLANTED_PAIRS:
        one, two = (study.values(root, by_label[label], cohort, "pooled")[:, 0] for label in (first, second))
        print(f"{first} - {second}: {', '.join(f'{d:+.3f}' for d in one - two)}, mean {(one - two).mean():+.3f}")


def print_paired(study: Study, root: Path, methods: tuple[str, str]) -> None:
    """Print the paired difference of two methods over all folds of all cohorts."""
    differences = np.concatenate(
        [
            (study.values(root, s, c, methods[0]) - study.values(root, s, c, methods[1])).ravel()
            for s in study.settings
            for c in study.cohorts
        ]
    )
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    spread = f"± {error:.4f} (standard error, {len(differences)} folds)"
    print(f"\n{methods[0]} - {methods[1]}: {differences.mean():+.4f} {spread}")


def print_late_sum(study: Study, root: Path) -> None:
    """Print the late sum: risks of the two unimodal runs, standardised within each test fold, added."""
    print("\nLate sum of standardised risks of the genomics and pathology experts:\n")
    for patients in ("complete cases", "all patients"):
        for cohort in study.cohorts:
            by_seed = []
            for seed in study.seeds:
                tables = [
                    pd.read_csv(
                        root / folder_name(f"{expert} expert, {patients}") / f"{cohort}-seed-{seed}" / "predictions.csv"
                    )
                    for expert in ("genomics", "pathology")
                ]
                by_seed.append(_late_sum(*tables))
            by_fold = np.mean(by_seed, axis=0)
            print(f"* {cohort}, {patients}: {by_fold.mean():.3f} ± {by_fold.std(ddof=1):.3f}")


def _late_sum(first: pd.DataFrame, second: pd.DataFrame) -> list[float]:
    """Return the C-index of the summed z-scores, by fold."""
    both = first.merge(second[["case_id", "risk"]], on="case_id", suffixes=("", "_2"))
    indices = []
    for _, fold in both.groupby("fold"):
        z = sum((fold[c] - fold[c].mean()) / max(fold[c].std(), 1e-12) for c in ("risk", "risk_2"))
        indices.append(
            concordance_index(
                np.asarray(z, dtype=np.float64), fold["time_months"].to_numpy(float), fold["event"].to_numpy(bool)
            )
        )
    return indices


def main() -> None:
    """Make a study's runs and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--output", type=Path, default=Path("outputs/results"))
    parser.add_argument(
        "--jobs", type=int, default=1, help="number of runs at a time, each in a process with one thread"
    )
    arguments = parser.parse_args()
    study, root = STUDIES[arguments.study], arguments.output / arguments.study
    if arguments.study != "planted" and not tables_are_here():
        return
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for line in pool.map(make, list(study.runs(root))):
            print(line, flush=True)
    print()
    if arguments.study == "federated":
        print_table(study, root, ("federated", "pooled", "local"))
        print_paired(study, root, ("federated", "pooled"))
        print_paired(study, root, ("federated", "local"))
    elif arguments.study == "planted":
        print_planted(study, root)
    else:
        print_table(study, root, ("federated",) if arguments.study.startswith("privacy") else ("pooled",))
    if arguments.study == "histology":
        print_late_sum(study, root)


if __name__ == "__main__":
    main()
