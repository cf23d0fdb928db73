"""Privacy budget report: the epsilon that a site's patients have spent, for its data protection officer."""

from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import SitePrivacy
from memamba_core.errors import ConfigError
from memamba_core.privacy.ledger import Charge, Ledger, epsilon_in_sites

__all__ = ["spending_report"]


def spending_report(folder: Path, site: str, policy: SitePrivacy | None) -> Iterator[str]:
    """Report the ledger in lines of text: per run, in total, and for a patient with records at two sites.

    Args:
        folder: of the ledger.
        site: name of the site.
        policy: section `privacy` of `site.yaml`.

    Raises:
        ConfigError: there is a ledger, but no section `privacy`, which gives the ledger's delta.
        TamperedLogError: the ledger was edited or truncated.
        MissingBackendError: the accountant is not installed.
    """
    if not Ledger.exists(folder):
        yield "no charge so far: no run with differential privacy has trained on this site's patients"
        return
    if policy is None:
        raise ConfigError(
            f"{folder} holds a ledger, but site.yaml has no section privacy. Restore the section unchanged (delta must "
            "not change)"
        )
    ledger = Ledger(folder, site, policy.delta)
    charges = ledger.charges()
    yield f"patient-level differential privacy (add or remove one patient) at delta {policy.delta:g}"
    yield f"{'run':32} {'rounds':>7} {'steps':>7} {'epsilon':>9}"
    for run_id in dict.fromkeys(charge.run_id for charge in charges):
        yield _line(run_id, [c for c in charges if c.run_id == run_id], ledger.epsilon(run_id))
    total = ledger.epsilon()
    yield _line("total", list(charges), total)
    two_sites = epsilon_in_sites([c.spent for c in charges], 2, policy.delta)
    yield f"a patient with records at two such sites has spent {two_sites:.3f} (at the same delta)"
    yield (
        f"the total holds for runs that are planned beforehand. In whatever order runs are chosen, they stay under "
        f"this site's cap, privacy.max_epsilon: {policy.max_epsilon:g}"
    )
    cap = ledger.cap(policy.max_epsilon)
    assert cap is not None, "the ledger has charges"
    yield cap.explain(c.spent for c in charges)


def _line(name: str, charges: list[Charge], epsilon: float) -> str:
    return f"{name:32} {len(charges):7d} {sum(c.steps for c in charges):7d} {epsilon:9.3f}"
