"""Signal of generated cohorts: a linear model learns the additive risks, and not the interaction."""

import numpy as np
import pytest

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.synthetic.generate import generate_cohort
from memamba_core.survival.concordance import concordance_index


def ridge_c_index(risk: str) -> tuple[float, float]:
    """Return the C-index of a linear model of genes and mean patch on a fifth of the cohort, and of the oracle."""
    generated = generate_cohort(SyntheticConfig.parse({"risk": risk, "missing_genes": 0, "missing_slides": 0}, ""))
    cohort = generated.cohort
    rows = [
        np.concatenate([cohort.genes.values_NC[r.gene_row], cohort.features.load(r).patches_PF.mean(dim=0).numpy()])
        for r in cohort.records
    ]
    x = np.array(rows, dtype=np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    time = np.array([r.time_months for r in cohort.records])
    event = np.array([r.event for r in cohort.records])
    test = np.random.default_rng(0).permutation(len(x)) < len(x) // 5
    # Regression on log time stands in for a survival model; good enough to see whether the signal is there.
    y = -np.log(time + 1)
    train = ~test
    gram = x[train].T @ x[train] + 100 * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, x[train].T @ (y[train] - y[train].mean()))
    case_ids = [r.case_id for r, held_out in zip(cohort.records, test, strict=True) if held_out]
    return concordance_index(x[test] @ weight, time[test], event[test]), generated.oracle_c_index_of(case_ids)


@pytest.mark.parametrize("risk", ["genes", "patches", "both"])
def test_the_signal_can_be_learned_from_a_few_hundred_patients(risk):
    reached, oracle = ridge_c_index(risk)
    assert reached > 0.5 + 0.7 * (oracle - 0.5)


def test_the_interaction_cannot_be_learned_by_a_linear_model():
    reached, oracle = ridge_c_index("interaction")
    assert abs(reached - 0.5) < 0.1 < oracle - 0.6
