"""Decide whether enough of the sites that were named answered: all of them, unless the settings say otherwise."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Self

from memamba_core.config.federation import FederationConfig
from memamba_core.errors import FederationError

__all__ = ["Participation", "list_absent", "require_sites"]

_MAX_NAMED = 10


@dataclass(frozen=True)
class Participation:
    """Sites that a round needs. Only the coordinator uses these settings, so a resumed run may change them.

    Attributes:
        min_results: fewest sites that must answer; None sets no number.
        required_sites: names of sites that must answer.
        min_patients_share: smallest share of the patients, by size bands, that the sites which answer must hold.
    """

    min_results: int | None = None
    required_sites: tuple[str, ...] = ()
    min_patients_share: float = 0.0

    @classmethod
    def of(cls, config: FederationConfig) -> Self:
        """Take the settings of an experiment."""
        return cls(config.min_results, config.required_sites, config.min_patients_share)

    @property
    def needs_all(self) -> bool:
        """True if none of the three settings is set: every site that is asked has to answer."""
        return self.min_results is None and not self.required_sites and not self.min_patients_share

    def __str__(self) -> str:
        """Return the settings as they are typed."""
        if self.needs_all:
            return "every site has to answer"
        given = [
            f"federation.min_results={self.min_results}" if self.min_results is not None else "",
            f"federation.required_sites=[{','.join(self.required_sites)}]" if self.required_sites else "",
            f"federation.min_patients_share={self.min_patients_share:g}" if self.min_patients_share else "",
        ]
        return " ".join(filter(None, given))

    def fewest(self, asked: int) -> int:
        """Return the number of answers that a round needs at least, of this number of sites."""
        return asked if self.needs_all else max(self.min_results or 1, len(self.required_sites))

    def shortfall(
        self, answered: Collection[str], asked: Collection[str], sizes: Mapping[str, int | None]
    ) -> str | None:
        """Return the reason why the sites that answered are not enough; None if they are.

        Args:
            answered: sites that answered.
            asked: sites that received the request.
            sizes: every named site -> lower end of its size band; None where the size is unknown.
        """
        absent = sorted(set(asked) - set(answered))
        if self.needs_all and absent:
            return f"every site has to answer (federation.min_results is not set); missing: {_list(absent)}"
        if self.min_results is not None and len(answered) < self.min_results:
            return f"federation.min_results is {self.min_results}"
        required = [site for site in self.required_sites if site not in answered and sizes.get(site) != 0]
        if required:
            return f"federation.required_sites names {_list(required)}"
        share = _share(answered, sizes)
        if share < self.min_patients_share:
            return (
                f"they hold {share:.0%} of the patients by size bands; federation.min_patients_share is "
                f"{self.min_patients_share:g}"
            )
        return None

    def check_start(
        self,
        present: Collection[str],
        absent: Mapping[str, str],
        sizes: Mapping[str, int | None],
        min_sites: int | None = None,
    ) -> None:
        """Check that enough of the named sites take part, before round 1.

        Args:
            present: sites that accepted the agreement.
            absent: all other named sites, with the reason.
            sizes: every named site -> lower end of its size band; None where the size is unknown.
            min_sites: number that is enough in place of `min_results`; None: as the settings say.

        Raises:
            FederationError: too few take part; the absent ones are named with their reasons.
        """
        named = len(present) + len(absent)
        wanted = self.fewest(named) if min_sites is None else min_sites
        require_sites(present, absent, wanted)
        if reason := replace(self, min_results=wanted).shortfall(present, present, sizes):
            raise FederationError(
                f"{len(present)} of {named} sites take part, which is not enough: {reason}. Absent: "
                f"{list_absent(absent)}"
            )


def _share(answered: Collection[str], sizes: Mapping[str, int | None]) -> float:
    """Return the share of patients; an unknown size counts as the largest known one."""
    largest = max((size for size in sizes.values() if size is not None), default=0)
    patients = {site: largest if size is None else size for site, size in sizes.items()}
    total = sum(patients.values())
    return sum(size for site, size in patients.items() if site in answered) / total if total else 1.0


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
    raise FederationError(
        f"{len(present)} of {asked} connected sites took part; expected {wanted}. Absent: {list_absent(absent)}. "
        "Repair these sites, or say how many are enough: min_sites (`flwr run`: min-sites), federation.min_results"
    )


def list_absent(absent: Mapping[str, str]) -> str:
    """Name absent sites with their reasons, at most ten of them."""
    listed = [f"{site}: {reason}" for site, reason in sorted(absent.items())]
    more = f"; and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return f"{'; '.join(listed[:_MAX_NAMED]) or 'none'}{more}"


def _list(sites: Collection[str]) -> str:
    named = list(sites)[:_MAX_NAMED]
    more = len(sites) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
