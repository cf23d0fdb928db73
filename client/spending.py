"""What a site's patients have spent of their privacy, for the person who answers for it."""

from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import SitePrivacy
from memamba_core.errors import ConfigError
from memamba_core.privacy.ledger import Charge, Ledger, epsilon_in_sites

__all__ = ["spending_report"]


def spending_report(folder: Path, site: str, policy: SitePrivacy | None) -> Iterator[str]:
    """The ledger in lines of text: by run, in all, and for a patient who is in two hospitals.

    Args:
        folder: of the ledger.
        site: name of the site.
        policy: section `privacy` of `site.yaml`.

    Raises:
        ConfigError: there is a ledger, and no section `privacy` that says at which delta it counts.
        TamperedLogError: the ledger is not as this site left it.
        MissingBackendError: the accountant is not installed.
    """
    if not Ledger.exists(folder):
        yield "nothing was ever charged here: no run with differential privacy has trained on this site's patients"
        return
    if policy is None:
        raise ConfigError(
            f"{folder}: there is a ledger, but site.yaml has no section privacy; put it back as it was (delta must not "
            "change)"
        )
    ledger = Ledger(folder, site, policy.delta)
    charges = ledger.charges()
    yield f"patient-level differential privacy, adding or removing one patient, at delta {policy.delta:g}"
    yield f"{'run':32} {'rounds':>7} {'steps':>7} {'epsilon':>9}"
    for run_id in dict.fromkeys(charge.run_id for charge in charges):
        yield _line(run_id, [c for c in charges if c.run_id == run_id], ledger.epsilon(run_id))
    total = ledger.epsilon()
    yield _line("in all", list(charges), total)
    twice = epsilon_in_sites([c.spent for c in charges], 2, policy.delta)
    yield f"a patient who is in two such hospitals has spent {twice:.3f} (at the same delta)"
    left = max(0.0, policy.max_epsilon - total)
    yield f"this site's cap, privacy.max_epsilon: {policy.max_epsilon:g}; left: {left:.3f}"


def _line(name: str, charges: list[Charge], epsilon: float) -> str:
    return f"{name:32} {len(charges):7d} {sum(c.steps for c in charges):7d} {epsilon:9.3f}"
