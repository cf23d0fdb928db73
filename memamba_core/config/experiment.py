"""The experiment: every setting that is the same at all sites of a federation.

The coordinator sends these settings as canonical JSON, and their digest with every message. A site parses them and
refuses what its own policy does not allow. Settings of one machine (paths, devices, limits) are in `site` and
`simulation`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from memamba_core.config.agreement import AgreementConfig
from memamba_core.config.base import Settings
from memamba_core.config.federation import FederationConfig
from memamba_core.config.model import ModelConfig
from memamba_core.config.privacy import NoPrivacyConfig, PrivacyConfig
from memamba_core.config.strategy import FedAvgConfig, KrumConfig, StrategyConfig
from memamba_core.config.training import TrainingConfig
from memamba_core.errors import ConfigError

__all__ = ["Experiment", "settings_digest"]

_MAX_JSON = 65_536
_MAX_REASON = 2_000  # characters of an error text: thousands of unknown keys would fill the site's log


class Experiment(Settings):
    """Settings common to sites and coordinator, under one digest."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Seed of initialisation, order and dropout. Randomness is f(seed, site name, round, purpose)."""
    agreement: AgreementConfig = AgreementConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    federation: FederationConfig = FederationConfig()
    strategy: StrategyConfig = FedAvgConfig()
    privacy: PrivacyConfig = NoPrivacyConfig()

    @model_validator(mode="after")
    def _private_in_everything(self) -> Self:
        """Refuse settings that disclose more than noisy weights, or whose steps differ from those the noise is for."""
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
        """Check that this number of sites can be enough, before any request is sent.

        Raises:
            ConfigError: a round needs more replies than there are sites.
        """
        sites = f"there {'are' if number != 1 else 'is'} {number} site{'s' * (number != 1)}"
        if self.federation.min_results is not None and self.federation.min_results > number:
            raise ConfigError(f"federation.min_results={self.federation.min_results}, but {sites}; lower it")
        if isinstance(self.strategy, KrumConfig) and self.strategy.min_answers > number:
            most = (number - 3) // 2
            lower = f"lower it to {most}, or " if most > 0 else ""
            raise ConfigError(
                f"strategy.num_malicious_sites={self.strategy.num_malicious_sites} needs "
                f"{self.strategy.min_answers} sites, but {sites}; {lower}use strategy=fedmedian"
            )

    def to_json(self) -> str:
        """Return the settings in canonical JSON: every setting, keys sorted, no white space."""
        return _canonical(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read settings that another machine sent.

        Raises:
            ConfigError: the text is too long, is not JSON, is not canonical, lacks a setting of an experiment, or
                holds anything else.
        """
        if len(text) > _MAX_JSON:
            raise ConfigError(f"the settings have {len(text)} characters; expected at most {_MAX_JSON}")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigError("the settings are not JSON") from None
        if not isinstance(values, dict):
            raise ConfigError(f"the settings are a {type(values).__name__}; expected an object")
        try:
            experiment = cls.parse(values, "received settings")
        except RecursionError:
            raise ConfigError("the settings are nested too deeply") from None
        except ConfigError as error:
            reason = str(error)
            raise ConfigError(reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}...") from None
        if experiment.to_json() != text:
            raise ConfigError("the settings are not canonical JSON of an experiment: a setting is missing or rewritten")
        return experiment

    def flat(self) -> dict[str, Any]:
        """Return every setting by its dotted name."""
        return dict(_flat(self.model_dump()))

    def differences(self, other: "Experiment") -> dict[str, Any]:
        """Return each setting (dotted name) in which this experiment differs from another, with its value here.

        Values are compared as they are written: -0.0 differs from 0.0, because the digests differ.
        """
        theirs = {name: repr(value) for name, value in other.flat().items()}
        return {name: value for name, value in self.flat().items() if theirs.get(name) != repr(value)}

    def digest(self) -> str:
        """SHA-256 (hex) over the settings in canonical JSON.

        It is not cached by the experiment: experiments with 0.0 and -0.0 are equal, and their digests are not.
        """
        return settings_digest(self.model_dump(mode="json"))


def settings_digest(settings: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) over settings in JSON types, also over settings that another version wrote."""
    return hashlib.sha256(_canonical(settings).encode()).hexdigest()


def _canonical(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
