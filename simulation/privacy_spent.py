"""What the ledgers of simulated hospitals say they spent."""

from pathlib import Path
from typing import Any

from client.private_round import ledger_folder
from memamba_core.config.experiment import Experiment
from memamba_core.privacy.ledger import Ledger, read_spending
from memamba_core.privacy.plan import plan_of

from .cohort import SimulatedCohort

__all__ = ["privacy_spent"]


def privacy_spent(experiment: Experiment, cohort: SimulatedCohort, state: Path | None) -> dict[str, Any] | None:
    """Epsilon by the hospitals' ledgers, read from their folders; None without differential privacy.

    Args:
        experiment: with the plan.
        cohort: its hospitals.
        state: holds a folder for each hospital that was asked to train.

    Returns:
        `epsilon_of_site`, `epsilon` (the largest of them: what a patient of one hospital has spent),
        `epsilon_in_two_sites`, and the plan they follow from.
    """
    plan = plan_of(experiment)
    if plan is None or state is None:
        return None
    spent = {}
    for name in sorted(cohort.sites):
        folder = ledger_folder(state / name)
        if Ledger.exists(folder):
            spent[name] = read_spending(folder, name, plan.delta)
    most = max(spent.values(), key=lambda spending: spending.epsilon, default=None)
    return {
        "delta": plan.delta,
        "noise_multiplier": plan.step.noise_multiplier,
        "sampling_rate": plan.step.sampling_rate,
        "steps_per_round": plan.steps_per_round,
        "max_norm": plan.max_norm,
        "epsilon": most.epsilon if most else 0.0,
        "epsilon_in_two_sites": most.epsilon_in_two_sites if most else 0.0,
        "epsilon_of_site": {name: spending.epsilon for name, spending in spent.items()},
    }
