"""The experiment: everything that all sites of a federation must do alike.

A digest over these settings travels with every message; a site that composes something else refuses. What belongs to
one machine only (paths, devices, limits) is not here but in `site` and `simulation`.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Self

from pydantic import Field, model_validator

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.base import Settings
from memamba_core.config.federation import FederationConfig
from memamba_core.config.model import ModelConfig
from memamba_core.config.privacy import PrivacyConfig
from memamba_core.config.strategy import StrategyConfig
from memamba_core.config.training import TrainingConfig
from memamba_core.errors import ConfigError

__all__ = ["Experiment", "settings_digest"]


class Experiment(Settings):
    """All that sites and coordinator do alike, under one digest."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of initialisation, order and dropout. Randomness is f(seed, site name, round, purpose)."""
    agreement: AgreementConfig = AgreementConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    strategy: StrategyConfig = StrategyConfig()
    privacy: PrivacyConfig = PrivacyConfig()

    @model_validator(mode="after")
    def _private_in_everything(self) -> Self:
        """Under differential privacy nothing else may be made from patients, and steps are what noise was made for."""
        if self.privacy.name == "none":
            return self
        broken = [reason for is_broken, reason in self._reasons_against_privacy() if is_broken]
        if broken:
            raise ValueError(f"privacy={self.privacy.name}: " + "; ".join(broken))
        return self

    def _reasons_against_privacy(self) -> tuple[tuple[bool, str], ...]:
        agreement, federation = self.agreement, self.federation
        return (
            (
                agreement.time_bins != "public",
                "agreement.time_bins must be public: quantiles of event times are made from patients",
            ),
            (
                agreement.gene_scaling != "public",
                "agreement.gene_scaling must be public: means and deviations are made from patients",
            ),
            (
                agreement.feature_scaling not in ("public", "none"),
                "agreement.feature_scaling must be public or none: means and deviations are made from patients",
            ),
            (
                bool(federation.curve_holdout) or federation.curve_on_test_fold,
                "federation.curve_holdout and curve_on_test_fold must be off: the metrics of a round tell of patients",
            ),
            (
                federation.optimizer.name != "sgd" or federation.optimizer.momentum != 0,
                "federation.optimizer must be plain sgd without momentum: the noise is made for its steps",
            ),
            (
                federation.local_epochs != 1,
                "federation.local_epochs must stay 1: privacy.steps_per_round takes its place",
            ),
        )

    def check_number_of_sites(self, number: int) -> None:
        """See before anything is asked that so many sites can be enough.

        Raises:
            ConfigError: a round needs more answers than there are sites.
        """
        sites = f"there {'are' if number != 1 else 'is'} {number} hospital{'s' * (number != 1)}"
        if self.federation.min_results > number:
            raise ConfigError(f"federation.min_results={self.federation.min_results}, but {sites}; lower it")
        if self.strategy.fewest_answers > number:
            most = (number - 3) // 2
            lower = f"lower it to {most}, or " if most > 0 else ""
            raise ConfigError(
                f"strategy.num_malicious_sites={self.strategy.num_malicious_sites} needs "
                f"{self.strategy.fewest_answers} hospitals, but {sites}; {lower}use strategy=fedmedian"
            )

    def digest(self) -> str:
        """SHA-256 (hex) over the settings in canonical JSON."""
        return _digest(self)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over settings as JSON has them, whichever version wrote them."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@cache
def _digest(experiment: Experiment) -> str:
    return settings_digest(experiment.model_dump(mode="json"))
