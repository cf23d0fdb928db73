"""The canary audit: passes the code as it is, and finds each way in which it could be broken."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from fixtures import broken_privacy
from fixtures.broken_privacy import MUTANTS, NoNoise, break_step

from memamba_core.config.compose import compose_experiment
from memamba_core.patient import InputSpec
from memamba_core.privacy.accounting import NoisyStep, epsilon_of
from simulation.audit import canary, likelihood_ratio
from simulation.audit.canary import audit_canaries
from simulation.audit.gradient_canaries import CanaryModel, Directions
from simulation.audit.likelihood_ratio import NoiseByArea, area, score_canaries, simulate_delta
from simulation.audit.observed_rounds import ObservedRounds, observe_rounds
from simulation.audit.step_checks import check_steps

SPEC = InputSpec(num_bins=3, num_genes=6, gene_groups={"a": (0, 1, 2), "b": (3, 4, 5)}, feature_width=7)
TENSORS = [400, 20, 8, 900, 30, 642]
STEP = NoisyStep(1.5, 0.1)
STEPS_OF_ROUNDS = (1,) * 20 + (5,)
REQUIRED = [
    broken_privacy.NoiseHalved,
    broken_privacy.NoClipping,
    broken_privacy.NoiseOverBatch,
    broken_privacy.NoiseOfEachStepTheSame,
    broken_privacy.NoiseOfEachRoundTheSame,
    broken_privacy.RateDoubled,
]


def experiment():
    return compose_experiment()


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
    return ObservedRounds(np.array(sums, np.float32), np.array(STEPS_OF_ROUNDS * 2), np.array(draws), np.array(inside))


@pytest.fixture(scope="module")
def directions():
    return Directions.draw(TENSORS, 200, np.random.default_rng(1))


def failed(rounds, directions):
    return [check.name for check in check_steps(rounds, directions, STEP, TENSORS) if not check.passed]


def test_directions_share_no_coordinate_and_cover_all(directions):
    vectors = np.stack([directions.vector(number) for number in range(len(directions))])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(200), atol=1e-5)
    assert (np.count_nonzero(vectors, axis=0) == 1).all()
    values = np.random.default_rng(2).standard_normal(sum(TENSORS))
    np.testing.assert_allclose(directions.project(values), vectors @ values, rtol=1e-4, atol=1e-5)
    assert (np.flatnonzero(vectors[3]) >= sum(TENSORS[:3])).all(), "the first ones lie in one tensor each"
    assert (np.flatnonzero(vectors[3]) < sum(TENSORS[:4])).all()


def test_more_canaries_than_parameters_are_refused():
    with pytest.raises(ValueError, match=r"num_canaries is 900; expected at most"):
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
    by_area = NoiseByArea(STEP, STEPS_OF_ROUNDS)
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


def test_canaries_go_through_the_round_of_a_site(monkeypatch):
    """Without noise the sums of real rounds are those of the drawn directions, one clipping norm for each draw."""
    break_step(monkeypatch, NoNoise)
    small = experiment().model.model_copy(update=canary._SMALL)
    torch.manual_seed(0)
    model, rng = CanaryModel(small, SPEC), np.random.default_rng(0)
    model.directions = Directions.draw([p.numel() for p in model.parameters()], 30, rng)
    rounds = observe_rounds(model, experiment(), NoisyStep(1.0, 0.5), (1, 3), 1, rng)
    seen = np.stack([model.directions.project(total) for total in rounds.sum_RP])
    assert rounds.draws_RN.max() > 1
    assert not rounds.draws_RN[~rounds.inside_RN].any()
    np.testing.assert_allclose(seen, rounds.draws_RN, rtol=1e-3, atol=1e-3)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.ci_slow
@pytest.mark.parametrize("mutant", [None, *REQUIRED])
def test_a_small_audit_of_real_rounds(monkeypatch, mutant):
    if mutant is not None:
        break_step(monkeypatch, mutant)
    report = audit_canaries(experiment(), SPEC, 100)
    assert report.passed == (mutant is None), [check for check in report.checks if not check.passed]
    assert report.num_canaries == 200
    assert report.num_steps == 100


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS)
def test_each_mutant_is_caught(monkeypatch, mutant):
    break_step(monkeypatch, mutant)
    report = audit_canaries(experiment(), SPEC, 500)
    print(mutant.__name__, [(check.name, check.measured) for check in report.checks if not check.passed])
    assert not report.passed


@pytest.mark.slow
@pytest.mark.parametrize("mutant", [None, *REQUIRED])
def test_ten_of_ten(monkeypatch, mutant):
    if mutant is not None:
        break_step(monkeypatch, mutant)
    reports = [audit_canaries(experiment(), SPEC, 500) for _ in range(10)]
    passed = sum(report.passed for report in reports)
    epsilons = ", ".join(f"{report.epsilon:.2f}" for report in reports)
    name = "the code as it is" if mutant is None else mutant.__name__
    print(f"{name}: {passed} of 10 pass; epsilon {epsilons} where {reports[0].claimed_epsilon:.2f} is claimed")
    assert passed == (10 if mutant is None else 0)
    if mutant is None:
        mean = math.fsum(report.epsilon for report in reports) / 10
        assert mean == pytest.approx(reports[0].claimed_epsilon, rel=0.2)
