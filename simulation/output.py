"""The output folder: `summary.json` (a stable contract), `metrics.jsonl`, `predictions.csv`, models and figures."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from memamba_core.config.simulation import SimulationConfig
from memamba_core.model.scan import choose_backend
from memamba_core.training.checkpoint import code_digest
from memamba_core.training.trainer import Predictions, resolve_device
from server.results import versions

from .cohort import SimulatedCohort

__all__ = [
    "FoldOutcome",
    "build_summary",
    "mean_and_std",
    "prediction_rows",
    "scan_backend",
]

METHODS = ("federated", "pooled", "local")
FoldOutcome = dict[str, Any]
"""What is kept of a fold: `fold`, one entry per method that was run (None otherwise), `agreement_digest`,
`oracle_c_index`."""


def prediction_rows(method: str, fold: int, predictions: Predictions, site_of: Mapping[str, str]) -> pd.DataFrame:
    """Out-of-fold predictions, one row per patient. Local to the machine that holds the cohort anyway."""
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


def mean_and_std(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation over folds; no deviation with one fold, None if nothing was run."""
    told = [value for value in values if value is not None]
    if not told:
        return None
    return {"mean": float(np.mean(told)), "std": float(np.std(told, ddof=1)) if len(told) > 1 else None}


def build_summary(
    config: SimulationConfig,
    cohort: SimulatedCohort,
    folds: Sequence[FoldOutcome],
    warnings: Sequence[str],
    overrides: Sequence[str],
) -> dict[str, Any]:
    """The contents of `summary.json`.

    `folds[].federated|pooled|local` and `c_index` are exact C-indices on the union test fold (for `local`: the mean
    over hospitals, weighted by training patients); `details` holds everything else. What was not run is null.
    """
    records = cohort.cohort.records
    rounds_bytes = [b for fold in folds if fold["federated"] for b in fold["federated"]["bytes_per_round"]]
    return {
        "cohort": config.data.name,
        "partition": config.partition.name,
        "num_sites": len(cohort.sites),
        "num_patients": len(records),
        "num_events": cohort.cohort.num_events,
        "num_with_genes": sum(cohort.cohort.has_genes(r) for r in records),
        "num_with_slides": sum(cohort.cohort.has_slides(r) for r in records),
        "sites": {
            name: {"num_patients": len(site.cohort.records), "num_events": site.cohort.num_events}
            for name, site in cohort.sites.items()
        },
        "folds": [{"fold": fold["fold"], **{m: _c_index(fold, m) for m in METHODS}} for fold in folds],
        "c_index": {m: mean_and_std([_c_index(fold, m) for fold in folds]) for m in METHODS},
        "oracle_c_index": (mean_and_std([fold["oracle_c_index"] for fold in folds]) or {}).get("mean"),
        "details": [{key: value for key, value in fold.items() if key != "oracle_c_index"} for fold in folds],
        "seconds": sum(fold[m]["seconds"] for fold in folds for m in METHODS if fold[m]),
        "bytes_per_round": int(np.mean(rounds_bytes)) if rounds_bytes else None,
        "settings": config.model_dump(mode="json"),
        "digests": {
            "experiment": config.experiment.digest(),
            "code": code_digest(),
            "agreement": {str(fold["fold"]): fold["agreement_digest"] for fold in folds},
        },
        "scan_backend": scan_backend(config),
        "warnings": list(warnings),
        "versions": versions(),
        "command": shlex.join(["flower-simulate", *overrides]),
    }


def scan_backend(config: SimulationConfig) -> str:
    """How the selective scan is computed on the device of this run."""
    like = torch.empty(0, device=resolve_device(config.device))
    return choose_backend(config.experiment.model.scan_backend, like)


def _c_index(fold: FoldOutcome, method: str) -> float | None:
    return fold[method]["c_index"] if fold[method] else None
