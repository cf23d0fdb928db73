"""Check that enough of the sites that were asked took part in a run."""

from collections.abc import Collection, Mapping

from memamba_core.errors import FederationError

__all__ = ["require_sites"]

_MAX_NAMED = 10


def require_sites(present: Collection[str], absent: Mapping[str, str], min_sites: int | None) -> None:
    """Check the number of sites that take part.

    Args:
        present: sites that take part.
        absent: sites that were asked and do not take part, with the reason.
        min_sites: smallest number that is enough; None requires all sites that were asked.

    Raises:
        FederationError: fewer sites take part; the absent ones are named with their reasons.
    """
    asked = len(present) + len(absent)
    wanted = asked if min_sites is None else min_sites
    if len(present) >= wanted:
        return
    listed = [f"{site}: {reason}" for site, reason in sorted(absent.items())]
    more = f"; and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    raise FederationError(
        f"{len(present)} of {asked} connected sites took part; expected {wanted}. "
        f"Absent: {'; '.join(listed[:_MAX_NAMED]) or 'none'}{more}. "
        "Repair these sites, or set min-sites to the number that is enough"
    )
