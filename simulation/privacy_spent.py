"""Read what the ledgers of simulated sites recorded as spent."""

from pathlib import Path

from client.private_round import ledger_folder
from memamba_core.config.experiment import Experiment
from memamba_core.privacy.ledger import Ledger, read_spending
from memamba_core.privacy.plan import plan_of

from .cohort import SimulatedCohort
from .summary import PrivacySpent

__all__ = ["privacy_spent"]


def privacy_spent(experiment: Experiment, cohort: SimulatedCohort, state: Path | None) -> PrivacySpent | None:
    """Read epsilon from the sites' ledgers; None without differential privacy.

    Args:
        experiment: settings with the privacy plan.
        cohort: the simulated sites.
        state: folder with one folder for each site that was asked to train.

    Returns:
        `epsilon` is the largest of `epsilon_of_site`: what a patient of one site has spent. The other numbers are
        `epsilon_in_two_sites` and the plan that all of them follow from.
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
    return PrivacySpent(
        delta=plan.delta,
        noise_multiplier=plan.step.noise_multiplier,
        sampling_rate=plan.step.sampling_rate,
        steps_per_round=plan.steps_per_round,
        max_norm=plan.max_norm,
        epsilon=most.epsilon if most else 0.0,
        epsilon_in_two_sites=most.epsilon_in_two_sites if most else 0.0,
        epsilon_of_site={name: spending.epsilon for name, spending in spent.items()},
    )
