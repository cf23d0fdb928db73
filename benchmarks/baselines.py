"""Two plain baselines on the simulation's own folds: ridge Cox on principal components, and age + sex.

    MEMAMBA_DATA=FOLDER python benchmarks/baselines.py [--cohorts tcga_blca ...] [--histology] [--output FILE.json]

A model that does not beat these has learned nothing that a regression does not know. The baselines read the patients,
folds, columns and transforms that `flower-simulate data=...` reads, train on all training patients pooled, and are
evaluated by the same C-index on the same test fold.

* Age + sex: Cox regression (lifelines). A missing age is the median of the training patients.
* Ridge Cox: signed log, clip, scaling with the training patients' moments (the project's own functions), principal
  components of the training patients, then Cox regression with a ridge penalty (scikit-survival).

The number of components and the strength of the penalty are chosen separately in every fold, on its training patients
alone (`ridge_cox.py`). All other settings are constants; none was chosen by looking at test folds.
"""

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memamba_core.io.process_setup import set_up_process

if __name__ == "__main__":
    set_up_process()  # before torch is imported

import numpy as np
import numpy.typing as npt
import pandas as pd
from cohorts import COHORTS, HISTOLOGY_COHORTS, tables_are_here
from lifelines import CoxPHFitter
from lifelines.exceptions import ConvergenceWarning
from rich import box
from rich.console import Console
from rich.table import Table
from ridge_cox import COMPONENTS, INNER_FOLDS, PENALTIES, SEED, Block, RidgeCox, fit_ridge_cox

from memamba_core.config.compose import compose_simulation
from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.genomics.signatures import build_gene_groups
from memamba_core.data.records import Cohort
from memamba_core.data.statistics import column_moments, transform_features, transform_genes
from memamba_core.data.tables import open_table
from memamba_core.survival.concordance import concordance_index
from simulation.cohort import SimulatedCohort, prepare_cohort

FOLDS = (0, 1, 2, 3, 4)
LABELS = {"age_sex": "age + sex", "genes": "ridge, genes", "histology": "ridge, slides", "both": "ridge, both"}

AGE_SEX_PENALTY = 0.01
"""Just enough for a finite estimate: if no man among the BRCA training patients has died, there is none without it."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class FoldResult:
    """C-index of one model on one test fold.

    Attributes:
        fold: the test fold.
        c_index: exact, on all pairs of the test fold.
        num_components, penalty: values chosen on the training patients; None for age + sex.
    """

    fold: int
    c_index: float
    num_components: int | None = None
    penalty: float | None = None


@dataclass(frozen=True)
class Patients:
    """A cohort as plain arrays, one row per patient.

    Attributes:
        time_months, event: follow-up in months; event is True if it happened at that time.
        fold: test fold; -1 for none.
        age_sex_N2: columns `age` and `is_female` of the clinical table; NaN if unknown.
        blocks: `genes`, and `histology` if the cohort has slide-level features.
    """

    time_months: FloatArray
    event: BoolArray
    fold: npt.NDArray[np.int64]
    age_sex_N2: FloatArray
    blocks: dict[str, Block]


def read_patients(config: SimulationConfig) -> Patients:
    """Read a cohort as the simulation does: its patients, its folds, and the columns that its model would read."""
    simulated = prepare_cohort(config)
    cohort = simulated.cohort
    records = cohort.records
    blocks = {"genes": _genes(simulated, config)} if cohort.genes is not None else {}
    if cohort.features is not None:
        blocks["histology"] = _histology(cohort, config.experiment.agreement.scaled_clip)
    return Patients(
        time_months=np.array([r.time_months for r in records]),
        event=np.array([r.event for r in records], dtype=bool),
        fold=np.array([-1 if r.fold is None else r.fold for r in records]),
        age_sex_N2=_age_and_sex(config, cohort),
        blocks=blocks,
    )


def _genes(simulated: SimulatedCohort, config: SimulationConfig) -> Block:
    """Return transformed molecular values in the columns of the gene groups; the model reads no others."""
    cohort, agreement = simulated.cohort, config.experiment.agreement
    table = cohort.genes
    assert table is not None
    groups = build_gene_groups(table.columns, simulated.signatures, by=agreement.gene_groups)
    columns = sorted({index for group in groups.values() for index in group})
    values = np.full((len(cohort.records), len(columns)), np.nan)
    for row, record in enumerate(cohort.records):
        if record.gene_row is not None:
            values[row] = table.values_NC[record.gene_row, columns]
    return Block(transform_genes(values, agreement), agreement.gene_scale_floor, agreement.scaled_clip)


def _histology(cohort: Cohort, clip: float) -> Block:
    """Return transformed features of slides, averaged over a patient's slides."""
    assert cohort.features is not None
    values = np.full((len(cohort.records), cohort.features.width), np.nan)
    for row, record in enumerate(cohort.records):
        bag = cohort.features.load(record)
        if bag is not None:
            moments = column_moments([transform_features(bag.patches_PF.numpy())], cohort.features.width)
            values[row] = np.where(moments.count > 0, moments.mean, np.nan)
    return Block(values, clip=clip)


def _age_and_sex(config: SimulationConfig, cohort: Cohort) -> FloatArray:
    """Return columns `age` and `is_female` of the clinical table, in the order of the cohort."""
    clinical, root = config.data.clinical, config.data.root
    assert clinical is not None
    assert root is not None
    table = open_table(root / clinical.file, clinical)
    for column in ("age", "is_female"):
        table.require(column)
    case_ids = table.text([clinical.case_id])[clinical.case_id]
    row_of = {case_id: row for row, case_id in enumerate(case_ids)}
    values = table.numbers(["age", "is_female"]).astype(np.float64)
    return values[[row_of[record.case_id] for record in cohort.records]]


@dataclass(frozen=True)
class AgeSexCox:
    """A fitted Cox regression on age and sex.

    Attributes:
        model: fitted model of lifelines.
        medians: medians of the training patients, in place of missing values.
        used: mask of the columns that vary: in endometrial cancer all patients are women.
    """

    model: CoxPHFitter
    medians: FloatArray
    used: BoolArray

    def risk(self, age_sex_N2: FloatArray) -> FloatArray:
        """Return the log hazard ratio of each patient; higher is worse."""
        filled = np.where(np.isnan(age_sex_N2), self.medians, age_sex_N2)
        risk = self.model.predict_log_partial_hazard(pd.DataFrame(filled[:, self.used]))
        return np.asarray(risk, dtype=np.float64)


def fit_age_sex(patients: Patients, fold: int) -> AgeSexCox:
    """Fit on all patients outside of the test fold."""
    train, _ = _split(patients, fold)
    values = patients.age_sex_N2[train]
    medians = np.nanmedian(values, axis=0)
    filled = np.where(np.isnan(values), medians, values)
    used = filled.std(axis=0) > 0
    frame = pd.DataFrame(filled[:, used]).assign(time=patients.time_months[train], event=patients.event[train])
    with warnings.catch_warnings():  # nearly all of BRCA are women: the penalty is for that
        warnings.filterwarnings("ignore", "(?s).*very low variance", ConvergenceWarning)
        return AgeSexCox(CoxPHFitter(penalizer=AGE_SEX_PENALTY).fit(frame, "time", "event"), medians, used)


def fit_ridge(patients: Patients, names: Sequence[str], fold: int) -> RidgeCox:
    """Choose settings and fit on all patients outside of the test fold, from the blocks named."""
    train, _ = _split(patients, fold)
    blocks = [patients.blocks[name].rows(train) for name in names]
    return fit_ridge_cox(blocks, patients.time_months[train], patients.event[train])


def _split(patients: Patients, fold: int) -> tuple[BoolArray, BoolArray]:
    """Return masks of training and test patients; patients in no fold are in neither, as in the simulation."""
    return (patients.fold >= 0) & (patients.fold != fold), patients.fold == fold


def evaluate_fold(patients: Patients, names: Sequence[str], fold: int) -> FoldResult:
    """Fit, and evaluate on the test fold; without names of blocks, the model is age + sex."""
    _, test = _split(patients, fold)
    chosen: dict[str, Any] = {}
    if names:
        model = fit_ridge(patients, names, fold)
        risk = model.risk([patients.blocks[name].rows(test) for name in names])
        chosen = {"num_components": model.num_components, "penalty": model.penalty}
    else:
        risk = fit_age_sex(patients, fold).risk(patients.age_sex_N2[test])
    return FoldResult(fold, concordance_index(risk, patients.time_months[test], patients.event[test]), **chosen)


def run_cohort(name: str) -> dict[str, Any]:
    """Evaluate all models on all folds of a cohort.

    Returns:
        Numbers of patients, events and columns, `seconds`, and in `models` for each model its folds with `mean` and
        `std` (sample standard deviation over folds).
    """
    start = time.perf_counter()
    complete = name in HISTOLOGY_COHORTS
    config = compose_simulation([f"data={name}", f"data.complete_cases={str(complete).lower()}"])
    patients = read_patients(config)
    kinds: dict[str, tuple[str, ...]] = {"age_sex": (), "genes": ("genes",)}
    if complete:
        kinds |= {"histology": ("histology",), "both": ("histology", "genes")}
    models: dict[str, Any] = {}
    for kind, blocks in kinds.items():
        results = [evaluate_fold(patients, blocks, fold) for fold in FOLDS]
        values = [r.c_index for r in results]
        models[kind] = {
            "mean": float(np.mean(values)),
            "std": float(np.std(values, ddof=1)),
            "folds": [asdict(r) for r in results],
        }
    return {
        "cohort": name,
        "num_patients": len(patients.event),
        "num_events": int(patients.event.sum()),
        "num_columns": {block: values.values_NC.shape[1] for block, values in patients.blocks.items()},
        "models": models,
        "seconds": time.perf_counter() - start,
    }


def show(outcomes: Sequence[dict[str, Any]]) -> Table:
    """Build a table with a row per cohort and model: mean, standard deviation, and every fold."""
    table = Table(
        title="C-index: mean ± sample std over the test folds, and each of them", box=box.SIMPLE, pad_edge=False
    )
    for column in ("cohort", "model", "mean ± std", *(str(fold) for fold in FOLDS)):
        table.add_column(column, justify="left" if column in ("cohort", "model") else "right", no_wrap=True)
    for outcome in outcomes:
        for index, (kind, model) in enumerate(outcome["models"].items()):
            table.add_row(
                outcome["cohort"].removeprefix("tcga_") if index == 0 else "",
                LABELS[kind],
                f"{_digits(model['mean'])} ± {_digits(model['std'])}",
                *(_digits(r["c_index"]) for r in model["folds"]),
            )
        table.add_section()
    return table


def _digits(value: float) -> str:
    """Format with three digits; without the leading zero the table fits into 80 columns."""
    return f"{value:.3f}".removeprefix("0")


def describe(outcome: dict[str, Any]) -> str:
    """Describe a cohort: its size, the time taken, and the settings chosen in the folds."""
    columns = ", ".join(f"{num} columns of {name}" for name, num in outcome["num_columns"].items())
    size = f"{outcome['num_patients']} patients, {outcome['num_events']} deaths, {columns}"
    lines = [f"{outcome['cohort']}: {size}; {outcome['seconds']:.0f} s"]
    for kind, model in outcome["models"].items():
        if model["folds"][0]["num_components"] is not None:
            chosen = ", ".join(f"{r['num_components']} ({r['penalty']:.2g})" for r in model["folds"])
            lines.append(f"  {LABELS[kind]}: components (penalty) chosen per fold: {chosen}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, and write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = (*COHORTS, *HISTOLOGY_COHORTS)
    parser.add_argument(
        "--cohorts", nargs="+", choices=known, default=None, help="cohorts to evaluate (default: the five of MCAT)"
    )
    parser.add_argument(
        "--histology", action="store_true", help=f"add {' and '.join(HISTOLOGY_COHORTS)}: slides, genes, both"
    )
    parser.add_argument("--output", type=Path, help="also write the numbers to this JSON file")
    options = parser.parse_args(arguments)
    if not tables_are_here():
        return
    console = Console()
    names = list(options.cohorts or COHORTS) + (list(HISTOLOGY_COHORTS) if options.histology else [])
    outcomes = []
    for name in dict.fromkeys(names):
        outcomes.append(run_cohort(name))
        console.print(describe(outcomes[-1]), highlight=False, soft_wrap=True)
    console.print(show(outcomes))
    if len(five := [o for o in outcomes if o["cohort"] in COHORTS]) == len(COHORTS):
        means = {kind: np.mean([o["models"][kind]["mean"] for o in five]) for kind in ("age_sex", "genes")}
        console.print(
            "mean of the five cohorts: " + "; ".join(f"{LABELS[kind]} {mean:.3f}" for kind, mean in means.items()),
            highlight=False,
        )
    if options.output is not None:
        settings = {"components": COMPONENTS, "penalties": PENALTIES, "inner_folds": INNER_FOLDS, "seed": SEED}
        options.output.write_text(json.dumps({"settings": settings, "cohorts": outcomes}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
