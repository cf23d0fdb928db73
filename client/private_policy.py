"""Policy of a site for runs with differential privacy, decided by public settings before anything is charged."""

from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.site import SitePrivacy
from memamba_core.errors import PolicyError

__all__ = ["check_private_run"]


def check_private_run(run: DPSGDConfig, site: SitePrivacy) -> None:
    """Check the privacy settings of a run against the section `privacy` of `site.yaml`.

    Raises:
        PolicyError: the run's delta is above the site's.
    """
    if run.delta > site.delta:
        raise PolicyError(
            f"the run has privacy.delta={run.delta:g}; site.yaml allows at most privacy.delta={site.delta:g}"
        )
