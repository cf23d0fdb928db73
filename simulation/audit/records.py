"""Contents of `audit.json` as typed records."""

from typing import Any

import pydantic

from memamba_core.io.json_model import JsonModel

__all__ = ["AuditReport", "CanaryReport", "InversionReport", "Leak", "MembershipReport"]


class Leak(JsonModel):
    """Success of a membership attack on a group of patients."""

    auc: float
    """Chance that a member scores higher than a patient who was not trained on, mean over models; 0.5 is guessing."""
    auc_std: float
    """Standard deviation over models."""
    found: float
    """Share of the members found when 5 % of the others are wrongly accused; 0.05 is guessing."""
    num_patients: int
    """Patients of the group."""


class MembershipReport(JsonModel):
    """Membership inference by two attacks. Groups are `all`, `event` and `censored`, where both kinds are found."""

    num_models: int
    """Models that were trained and attacked."""
    loss: dict[str, Leak]
    """Attack by the loss alone, by group."""
    lira: dict[str, Leak]
    """Likelihood-ratio attack, by group."""


class CanaryReport(JsonModel):
    """Result of the canary audit."""

    claimed_epsilon: float
    """Epsilon of the audit's own plan, by the accountant."""
    lower_bound: float
    """Lower bound of epsilon with 95 % confidence: no smaller epsilon is compatible with the guesses."""
    num_right: int
    """Right guesses about the surest half of the canaries."""
    num_guesses: int
    """Guesses about the surest half of the canaries."""

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy cannot see that a property is decorated
    @property
    def passed(self) -> bool:
        """True if the canaries do not contradict the claim."""
        return self.lower_bound <= self.claimed_epsilon


class InversionReport(JsonModel):
    """Reconstruction of molecular values from a site's answer of one round."""

    num_patients: int
    """Patients in the round."""
    correlation: float
    """Correlation between a patient's values and the attacker's best reconstruction, mean over the patients."""
    recovered: float
    """Share of the patients with a correlation above 0.9."""
    recovered_by_chance: float
    """The same share of patients who were not in the round: no leak at all."""


class AuditReport(JsonModel):
    """Contents of `audit.json`; an attack that was not run is null."""

    cohort: str
    """Name of the cohort."""
    privacy: dict[str, Any]
    """Privacy settings of the attacked run."""
    overrides: list[str]
    """Overrides of the command line."""
    membership: MembershipReport | None = None
    """Membership inference."""
    canary: CanaryReport | None = None
    """Canary audit of the noisy step."""
    inversion: list[InversionReport] | None = None
    """One attack for each size of the round."""
    findings: tuple[str, ...] = ()
    """The results in sentences."""
