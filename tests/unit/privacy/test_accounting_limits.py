"""Arguments that no accountant is asked about: each is refused at once, with its value."""

import contextlib
import math
import time

import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.errors import ConfigError
from memamba_core.privacy.accounting import NOISE_RANGE, NoisyStep, calibrate_noise, epsilon_of


@pytest.mark.parametrize("noise", [0.0, 0.29, 1000.1, math.nan])
def test_a_noise_multiplier_outside_the_range_is_refused(noise):
    with pytest.raises(ConfigError, match="noise_multiplier must be in"):
        NoisyStep(noise, 0.1)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, math.nan])
def test_a_sampling_rate_outside_the_open_unit_interval_is_refused(rate):
    with pytest.raises(ConfigError, match="sampling_rate must be in"):
        NoisyStep(1.0, rate)


@pytest.mark.parametrize("delta", [0.0, 1.0, math.nan])
def test_a_delta_outside_the_open_unit_interval_is_refused(delta):
    with pytest.raises(ConfigError, match="delta must be in"):
        epsilon_of([], delta)
    with pytest.raises(ConfigError, match="delta must be in"):
        calibrate_noise(8.0, delta, 0.1, 10)


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan])
def test_an_epsilon_that_is_not_positive_and_finite_is_refused(epsilon):
    with pytest.raises(ConfigError, match="epsilon must be positive and finite"):
        calibrate_noise(epsilon, 1e-5, 0.1, 10)


@pytest.mark.parametrize("steps", [0, 100_001])
def test_a_number_of_steps_out_of_range_is_refused(steps):
    with pytest.raises(ConfigError, match=f"has {steps} noisy steps; expected 1 to 100000"):
        calibrate_noise(8.0, 1e-5, 0.1, steps)


def test_counts_of_steps_are_refused_if_negative_or_too_many():
    with pytest.raises(ConfigError, match="cannot be negative, got -1"):
        epsilon_of([(NoisyStep(1.0, 0.1), -1)], 1e-5)
    with pytest.raises(ConfigError, match="at most 100000 are accounted for"):
        epsilon_of([(NoisyStep(1.0, 0.1), 60_000), (NoisyStep(1.0, 0.1), 60_000)], 1e-5)


def test_a_budget_that_the_least_noise_meets_gets_the_least_noise():
    assert calibrate_noise(1e6, 1e-5, 0.01, 1) == NOISE_RANGE[0]


@pytest.mark.parametrize(
    ("epsilon", "delta", "rate", "steps"),
    [
        (0.01, 1e-300, 0.9, 100_000),
        (0.05, 1e-9, 0.5, 10_000),
        pytest.param(8.0, 1e-5, 0.5, 3_000, marks=pytest.mark.ci_slow),
        pytest.param(16.0, 1e-5, 0.01, 1_000, marks=pytest.mark.ci_slow),
        (1000.0, 1e-5, 0.9, 100_000),
        (1.0, 1e-9, 1e-9, 100_000),
        (49.0, 1e-9, 0.5, 2_000),
    ],
)
def test_no_settings_take_long_or_fail_in_another_way(epsilon, delta, rate, steps):
    """Hostile settings took a minute and 3 GB; a site calibrates before it knows whether it will take part."""
    start = time.process_time()
    with contextlib.suppress(ConfigError):
        noise = calibrate_noise(epsilon, delta, rate, steps)
        assert epsilon_of([(NoisyStep(noise, rate), steps)], delta) <= epsilon
    assert time.process_time() - start < 2.5
