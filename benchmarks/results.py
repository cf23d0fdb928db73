"""Run the studies of docs/RESULTS.md and print their tables.

    python benchmarks/results.py genomics            # 1. Genomics Expert alone, pooled, with ablations
    python benchmarks/results.py federated           # 2. federated, pooled and alone, by tissue source site
    python benchmarks/results.py histology           # 3. real slide vectors and genes
    python benchmarks/results.py planted             # 4. generated cohorts: what only fusion can find
    python benchmarks/results.py privacy             # 5. federated under differential privacy, by epsilon
    python benchmarks/results.py privacy-region      #    the same, BRCA by region
    python benchmarks/results.py privacy-slides      #    the same, three experts on LUAD

A study is a list of `flower-simulate` runs; each is made once below --output (default outputs/results), and a run that
is already there is read instead of made again, so an interrupted study goes on. --jobs runs several at once.
"""

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd

from memamba_core.config.compose import compose_simulation
from memamba_core.survival.concordance import concordance_index

COHORTS = ("tcga_blca", "tcga_brca", "tcga_ucec", "tcga_gbmlgg", "tcga_luad")
FOLDS = "folds=[0,1,2,3,4]"


@dataclass(frozen=True)
class Setting:
    """One row of a table: its label and what is overridden."""

    label: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Settings x cohorts x seeds.

    Attributes:
        base: overrides of every run.
        settings: rows.
        cohorts: columns; `data=` of each run.
        seeds: of training.
    """

    base: tuple[str, ...]
    settings: tuple[Setting, ...]
    cohorts: tuple[str, ...]
    seeds: tuple[int, ...]

    def runs(self, root: Path) -> Iterable[tuple[Path, tuple[str, ...]]]:
        """Folder and overrides of every run."""
        for setting in self.settings:
            for cohort in self.cohorts:
                for seed in self.seeds:
                    merged = dict(o.split("=", 1) for o in (*self.base, *setting.overrides))
                    overrides = (f"data={cohort}", f"seed={seed}", *(f"{k}={v}" for k, v in merged.items()))
                    yield root / folder_name(setting.label) / f"{cohort}-seed-{seed}", overrides

    def values(self, root: Path, setting: Setting, cohort: str, method: str) -> np.ndarray:
        """C-index by seed and fold."""
        rows = []
        for seed in self.seeds:
            path = root / folder_name(setting.label) / f"{cohort}-seed-{seed}" / "summary.json"
            rows.append([fold[method] for fold in json.loads(path.read_text(encoding="utf-8"))["folds"]])
        return np.array(rows, dtype=np.float64)


_PLANTED = (
    "data.synthetic.num_patients=1500",
    "data.synthetic.num_genes=12",
    "data.synthetic.feature_width=16",
    "data.synthetic.patches=[24,48]",
    "data.synthetic.missing_genes=0",
    "data.synthetic.missing_slides=0",
    "training.batch_size=32",
    "methods=[pooled]",
)

# An interaction without marginal effect is hard to find: a clear cohort and no regularisation, chosen on another cohort
# (data.synthetic.seed=8).
_INTERACTION = (
    "data.synthetic.risk=interaction",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=6",
    "data.synthetic.patches=[16,16]",
    "data.synthetic.rare_fraction=0.3",
    "data.synthetic.batch_effect=0",
    "data.synthetic.effect=3",
    "data.synthetic.censoring=0.2",
    "model.dropout=0",
    "model.linear_skip=false",
    "training.optimizer.learning_rate=0.003",
    "training.loss.mmd_weight=0",
    "federation.num_rounds=25",
)

# The same, for the agreement of six gene groups with six kinds of patches: settings chosen on the cohort of seed 8. No
# scans, so that the models differ in the synergistic expert alone.
_CORRESPONDENCE = (
    "data.synthetic.risk=correspondence",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=8",
    "data.synthetic.patches=[16,16]",
    "data.synthetic.batch_effect=0",
    "data.synthetic.effect=3",
    "data.synthetic.censoring=0.2",
    "model.dropout=0.1",
    "model.scans=[]",
    "model.linear_skip=false",
    "training.optimizer.learning_rate=0.003",
    "training.loss.mmd_weight=0",
    "federation.num_rounds=25",
)

_ORDER = (
    "data.synthetic.risk=order",
    "data.synthetic.num_patients=1000",
    "data.synthetic.num_genes=6",
    "data.synthetic.feature_width=8",
    "data.synthetic.patches=[36,36]",
    "data.synthetic.rare_fraction=0.2",
    "data.synthetic.effect=2",
    "data.synthetic.censoring=0.3",
    "model=pathology",
    "model.d_model=16",
    "model.dropout=0.1",
    "training.optimizer.learning_rate=0.003",
    "federation.num_rounds=30",
)

_BY_EPSILON = (
    Setting("without", ()),
    *(Setting(f"epsilon {e}", ("privacy=dp_sgd", f"privacy.epsilon={e}")) for e in (16, 8, 4, 2)),
)

STUDIES = {
    "genomics": Study(
        base=("model=genomics", "methods=[pooled]", "federation.num_rounds=14", FOLDS),
        settings=(
            Setting("both scans and linear skip", ()),
            Setting("without linear skip", ("model.linear_skip=false",)),
            Setting("conventional scan only", ("model.scans=[conventional]",)),
            Setting("attention scan only", ("model.scans=[attention]",)),
            Setting("no scan", ("model.scans=[]",)),
            Setting("no scan and no linear skip", ("model.scans=[]", "model.linear_skip=false")),
        ),
        cohorts=COHORTS,
        seeds=(0, 1, 2),
    ),
    "federated": Study(
        base=("model=genomics", "partition=tss", "compare=true", FOLDS),
        settings=(Setting("by tissue source site", ()),),
        cohorts=COHORTS,
        seeds=(0,),
    ),
    "histology": Study(
        base=("methods=[pooled]", FOLDS),
        settings=tuple(
            Setting(f"{label}, {who}", (*overrides, f"data.complete_cases={complete}"))
            for who, complete in (("complete cases", "true"), ("all patients", "false"))
            for label, overrides in (
                ("three experts", ()),
                ("no synergistic expert", ("model=late_fusion",)),
                ("genomics expert", ("model=genomics",)),
                ("pathology expert", ("model=pathology",)),
            )
        ),
        cohorts=("tcga_luad_hif", "tcga_brca_hif"),
        seeds=(0, 1),
    ),
    "planted": Study(
        base=_PLANTED,
        settings=(
            Setting("genes, genomics expert", ("data.synthetic.risk=genes", "model=genomics")),
            Setting("patches, pathology expert", ("data.synthetic.risk=patches", "model=pathology")),
            Setting(
                "patches, pathology expert without scans",
                ("data.synthetic.risk=patches", "model=pathology", "model.scans=[]"),
            ),
            Setting("interaction, three experts", _INTERACTION),
            Setting("interaction, no synergistic expert", (*_INTERACTION, "model=late_fusion")),
            Setting("correspondence, three experts", _CORRESPONDENCE),
            Setting("correspondence, uniform plan", (*_CORRESPONDENCE, "model.transport_epsilon=1000")),
            Setting("correspondence, no synergistic expert", (*_CORRESPONDENCE, "model=late_fusion")),
            Setting("order, both scans", _ORDER),
            Setting("order, conventional scan", (*_ORDER, "model.scans=[conventional]")),
            Setting("order, attention scan", (*_ORDER, "model.scans=[attention]")),
            Setting("order, no scan", (*_ORDER, "model.scans=[]")),
        ),
        cohorts=("synthetic",),
        seeds=(0, 1, 2),
    ),
    "privacy": Study(
        base=("model=genomics", "partition=tss_merged", "partition.min_patients=50", "folds=[0]"),
        settings=_BY_EPSILON,
        cohorts=COHORTS,
        seeds=(0,),
    ),
    "privacy-region": Study(
        base=("model=genomics", "partition=region", "folds=[0]"),
        settings=_BY_EPSILON,
        cohorts=("tcga_brca",),
        seeds=(0,),
    ),
    "privacy-slides": Study(
        base=("partition=tss_merged", "partition.min_patients=50", "folds=[0]"),
        settings=_BY_EPSILON,
        cohorts=("tcga_luad_hif",),
        seeds=(0,),
    ),
}


def folder_name(label: str) -> str:
    """A row's label as a folder: `no scan, all patients` -> `no-scan-all-patients`."""
    return label.replace(",", "").replace(" ", "-")


def make(job: tuple[Path, tuple[str, ...]]) -> str:
    """Make one run, unless it is there."""
    import logging

    import torch

    from simulation.run import simulate

    folder, overrides = job
    if (folder / "summary.json").is_file():
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if len(summary["folds"]) == len(summary["settings"]["folds"]):
            return f"there already: {folder}"
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    where = f"resume={folder}" if (folder / "settings.json").is_file() else f"output_dir={folder}"
    result = simulate(compose_simulation((*overrides, where)), overrides)
    return f"{folder}: {result['c_index']}"


def tell(study: Study, root: Path, methods: Sequence[str]) -> None:
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


def tell_planted(study: Study, root: Path) -> None:
    """Print C-index by seed, its mean ± standard deviation over seeds, and the best reachable on the same patients."""
    print("| planted risk, model | C-index by seed | mean | best reachable |\n|---|---|---|---|")
    (cohort,) = study.cohorts
    for setting in study.settings:
        reached = study.values(root, setting, cohort, "pooled")[:, 0]
        seeds = ", ".join(f"{value:.3f}" for value in reached)
        first = root / folder_name(setting.label) / f"{cohort}-seed-{study.seeds[0]}" / "summary.json"
        best = json.loads(first.read_text(encoding="utf-8"))["oracle_c_index"]
        print(f"| {setting.label} | {seeds} | {reached.mean():.3f} ± {reached.std(ddof=1):.3f} | {best:.3f} |")


def tell_paired(study: Study, root: Path, methods: tuple[str, str]) -> None:
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


def tell_late_sum(study: Study, root: Path) -> None:
    """Print the late sum: risks of the two unimodal runs, standardised within each test fold, added."""
    print("\nLate sum of standardised risks of the genomics and pathology experts:\n")
    for who in ("complete cases", "all patients"):
        for cohort in study.cohorts:
            by_seed = []
            for seed in study.seeds:
                tables = [
                    pd.read_csv(
                        root / folder_name(f"{expert} expert, {who}") / f"{cohort}-seed-{seed}" / "predictions.csv"
                    )
                    for expert in ("genomics", "pathology")
                ]
                by_seed.append(_late_sum(*tables))
            by_fold = np.mean(by_seed, axis=0)
            print(f"* {cohort}, {who}: {by_fold.mean():.3f} ± {by_fold.std(ddof=1):.3f}")


def _late_sum(first: pd.DataFrame, second: pd.DataFrame) -> list[float]:
    """C-index of the summed z-scores, by fold."""
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
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, each in a process with one thread")
    arguments = parser.parse_args()
    study, root = STUDIES[arguments.study], arguments.output / arguments.study
    if arguments.study != "planted" and not os.environ.get("MEMAMBA_DATA"):
        print("skipped: set MEMAMBA_DATA to the folder of the TCGA tables")
        return
    with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
        for line in pool.map(make, list(study.runs(root))):
            print(line, flush=True)
    print()
    if arguments.study == "federated":
        tell(study, root, ("federated", "pooled", "local"))
        tell_paired(study, root, ("federated", "pooled"))
        tell_paired(study, root, ("federated", "local"))
    elif arguments.study == "planted":
        tell_planted(study, root)
    else:
        tell(study, root, ("federated",) if arguments.study.startswith("privacy") else ("pooled",))
    if arguments.study == "histology":
        tell_late_sum(study, root)


if __name__ == "__main__":
    main()
