"""Parts of the canary audit: directions, likelihood ratio, checks of simulated rounds, and what real rounds give."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from fixtures.audited_runs import ALL, LAST_LAYERS, NAMES, PULL, PULLED, SPEC, experiment
from fixtures.broken_privacy import break_step
from fixtures.broken_randomness import NoNoise

from memamba_core.errors import ConfigError
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from simulation.audit import canary, likelihood_ratio
from simulation.audit.gradient_canaries import Directions
from simulation.audit.likelihood_ratio import NoiseByArea, area, score_canaries, simulate_delta
from simulation.audit.observed_rounds import ObservedRounds, Observer
from simulation.audit.step_checks import check_steps

TENSORS = [400, 20, 8, 900, 30, 642]
STEP = NoisyStep(1.5, 0.1)
STEPS_OF_ROUNDS = (1,) * 20 + (5,)


def canary_model(settings, num_canaries, rng):
    model = canary._build_model(settings, SPEC, num_canaries)
    model.directions = Directions.draw([p.numel() for p in model.trained], num_canaries, rng)
    return model


def simulate(directions, *, noise=1.0, norm=1.0, rate=STEP.sampling_rate, seed=0):
    """Return rounds of the mechanism itself, without a model: milliseconds instead of seconds."""
    rng = np.random.default_rng(seed)
    total, num = len(directions.owner_P), len(directions)
    sums, draws, inside = [], [], []
    for _ in range(2):
        chosen = rng.random(num) < 0.5
        for steps in STEPS_OF_ROUNDS:
            drawn = rng.binomial(steps, rate, num) * chosen
            signal = (
                norm * drawn[directions.owner_P] * directions.sign_P / np.sqrt(directions.size_N)[directions.owner_P]
            )
            sums.append(signal + noise * STEP.noise_multiplier * steps**0.5 * rng.standard_normal(total))
            draws.append(drawn)
            inside.append(chosen)
    steps_R = np.array(STEPS_OF_ROUNDS * 2)
    spread_RP = np.sqrt(steps_R)[:, None] * np.ones(total)
    return ObservedRounds(np.array(sums, np.float32), spread_RP, steps_R, np.array(draws), np.array(inside))


def simulate_quiet(directions, *, noise=1.0, seed=0):
    """Return rounds of a site without patients."""
    sums = noise * STEP.noise_multiplier * np.random.default_rng((seed, 1)).standard_normal((5, sum(TENSORS)))
    nobody = np.zeros((5, len(directions)), dtype=int)
    return ObservedRounds(sums.astype(np.float32), np.ones_like(sums), np.ones(5, dtype=int), nobody, nobody > 0)


@pytest.fixture(scope="module")
def directions():
    return Directions.draw(TENSORS, 200, np.random.default_rng(1))


def failed(rounds, directions, quiet=None):
    quiet = quiet or simulate_quiet(directions)
    return [check.name for check in check_steps(rounds, quiet, directions, STEP, TENSORS) if not check.passed]


def test_directions_share_no_coordinate_and_cover_all(directions):
    vectors = np.stack([directions.vector(number) for number in range(len(directions))])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(200), atol=1e-5)
    assert (np.count_nonzero(vectors, axis=0) == 1).all()
    values = np.random.default_rng(2).standard_normal(sum(TENSORS))
    np.testing.assert_allclose(directions.project(values), vectors @ values, rtol=1e-4, atol=1e-5)
    assert (np.flatnonzero(vectors[3]) >= sum(TENSORS[:3])).all(), "the first ones lie in one tensor each"
    assert (np.flatnonzero(vectors[3]) < sum(TENSORS[:4])).all()


def test_more_canaries_than_parameters_are_refused():
    with pytest.raises(ConfigError, match=r"attacks\.num_canaries is 900; expected at most"):
        Directions.draw([500, 300], 900, np.random.default_rng())


@pytest.mark.parametrize("seed", range(5))
def test_the_mechanism_itself_passes(directions, seed):
    assert failed(simulate(directions, seed=seed), directions) == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"noise": 0.5}, "noise of a step"),
        ({"noise": 1.05}, "noise of a step"),
        ({"norm": 2.5}, "clipped norm"),
        ({"rate": 0.2}, "sampling rate"),
    ],
)
def test_a_mechanism_with_other_numbers_fails(directions, changes, found):
    assert found in failed(simulate(directions, **changes), directions)


def test_empty_rounds_with_less_noise_fail(directions):
    quiet = simulate_quiet(directions, noise=0.8)
    assert "noise without patients" in failed(simulate(directions), directions, quiet)


def test_frozen_parameters_that_move_fail(directions):
    rounds, quiet = (
        dataclasses.replace(made, frozen_moved_R=np.zeros(len(made.steps_R)))
        for made in (simulate(directions), simulate_quiet(directions))
    )
    assert failed(rounds, directions, quiet) == []
    quiet.frozen_moved_R[2] = 0.001
    assert failed(rounds, directions, quiet) == ["frozen parameters"]


def test_sums_that_are_not_finite_fail(directions):
    rounds = simulate(directions)
    rounds.sum_RP[3, 7] = np.inf
    assert failed(rounds, directions) == ["finite"]
    assert np.isfinite(score_canaries(rounds, directions, STEP)[0]).all()


def test_the_area_counts_pairs_and_its_error_is_that_of_repetitions():
    rng = np.random.default_rng(0)
    found = [area(rng.normal(0.5, 1, 60), rng.normal(0, 1, 80)) for _ in range(400)]
    inside, outside = np.array([1.0, 2.0, 2.0]), np.array([0.0, 2.0])
    assert area(inside, outside).value == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 0.5) / 6)
    assert np.mean([f.value for f in found]) == pytest.approx(0.638, abs=0.01)  # Phi(0.5 / sqrt 2)
    assert np.mean([f.error for f in found]) == pytest.approx(np.std([f.value for f in found]), rel=0.1)


@pytest.mark.ci_slow
def test_the_epsilon_of_an_area_is_that_of_the_noise_behind_it(directions, monkeypatch):
    monkeypatch.setattr(likelihood_ratio, "_NUM_SIMULATED", 3_000)
    by_area = NoiseByArea(STEP, STEPS_OF_ROUNDS, np.sqrt(STEPS_OF_ROUNDS))
    claimed = epsilon_of([(STEP, sum(STEPS_OF_ROUNDS))], 1e-5)
    assert by_area.epsilon(by_area.claimed.value, 1e-5) == pytest.approx(claimed, rel=0.01)
    sharper = area(*score_canaries(simulate(directions, noise=0.4), directions, STEP))
    wanted = epsilon_of([(NoisyStep(0.4 * STEP.noise_multiplier, 0.1), sum(STEPS_OF_ROUNDS))], 1e-5)
    interval = [by_area.epsilon(sharper.value + side * 3 * sharper.error, 1e-5) for side in (-1, 1)]
    assert claimed < interval[0] < wanted < interval[1]
    assert by_area.epsilon(0.5, 1e-5) == 0.0


@pytest.mark.parametrize("step", [NoisyStep(1.5, 0.1), NoisyStep(4.0, 0.9)])
def test_the_accountant_agrees_with_a_simulation(step, monkeypatch):
    epsilon = epsilon_of([(step, 10)], 0.02)
    monkeypatch.setattr(likelihood_ratio, "_NUM_SIMULATED", 10_000)
    delta, error = simulate_delta(step, 10, epsilon)
    assert abs(delta - 0.02) < 5 * error
    more, error = simulate_delta(NoisyStep(step.noise_multiplier / 2, step.sampling_rate), 10, epsilon)
    assert more > 0.02 + 20 * error


@pytest.mark.parametrize("overrides", [LAST_LAYERS, ALL, PULL, PULLED], ids=NAMES.get)
def test_canaries_go_through_the_round_of_a_site(monkeypatch, overrides):
    """Without noise the sums of real rounds are those of the drawn directions, one clipping norm for each draw."""
    break_step(monkeypatch, NoNoise)
    rng = np.random.default_rng(0)
    model = canary_model(experiment(*overrides), 30, rng)
    inside_N = rng.random(30) < 0.5
    rounds = Observer(model, experiment(*overrides), NoisyStep(1.0, 0.5)).observe(inside_N, (1, 1, 1, 3))
    single = rounds.steps_R == 1
    seen = np.stack([model.directions.project(total) for total in rounds.sum_RP])
    assert not rounds.draws_RN[:, ~inside_N].any()
    np.testing.assert_allclose(seen[single], rounds.draws_RN[single], rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(seen, rounds.draws_RN, rtol=0.12, atol=2e-3)  # with a pull, a late step counts more
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert (rounds.frozen_moved_R is None) == ("privacy.trained=all" in overrides)
    assert rounds.frozen_moved_R is None or not rounds.frozen_moved_R.any()


@pytest.mark.parametrize("overrides", [LAST_LAYERS, PULLED], ids=NAMES.get)
def test_a_round_without_patients_is_noise_of_the_claimed_spread(overrides):
    model = canary_model(experiment(*overrides), 30, np.random.default_rng(0))
    rounds = Observer(model, experiment(*overrides), STEP).observe(np.zeros(30, dtype=bool), (1, 4, 4))
    noise = rounds.sum_RP / rounds.spread_RP / STEP.noise_multiplier
    assert (noise**2).mean() == pytest.approx(1.0, abs=6 * (2 / noise.size) ** 0.5)
    without_pull = np.sqrt(rounds.steps_R)[:, None] * np.ones_like(rounds.spread_RP)
    np.testing.assert_allclose(rounds.spread_RP, without_pull, rtol=0.03 if overrides == PULLED else 1e-6)


@pytest.mark.parametrize("overrides", [LAST_LAYERS, ALL], ids=NAMES.get)
@pytest.mark.parametrize("num_canaries", [100, 500])
def test_the_trained_parameters_are_those_of_the_run(overrides, num_canaries):
    """The model is widened until each canary has two coordinates: the last layers of a narrow model have 33."""
    model = canary._build_model(experiment(*overrides), SPEC, num_canaries)
    wanted = list(model.parameters()) if overrides else model.last_layers()
    assert [id(p) for p in model.trained] == [id(p) for p in wanted]
    assert sum(p.numel() for p in model.trained) >= 2 * num_canaries
