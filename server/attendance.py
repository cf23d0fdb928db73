"""Sites that answered in a finished run, and their patients: the first line of every result."""

from collections.abc import Sequence
from typing import Self

from memamba_core.io.json_model import JsonModel
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed
from server.federation.rounds import FederationResult
from server.federation.watch import patient_shares

__all__ = ["Attendance", "describe_absences"]

_MAX_NAMED = 5


class Attendance(JsonModel):
    """Sites that were named for a run, and the rounds that each of them missed.

    A site is complete if its update is in the average of every round; a site without training patients, if it evaluated
    the final weights. Patients are the lower ends of the size bands that the sites declared.
    """

    text: str
    """The other fields in one sentence."""
    num_sites: int
    """Sites that were named."""
    num_complete_sites: int
    """Sites that missed nothing."""
    num_patients: int
    """Training patients of all sites that declared a size."""
    num_patients_of_complete_sites: int
    """Training patients of the sites that missed nothing."""
    num_sites_of_unknown_size: int
    """Sites that declared no size, because they never answered."""
    missed_rounds: dict[str, int]
    """Site -> rounds without its update, where there is one."""
    not_evaluated: tuple[str, ...]
    """Sites that did not evaluate the final weights."""
    patient_shares: dict[str, float]
    """Site -> its share of all patients that were trained on, over all rounds."""

    @property
    def is_complete(self) -> bool:
        """True if no site missed anything."""
        return self.num_complete_sites == self.num_sites and not self.not_evaluated

    @classmethod
    def of(cls, result: FederationResult) -> Self:
        """Count the rounds of each site."""
        num_rounds = len(result.rounds)
        trained = {
            site: sum(site in record.trained for record in result.rounds)
            for site, size in result.sizes.items()
            if size != 0
        }
        missed = {site: num_rounds - count for site, count in sorted(trained.items()) if count < num_rounds}
        lost = {site for site in result.sizes if site not in result.facts}
        closing = result.evaluation.sites
        not_evaluated = sorted(site for site in result.facts if isinstance(closing.get(site), Failed))
        away = lost | set(missed) | {site for site in not_evaluated if result.sizes[site] == 0}
        sizes = {site: size or 0 for site, size in result.sizes.items()}
        total, kept = sum(sizes.values()), sum(size for site, size in sizes.items() if site not in away)
        unknown = sum(size is None for size in result.sizes.values())
        parts = [f"{len(sizes) - len(away)} of {len(sizes)} sites"]
        parts.append(f"{kept} of {total} patients (lower ends of size bands)")
        parts += [f"{unknown} site{'s' * (unknown > 1)} of unknown size"] if unknown else []
        text = ", ".join(parts)
        if away:
            text += " in every round; missing: " + _list(
                [f"{site} ({missed[site]} of {num_rounds} rounds)" if site in missed else site for site in sorted(away)]
            )
        if idle := sorted(site for site, size in result.sizes.items() if size == 0 and site not in away):
            text += f"; without training patients in this fold: {_list(idle)}"
        if not_evaluated:
            text += f"; no closing evaluation from {_list(not_evaluated)}"
        return cls(
            text=text,
            num_sites=len(sizes),
            num_complete_sites=len(sizes) - len(away),
            num_patients=total,
            num_patients_of_complete_sites=kept,
            num_sites_of_unknown_size=unknown,
            missed_rounds=missed,
            not_evaluated=tuple(not_evaluated),
            patient_shares={site: round(share, 4) for site, share in patient_shares(result.rounds).items()},
        )


def describe_absences(result: FederationResult) -> list[str]:
    """Write one sentence per reason for which sites missed the whole run or some of its rounds."""
    return _absences(result.rounds, {site: failure.text for site, failure in result.failures.items()})


def _absences(rounds: Sequence[RoundRecord], never: dict[str, str]) -> list[str]:
    reasons: dict[str, dict[str, int]] = {}
    for site, text in never.items():
        reasons.setdefault(text, {})[site] = sum(site not in record.sites for record in rounds)
    for record in rounds:
        for site, failed in record.failed.items():
            missed = reasons.setdefault(failed.failure, {})
            missed[site] = missed.get(site, 0) + 1
    return [
        f"{len(missed)} site{'s' * (len(missed) > 1)} missed {'up to ' * (len(set(missed.values())) > 1)}"
        f"{max(missed.values())} of {len(rounds)} rounds: {reason} ({', '.join(sorted(missed))})"
        for reason, missed in reasons.items()
    ]


def _list(items: Sequence[str]) -> str:
    more = len(items) - _MAX_NAMED
    return ", ".join(items[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
