"""Epsilons against another program (Google's dp-accounting), and plans that must not be computed at all."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.compose import compose_experiment
from memamba_core.errors import ConfigError
from memamba_core.privacy.accounting import NoisyStep, calibrate_noise, epsilon_of
from memamba_core.privacy.plan import plan_of


def by_google(noise, rate, steps, delta):
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant

    event = dp.SelfComposedDpEvent(dp.PoissonSampledDpEvent(rate, dp.GaussianDpEvent(noise)), steps)
    return PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE).compose(event).get_epsilon(delta)


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [
        *(
            pytest.param(noise, rate, steps, marks=pytest.mark.ci_slow)
            for noise in (0.8, 1.5, 3.0)
            for rate, steps in ((0.01, 1000), (0.0533, 380), (0.15, 160))
        ),
        *(pytest.param(noise, 0.5, 40, marks=pytest.mark.ci_slow) for noise in (1.5, 3.0)),
        *((noise, 0.9, 5) for noise in (0.741, 1.27, 2.25, 4.106)),  # the default plan at epsilon 16, 8, 4, 2
    ],
)
def test_epsilon_is_that_of_another_program(noise, rate, steps):
    own = epsilon_of([(NoisyStep(noise, rate), steps)], 1e-5)
    assert own == pytest.approx(by_google(noise, rate, steps, 1e-5), abs=0.02)


@pytest.mark.ci_slow
def test_several_kinds_of_steps_are_composed():
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    kinds = [(NoisyStep(1.2, 0.1), 50), (NoisyStep(2.0, 0.2), 30), (NoisyStep(1.2, 0.1), 20)]
    for kind, steps in kinds:
        event = dp.PoissonSampledDpEvent(kind.sampling_rate, dp.GaussianDpEvent(kind.noise_multiplier))
        accountant.compose(dp.SelfComposedDpEvent(event, steps))
    assert epsilon_of(kinds, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), abs=0.02)
    assert epsilon_of(kinds, 1e-5) == epsilon_of([(NoisyStep(1.2, 0.1), 70), (NoisyStep(2.0, 0.2), 30)], 1e-5)


def test_nothing_spent_costs_nothing():
    assert epsilon_of([], 1e-5) == 0.0


@pytest.mark.parametrize(
    ("epsilon", "noise"),
    [
        (4, 1.38),
        *(pytest.param(*pair, marks=pytest.mark.ci_slow) for pair in ((1, 4.06), (2, 2.28), (8, 0.94), (16, 0.69))),
    ],
)
def test_calibration_is_for_the_whole_run(epsilon, noise):
    found = calibrate_noise(epsilon, 1e-5, 16 / 300, 380)
    assert found == pytest.approx(noise, abs=0.01)
    assert epsilon_of([(NoisyStep(found, 16 / 300), 380)], 1e-5) <= epsilon
    assert epsilon_of([(NoisyStep(found - 0.002, 16 / 300), 380)], 1e-5) > epsilon


@given(st.floats(1, 5), st.floats(0.01, 0.3), st.integers(1, 40))
@settings(max_examples=3)
def test_more_steps_cost_more_and_more_noise_costs_less(noise, rate, steps):
    cost = epsilon_of([(NoisyStep(noise, rate), steps)], 1e-5)
    slack = 0.03  # both are upper bounds, not exact
    assert epsilon_of([(NoisyStep(noise, rate), 2 * steps)], 1e-5) > cost - slack
    assert epsilon_of([(NoisyStep(noise * 1.5, rate), steps)], 1e-5) < cost + slack


@pytest.mark.parametrize(
    ("noise", "rate", "steps"),
    [(0.01, 0.1, 10), (1.0, 2.0, 10), (1.0, 1.0, 10), (1.0, 0.1, 10**9), (1.0, 0.1, -1), (0.01, 2.0, 10**9)],
)
def test_a_hostile_plan_is_refused_at_once(noise, rate, steps):
    start = time.process_time()
    with pytest.raises(ConfigError):
        epsilon_of([(NoisyStep(noise, rate), steps)], 1e-5)
    assert time.process_time() - start < 1.0


@pytest.mark.ci_slow
def test_hopeless_numbers_do_not_take_for_ever():
    start = time.process_time()
    assert epsilon_of([(NoisyStep(0.3, 0.9), 100_000)], 1e-5) > 1000
    with pytest.raises(ConfigError, match="needs a noise multiplier above"):
        calibrate_noise(1e-4, 1e-12, 0.9, 2_000)
    assert time.process_time() - start < 20


@pytest.fixture(scope="module")
def plan():
    return plan_of(compose_experiment(["privacy=dp_sgd", "federation.num_rounds=4"]))


def test_a_plan_is_calibrated_for_all_rounds_together(plan):
    assert plan.steps_per_round * plan.num_rounds == 4
    assert plan.step.noise_multiplier == calibrate_noise(8.0, 1e-5, plan.step.sampling_rate, 4)
    assert epsilon_of([(plan.step, 4)], plan.delta) <= 8.0
    assert plan_of(compose_experiment()) is None


def test_the_divisor_depends_on_the_band_alone(plan):
    assert plan.divisor(100) == pytest.approx(90.0)
    assert plan.divisor(1) == 1.0
