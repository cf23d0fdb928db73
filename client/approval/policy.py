"""Policy of a site on approvals (`approve` in `site.yaml`), in words."""

from memamba_core.config.site import SiteConfig
from memamba_core.errors import ConfigError

__all__ = ["describe_policy"]

_POLICIES = {
    "ask": "each run waits until the operator has approved it with `flower-client approve`",
    "listed": "runs in listed_runs take place; any other run waits until the operator has approved it",
    "automatic": "every run that the limits allow takes place without an approval",
}


def describe_policy(config: SiteConfig) -> str:
    """Return the site's policy on approvals in one sentence.

    Raises:
        ConfigError: `site.yaml` names none; the text says what to add.
    """
    if config.approve is None:
        raise ConfigError(
            "site.yaml does not say how the coordinator's runs are approved. Add `approve: ask` (each run waits for "
            "`flower-client approve`), `approve: listed` (runs in listed_runs need no approval) or `approve: automatic`"
        )
    return f"approve: {config.approve}; {_POLICIES[config.approve]}"
