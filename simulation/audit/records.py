"""Contents of `audit.json` as typed records."""

from typing import Any

import pydantic

from memamba_core.io.json_model import JsonModel

__all__ = ["AuditReport", "CanaryCheck", "CanaryReport", "InversionReport", "Leak", "MembershipReport"]

ONE_IN_A_MILLION = 1e-6


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


class CanaryCheck(JsonModel):
    """A property of the audited step, as measured and as claimed."""

    name: str
    """`attack`, `noise of a step`, `clipped norm`, `sampling rate`, ... (docs/explanation/privacy.md)."""
    measured: float
    """Value found. Where many values are compared (tensors, rounds, canaries), the least likely one."""
    expected: float
    """Value of right code."""
    p_value: float
    """Chance of a value at least as far from the expected one if the code is right, for all compared values."""

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy cannot see that a property is decorated
    @property
    def passed(self) -> bool:
        """True if the value is not too unlikely: a chance of one in a million or more."""
        return self.p_value >= ONE_IN_A_MILLION


class CanaryReport(JsonModel):
    """Result of the canary audit: epsilon of the step as attacked, and the properties it rests on."""

    claimed_epsilon: float
    """Epsilon of the audit's own plan, by the accountant."""
    epsilon: float
    """Epsilon that the success of the attack corresponds to."""
    epsilon_low: float
    """Lower end of its interval of 95 % confidence."""
    epsilon_high: float
    """Upper end of its interval of 95 % confidence."""
    auc: float
    """Chance that a canary among the patients looks more like one than a canary that is not; 0.5 is guessing."""
    num_canaries: int
    """Canaries that were attacked, in all repetitions."""
    num_steps: int
    """Noisy steps that were observed, in all repetitions."""
    checks: tuple[CanaryCheck, ...]
    """Properties of the step; `attack` is the AUC."""

    @pydantic.computed_field  # type: ignore[prop-decorator]  # mypy cannot see that a property is decorated
    @property
    def passed(self) -> bool:
        """True if every check passed."""
        return all(check.passed for check in self.checks)


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
