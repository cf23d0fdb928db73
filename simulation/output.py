"""Output folder of a run: contents of `summary.json`, rows of `predictions.csv`."""

import shlex
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from memamba_core.config.simulation import SimulationConfig
from memamba_core.model.scan import choose_backend
from memamba_core.training.checkpoint import code_digest
from memamba_core.training.trainer import Predictions, resolve_device
from memamba_core.wire.versions import versions

from .cohort import SimulatedCohort
from .summary import (
    METHODS,
    FoldOutcome,
    FoldSummary,
    MeanStd,
    MethodScores,
    SimulationDigests,
    SimulationSummary,
    SiteCounts,
)

__all__ = ["build_summary", "mean_and_std", "prediction_rows", "scan_backend"]


def prediction_rows(method: str, fold: int, predictions: Predictions, site_of: Mapping[str, str]) -> pd.DataFrame:
    """Return out-of-fold predictions, one row per patient. They stay on the machine that holds the cohort."""
    return pd.DataFrame(
        {
            "method": method,
            "fold": fold,
            "case_id": predictions.case_ids,
            "site": [site_of[case_id] for case_id in predictions.case_ids],
            "risk": predictions.risk,
            "time_months": predictions.time_months,
            "event": predictions.event.astype(int),
        }
    )


def mean_and_std(values: Sequence[float | None]) -> MeanStd | None:
    """Return mean and sample standard deviation of the defined values; None where there are none."""
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    return MeanStd(mean=float(np.mean(defined)), std=float(np.std(defined, ddof=1)) if len(defined) > 1 else None)


def build_summary(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    folds: Sequence[FoldOutcome],
    warnings: Sequence[str],
    overrides: Sequence[str],
) -> SimulationSummary:
    """Build the contents of `summary.json` from the folds that are finished."""
    records = cohort.cohort.records
    rounds_bytes = [b for fold in folds if fold.federated for b in fold.federated.bytes_per_round]
    outcomes = [outcome for fold in folds for m in METHODS if (outcome := getattr(fold, m)) is not None]
    oracle = mean_and_std([fold.oracle_c_index for fold in folds])
    return SimulationSummary(
        cohort=config.data.name,
        partition=config.partition.name,
        num_sites=len(cohort.sites),
        num_patients=len(records),
        num_events=cohort.cohort.num_events,
        num_with_genes=sum(cohort.cohort.has_genes(r) for r in records),
        num_with_slides=sum(cohort.cohort.has_slides(r) for r in records),
        num_gene_columns=cohort.num_gene_columns,
        sites={
            name: SiteCounts(num_patients=len(site.cohort.records), num_events=site.cohort.num_events)
            for name, site in cohort.sites.items()
        },
        folds=[FoldSummary(fold=fold.fold, **{m: fold.c_index(m) for m in METHODS}) for fold in folds],
        c_index=MethodScores(**{m: mean_and_std([fold.c_index(m) for fold in folds]) for m in METHODS}),
        oracle_c_index=None if oracle is None else oracle.mean,
        details=[fold.details() for fold in folds],
        seconds=float(sum(outcome.seconds for outcome in outcomes)),
        bytes_per_round=int(np.mean(rounds_bytes)) if rounds_bytes else None,
        settings=config.model_dump(mode="json"),
        digests=SimulationDigests(
            experiment=config.experiment.digest(),
            code=code_digest(),
            agreement={str(fold.fold): fold.agreement_digest for fold in folds},
        ),
        scan_backend=scan_backend(config),
        warnings=list(warnings),
        versions=versions(),
        command=shlex.join(["flower-simulate", *overrides]),
    )


def scan_backend(config: SimulationConfig) -> str:
    """Return the implementation of the selective scan on the device of this run."""
    like = torch.empty(0, device=resolve_device(config.device))
    return choose_backend(config.experiment.model.scan_backend, like)
