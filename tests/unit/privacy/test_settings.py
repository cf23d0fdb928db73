"""Under differential privacy, what is not safe patient by patient is refused when the settings are composed."""

import functools
import operator

import pytest
import yaml

from memamba_core.config.compose import compose_experiment
from memamba_core.config.experiment import Experiment
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.errors import ConfigError


@pytest.fixture(scope="module")
def private():
    return compose_experiment(["privacy=dp_sgd"])


def test_the_mode_brings_everything_that_it_needs(private):
    assert private.privacy == DPSGDConfig()
    agreement = private.agreement
    assert {agreement.time_bins, agreement.gene_scaling, agreement.feature_scaling} == {"public"}
    assert private.federation.optimizer.name == "sgd"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("agreement.time_bins=event_quantiles", "time_bins must be public"),
        ("agreement.gene_scaling=statistics", "gene_scaling must be public"),
        ("agreement.feature_scaling=auto", "feature_scaling must be public or none"),
        ("federation.curve_holdout=0.2", "must be off"),
        ("federation.curve_on_test_fold=true", "must be off"),
        ("federation.optimizer.name=adamw", "must be plain sgd"),
        ("federation.optimizer.momentum=0.9", "must be plain sgd"),
        ("federation.local_epochs=2", "local_epochs must stay 1"),
        ("privacy.sampling_rate=2", "sampling_rate"),
        ("privacy.steps_per_round=1000000000", "steps_per_round"),
        ("privacy.delta=0.5", "delta"),
    ],
)
def test_what_is_not_safe_is_refused_with_its_reason(private, override, reason):
    key, _, value = override.partition("=")
    *path, last = key.split(".")
    settings = private.model_dump()
    group = functools.reduce(operator.getitem, path, settings)
    assert last in group
    group[last] = yaml.safe_load(value)
    if value == "adamw":
        del group["momentum"]  # AdamW has none
    with pytest.raises(ConfigError, match=reason):
        Experiment.parse(settings, "test")


def test_settings_without_the_mode_would_change_nothing_and_are_refused():
    with pytest.raises(ConfigError, match="choose privacy=dp_sgd"):
        compose_experiment(["privacy.epsilon=4"])


def test_the_mode_may_come_from_a_coordinator_and_is_in_the_digest():
    plain, private = Experiment(), compose_experiment(["privacy=dp_sgd", "privacy.epsilon=4"])
    other = compose_experiment(["privacy=dp_sgd", "privacy.epsilon=2"])
    assert len({plain.digest(), private.digest(), other.digest()}) == 3
