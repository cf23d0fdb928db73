"""Run a simulation from settings to results: folds one after the other, each method once, everything resumable."""

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pydantic

from memamba_core.config.compose import compose_simulation
from memamba_core.config.simulation import SimulationConfig
from memamba_core.data.features.patch_folder import PatchFolder
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError, FederationError, MemambaError
from memamba_core.io.atomic import write_atomically
from memamba_core.training.checkpoint import Checkpoint, code_digest, load_checkpoint, save_checkpoint
from memamba_core.training.trainer import resolve_device
from server.attendance import Attendance, describe_absences
from server.federation.handshake import Run
from server.federation.journal import Journal
from server.logs import also_log_to
from server.results import write_json, write_rounds
from simulation.figures.draw import draw_figures
from simulation.grid.build import open_grid
from simulation.grid.local import LocalGrid

from .cohort import SimulatedCohort, prepare_cohort
from .flower_log import quiet_flower_log
from .fold_checks import can_be_ranked
from .methods import (
    build_agreement_only,
    evaluate_predictions,
    predict_weights,
    train_federated,
    train_local,
    train_pooled,
)
from .output import build_summary, prediction_rows, scan_backend
from .privacy_spent import privacy_spent
from .progress import ProgressReporter
from .run_folder import open_run_folder, remove_unused_folder
from .summary import METHODS, FederatedOutcome, FoldOutcome, PooledOutcome, SimulationSummary

__all__ = ["SimulationResult", "simulate"]

_log = logging.getLogger(__name__)
_PACKAGES = ("memamba_core", "server", "client", "simulation")


@dataclass(frozen=True)
class SimulationResult:
    """Outcome of a simulation.

    Attributes:
        summary: contents of `summary.json`.
        folder: output folder; `memamba_core.load_model` reads the federation's model from it.
        patients: the cohort that was simulated. The `fold` of a record is the test fold that held the patient out.
    """

    summary: SimulationSummary
    folder: Path
    patients: Cohort


def simulate(
    config: SimulationConfig | Sequence[str] = (),
    overrides: Sequence[str] = (),
    progress: ProgressReporter | None = None,
    *,
    config_dir: Path | None = None,
) -> SimulationResult:
    """Run a simulation and write its output folder.

    Args:
        config: settings, or overrides to compose them from, such as `["model=genomics", "seed=1"]`.
        overrides: with composed settings, the overrides that they were composed from, for the record.
        progress: shows progress; None shows nothing.
        config_dir: with overrides, a folder with more settings files, in the layout of `configs/`.

    Raises:
        ConfigError: settings are unknown or do not fit the cohort or this machine, the output folder is in use, or
            `resume` names another run.
        MissingBackendError: the settings name a scan that is not installed.
        DataError: the cohort cannot be read.
        FederationError: too few sites gave accepted answers; `resume` continues after the last finished round.
    """
    if not isinstance(config, SimulationConfig):
        overrides, config = tuple(config), compose_simulation(config, config_dir)
    import torch

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    progress = progress or ProgressReporter(quiet=True)
    backend = scan_backend(config)
    cohort = prepare_cohort(config)
    if config.runs("federated"):
        config.experiment.check_number_of_sites(len(cohort.sites))
    _check_patch_files(cohort)
    folder = open_run_folder(config, overrides)
    try:
        with quiet_flower_log(), also_log_to(folder / "run.log", _PACKAGES):
            _log.info("device %s, scan: %s", resolve_device(config.device), backend)
            progress.start(config, cohort, folder)
            started = time.perf_counter()
            outcomes = []
            for fold in config.folds:
                outcomes.append(_run_fold(config, cohort, fold, folder / f"fold-{fold}", progress))
                summary = _write_results(config, overrides, cohort, outcomes, folder)
            _log.info("finished in %.1f s", time.perf_counter() - started)
    except FederationError as error:
        raise FederationError(f"{error}. {folder / 'run.log'} says which sites were left out, and why") from None
    except (MemambaError, KeyboardInterrupt):
        remove_unused_folder(folder)
        raise
    return SimulationResult(summary, folder, cohort.cohort)


def _check_patch_files(cohort: SimulatedCohort) -> None:
    """Find a damaged file before training: in a round, its site would only be missing from the federation."""
    store = cohort.cohort.features
    if isinstance(store, PatchFolder):
        for record in cohort.cohort.records:
            store.inspect(record)


def _run_fold(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    fold: int,
    folder: Path,
    progress: ProgressReporter,
) -> FoldOutcome:
    """Run all methods of a fold. Finished methods are kept in `outcome.json` and not repeated."""
    folder.mkdir(exist_ok=True)
    path = folder / "outcome.json"
    outcome = _read_outcome(path) if path.is_file() else FoldOutcome(fold=fold)
    progress.start_fold(fold)
    experiment, site_of = config.experiment, cohort.site_of()
    run = Run(f"{config.data.name}-fold-{fold}", experiment, fold)
    wanted = [m for m in METHODS if config.runs(m) and getattr(outcome, m) is None]
    if not wanted:
        return outcome
    state = folder / "sites" if experiment.privacy.name != "none" else None
    grid = open_grid(config, cohort, progress.on_reply, state)
    try:
        if "federated" in wanted:
            federated = _federate(config, run, cohort, grid, folder, progress)
            federated = federated.model_copy(update={"privacy": privacy_spent(experiment, cohort, state)})
            outcome = outcome.model_copy(update={"federated": federated})
            write_json(path, outcome.model_dump(mode="json"))
        agreement = (
            load_checkpoint(folder).agreement if config.runs("federated") else build_agreement_only(grid, run, cohort)
        )
    finally:
        grid.close()
    outcome = outcome.model_copy(
        update={"agreement_digest": agreement.digest(), "oracle_c_index": _oracle(cohort, fold)}
    )
    if "pooled" in wanted:
        progress.start_method("pooled", experiment.federation.num_rounds * experiment.federation.local_epochs)
        pooled = train_pooled(cohort, experiment, agreement, fold, config.device, progress.on_epoch)
        metrics = evaluate_predictions(pooled.predictions, cohort.training_cohort(fold, experiment), agreement)
        outcome = outcome.model_copy(
            update={"pooled": PooledOutcome(**metrics.model_dump(), seconds=pooled.seconds)},
        )
        _write_table(folder / "predictions-pooled.csv", prediction_rows("pooled", fold, pooled.predictions, site_of))
        save_checkpoint(
            folder,
            "pooled",
            Checkpoint(pooled.weights, experiment, agreement, experiment.federation.num_rounds, code_digest()),
        )
        write_json(path, outcome.model_dump(mode="json"))
    if "local" in wanted:
        progress.start_method("local", len(cohort.sites))
        local = train_local(cohort, experiment, agreement, fold, config.device, progress.on_site)
        outcome = outcome.model_copy(update={"local": local})
    write_json(path, outcome.model_dump(mode="json"))
    return outcome


def _read_outcome(path: Path) -> FoldOutcome:
    """Read the finished methods of a fold from an earlier run."""
    try:
        return FoldOutcome.model_validate_json(path.read_text(encoding="utf-8"))
    except (pydantic.ValidationError, UnicodeDecodeError) as error:
        detail = str(error)
        if isinstance(error, pydantic.ValidationError):
            first = error.errors()[0]
            detail = f"{'.'.join(str(part) for part in first['loc']) or 'file'}: {first['msg']}"
        raise ConfigError(
            f"{path} is not as this version writes it ({detail}). Restore the file, or delete it to recompute the fold"
        ) from None


def _federate(
    config: SimulationConfig,
    run: Run,
    cohort: SimulatedCohort,
    grid: LocalGrid,
    folder: Path,
    progress: ProgressReporter,
) -> FederatedOutcome:
    """Train the federation of a fold and write its model, predictions and metrics."""
    start, experiment = time.perf_counter(), config.experiment
    journal = Journal(folder / "journal", experiment.digest(), run.fold)
    progress.start_method("federated", experiment.federation.num_rounds)
    result = train_federated(grid, run, cohort, journal, progress)
    seconds = sum(record.seconds for record in result.rounds)
    predictions = predict_weights(
        result.weights, cohort.test_cohort(run.fold), experiment, result.agreement, config.device
    )
    save_checkpoint(
        folder,
        "model",
        Checkpoint(result.weights, experiment, result.agreement, len(result.rounds), code_digest()),
    )
    _write_table(
        folder / "predictions-federated.csv",
        prediction_rows("federated", run.fold, predictions, cohort.site_of()),
    )
    write_rounds(folder / "metrics.jsonl", run.fold, result.rounds)
    _log.info("fold %d federated in %.1f s", run.fold, time.perf_counter() - start)
    metrics = evaluate_predictions(predictions, cohort.training_cohort(run.fold, experiment), result.agreement)
    return FederatedOutcome(
        **metrics.model_dump(),
        c_index_histogram=None if metrics.c_index is None else result.evaluation.c_index_histogram,
        c_index_within_site=None if metrics.c_index is None else result.evaluation.c_index_within_site,
        closing_evaluation=result.evaluation.sites,
        time_bin_edges=list(result.agreement.time_bin_edges),
        num_gene_columns=len(result.agreement.gene_columns),
        num_parameters=int(sum(array.size for array in result.weights.values())),
        left_out={site: failure.text for site, failure in result.failures.items()},
        warnings=[*result.warnings, *describe_absences(result)],
        attendance=Attendance.of(result),
        bytes_per_round=[record.bytes_sent + record.bytes_received for record in result.rounds],
        seconds=seconds,
    )


def _oracle(cohort: SimulatedCohort, fold: int) -> float | None:
    """Return the best reachable C-index on a test fold; None for a real cohort, or of too few pairs."""
    test = cohort.test_cohort(fold).records
    if cohort.synthetic is None or not can_be_ranked([r.time_months for r in test], [r.event for r in test]):
        return None
    return cohort.synthetic.oracle_c_index_of([r.case_id for r in test])


def _write_results(
    config: SimulationConfig,
    overrides: Sequence[str],
    cohort: SimulatedCohort,
    outcomes: Sequence[FoldOutcome],
    folder: Path,
) -> SimulationSummary:
    """Write the files at the top of the output folder from the folders of the finished folds."""
    folds = [folder / f"fold-{outcome.fold}" for outcome in outcomes]
    lines = [path.read_text(encoding="utf-8") for f in folds if (path := f / "metrics.jsonl").is_file()]
    with write_atomically(folder / "metrics.jsonl") as partial:
        partial.write_text("".join(lines), encoding="utf-8")
    tables = [pd.read_csv(path, dtype={"case_id": str}) for f in folds for path in sorted(f.glob("predictions-*.csv"))]
    predictions = pd.concat(tables, ignore_index=True) if tables else None
    if predictions is not None:
        _write_table(folder / "predictions.csv", predictions)
    if (folds[0] / "model.json").is_file():
        save_checkpoint(folder, "model", load_checkpoint(folds[0]))
    warnings = [*cohort.warnings]
    warnings += [w for outcome in outcomes if outcome.federated for w in outcome.federated.warnings]
    summary = build_summary(config, cohort, outcomes, list(dict.fromkeys(warnings)), overrides)
    draw_figures(folder, summary, predictions, [json.loads(line) for text in lines for line in text.splitlines()])
    write_json(folder / "summary.json", summary.model_dump(mode="json"))
    return summary


def _write_table(path: Path, table: pd.DataFrame) -> None:
    with write_atomically(path) as partial:
        table.to_csv(partial, index=False, float_format="%.6g")
