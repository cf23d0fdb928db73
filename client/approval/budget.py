"""Describe the cost of a run with differential privacy to the operator who approves it."""

from client.private_round import ledger_folder
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import SiteConfig
from memamba_core.errors import MissingBackendError
from memamba_core.privacy.accounting import epsilon_of
from memamba_core.privacy.cap import Cap
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import plan_of

__all__ = ["describe_budget"]


def describe_budget(experiment: Experiment, config: SiteConfig, run_id: str) -> str:
    """Return the epsilon of a run, what this site has spent, and its cap, at the site's delta.

    Epsilon is that of steps that are planned beforehand. Whether the run fits is decided as the ledger decides it.
    Rounds of this run that the ledger holds, because the run asks again in its middle, are spent and not due again.

    Args:
        experiment: settings of the run, with differential privacy.
        config: of the site.
        run_id: name of the run.

    Raises:
        ConfigError: the run's epsilon is out of reach.
        TamperedLogError: the ledger was edited or cut.
    """
    policy = config.privacy
    if policy is None or config.state is None:
        return "site.yaml has no section privacy: the run would be refused"
    try:
        plan = plan_of(experiment)
        assert plan is not None, "the run has differential privacy"
        folder = ledger_folder(config.state)
        ledger = Ledger(folder, config.name, policy.delta) if Ledger.exists(folder) else None
        charges = ledger.charges() if ledger is not None else ()
        cap = ledger.cap(policy.max_epsilon) if ledger is not None else None
        charged = sum(charge.run_id == run_id for charge in charges)
        spent = [charge.spent for charge in charges]
        due = (plan.step, plan.steps_per_round * max(0, plan.num_rounds - charged))
        before, after = epsilon_of(spent, policy.delta), epsilon_of([*spent, due], policy.delta)
        run = epsilon_of([(plan.step, plan.num_steps)], policy.delta)
        cap = cap or Cap.choose(*due, policy.max_epsilon, policy.delta)
    except MissingBackendError:
        return "not known: the accountant (Opacus) is not installed, and the run would be refused"
    share = cap.share([*spent, due])
    beyond = "; ABOVE the cap: last rounds refused" if share is not None and share > 1 else ""
    if share is None:
        beyond = "; NO round fits" + (": the ledger is for other noise" if cap.only else "")
    done = f" ({charged} of {plan.num_rounds} rounds charged)" if charged else ""
    return (
        f"this run {run:.2f}{done}, spent {before:.2f}, after it {after:.2f} of {policy.max_epsilon:g} "
        f"(delta {policy.delta:g}){beyond}"
    )
