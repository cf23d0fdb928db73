"""Golden numbers of one tiny run, so that a refactoring that changes results is noticed.

A change that is meant to change them (initialisation, order of random draws, defaults) writes them again:
`MEMAMBA_WRITE_GOLDEN=1 pytest tests/simulation/test_golden.py`, and the commit says why.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fixtures.federation import Federation, tiny

from simulation import methods
from simulation.methods import predict_weights, train_local, train_pooled

GOLDEN = Path(__file__).parents[1] / "golden" / "simulation.json"


def statistics(weights):
    """Statistics of each parameter group: enough to see a change, coarse enough for another BLAS."""
    groups = {}
    for name, array in weights.items():
        groups.setdefault(name.partition(".")[0], []).append(array.ravel().astype(np.float64))
    joined = {group: np.concatenate(arrays) for group, arrays in sorted(groups.items())}
    return {
        group: {"mean": float(v.mean()), "rms": float(np.sqrt((v**2).mean())), "largest": float(np.abs(v).max())}
        for group, v in joined.items()
    }


def run():
    federation = Federation(tiny("federation.curve_holdout=0.2", "strategy=fedprox"))
    result = federation.train()
    experiment, cohort, agreement = federation.config.experiment, federation.cohort, result.agreement
    predictions = predict_weights(result.weights, cohort.test_cohort(0), experiment, agreement, "cpu")
    metrics = methods.evaluate_predictions(predictions, cohort.training_cohort(0, experiment), agreement)
    pooled = train_pooled(cohort, experiment, agreement, 0, "cpu")
    return {
        "time_bin_edges": list(agreement.time_bin_edges),
        "gene_columns": len(agreement.gene_columns),
        "gene_center": float(np.abs(agreement.gene_center).sum()),
        "federated": {key: getattr(metrics, key) for key in ("c_index", "auc_mean", "integrated_brier_score", "loss")},
        "c_index_histogram": result.evaluation.c_index_histogram,
        "train_loss": [[line.train_loss for line in record.sites.values()] for record in result.rounds],
        "incoming_loss": [[line.incoming.loss_sum for line in r.sites.values()] for r in result.rounds],
        "weights": statistics(result.weights),
        "pooled": {"loss": float(pooled.predictions.loss.mean()), "weights": statistics(pooled.weights)},
        "local": train_local(cohort, experiment, agreement, 0, "cpu").c_index,
    }


def compare(got, wanted, path=""):
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), path
        for key, value in wanted.items():
            compare(got[key], value, f"{path}.{key}")
    elif isinstance(wanted, list):
        assert len(got) == len(wanted), path
        for index, (a, b) in enumerate(zip(got, wanted, strict=True)):
            compare(a, b, f"{path}[{index}]")
    else:
        assert got == pytest.approx(wanted, abs=1e-4), path


def test_the_numbers_are_those_of_before():
    got = run()
    if os.environ.get("MEMAMBA_WRITE_GOLDEN"):
        rounded = json.loads(json.dumps(got), parse_float=lambda text: round(float(text), 5))
        GOLDEN.write_text(json.dumps(rounded, indent=1) + "\n")
    compare(got, json.loads(GOLDEN.read_text()))
