"""Checks of the settings by which a site leaves decisions to the coordinator."""

from collections.abc import Iterator

from memamba_core.config.site import SiteConfig

from .finding import Finding, error, ok, warning

__all__ = ["check_policy"]

_APPROVALS = {
    "ask": "each run waits until the operator has approved it with `flower-client approve`",
    "listed": "runs in listed_runs take place; any other run waits for `flower-client approve`",
}


def check_policy(config: SiteConfig) -> Iterator[Finding]:
    """Report how much of a run the coordinator may choose, and who approves it."""
    yield _limits(config)
    approve = config.approve
    if approve is None:
        yield error(
            "approval",
            "site.yaml does not say how the coordinator's runs are approved: `flower-client run` does not start",
            "add approve: ask, so that each run waits for `flower-client approve`",
        )
    elif approve in _APPROVALS:
        yield ok("approval", f"approve: {approve}; {_APPROVALS[approve]}")
    else:
        yield warning(
            "approval",
            "approve: automatic; every run that the limits allow takes place before a person at this site has seen it",
            "set approve: ask, unless the operator trusts the coordinator with every choice that the limits leave open",
        )


def _limits(config: SiteConfig) -> Finding:
    rules = config.limits.settings
    if rules is None:
        return ok(
            "limits",
            "limits.settings is absent: a run may choose any setting, but a setting that could help to single a "
            "patient out in the harmless direction only",
        )
    if not rules:
        return warning(
            "limits",
            "limits.settings is empty: a run may differ from the installed defaults in no setting, its number of "
            "rounds included; this site refuses nearly every run",
            "name the settings that a run may choose, or remove limits.settings",
        )
    if "*" in rules:
        return warning(
            "limits",
            "limits.settings contains `*`: a run may choose every setting, also those with which crafted weights read "
            "single patients (learning rate, gradient clip, dropout, size of the model)",
            "name the settings that a run may choose, with bounds, or remove limits.settings",
        )
    return ok("limits", f"a run may choose {', '.join(rules)}")
