"""Canary audits of real rounds: the code as it is passes, and each way in which it could be broken is found."""

import math

import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from fixtures import broken_privacy, broken_randomness
from fixtures.audited_runs import ALL, LAST_LAYERS, NAMES, PULL, PULLED, SPEC, experiment
from fixtures.broken_privacy import MUTANTS, OF_A_PULL, OF_LAST_LAYERS, break_step

from simulation.audit.canary import audit_canaries

REQUIRED = [
    broken_privacy.NoiseHalved,
    broken_privacy.NoClipping,
    broken_privacy.NoiseOverBatch,
    broken_randomness.NoiseOfEachStepTheSame,
    broken_randomness.NoiseOfEachRoundTheSame,
    broken_randomness.RateDoubled,
]


@pytest.mark.ci_slow
@pytest.mark.parametrize("overrides", [LAST_LAYERS, PULLED], ids=NAMES.get)
def test_a_small_audit_passes_the_code_as_it_is(overrides):
    report = audit_canaries(experiment(*overrides), SPEC, 100)
    assert report.passed, [check for check in report.checks if not check.passed]
    assert report.num_canaries == 200
    assert report.num_steps == 130


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    ("mutant", "overrides"),
    [
        *((mutant, LAST_LAYERS) for mutant in (*REQUIRED, broken_privacy.NoNoiseWithoutPatients, *OF_LAST_LAYERS)),
        *((mutant, PULL) for mutant in OF_A_PULL),
    ],
    ids=lambda value: NAMES[value] if isinstance(value, tuple) else value.__name__,
)
def test_a_small_audit_finds(monkeypatch, mutant, overrides):
    break_step(monkeypatch, mutant)
    assert not audit_canaries(experiment(*overrides), SPEC, 100).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mutant", "overrides"),
    [
        *((mutant, ALL) for mutant in MUTANTS),
        *((mutant, LAST_LAYERS) for mutant in (*MUTANTS, *OF_LAST_LAYERS)),
        *((mutant, PULL) for mutant in OF_A_PULL),
    ],
    ids=lambda value: NAMES[value] if isinstance(value, tuple) else value.__name__,
)
def test_each_mutant_is_caught(monkeypatch, mutant, overrides):
    break_step(monkeypatch, mutant)
    report = audit_canaries(experiment(*overrides), SPEC, 500)
    print(mutant.__name__, [(check.name, check.measured) for check in report.checks if not check.passed])
    assert not report.passed


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [LAST_LAYERS, ALL, PULLED], ids=NAMES.get)
@pytest.mark.parametrize("mutant", [None, *REQUIRED])
def test_ten_of_ten(monkeypatch, mutant, overrides):
    if mutant is not None:
        break_step(monkeypatch, mutant)
    reports = [audit_canaries(experiment(*overrides), SPEC, 500) for _ in range(10)]
    passed = sum(report.passed for report in reports)
    epsilons = ", ".join(f"{report.epsilon:.2f}" for report in reports)
    name = "the code as it is" if mutant is None else mutant.__name__
    print(f"{name}: {passed} of 10 pass; epsilon {epsilons} where {reports[0].claimed_epsilon:.2f} is claimed")
    assert passed == (10 if mutant is None else 0)
    if mutant is None:
        mean = math.fsum(report.epsilon for report in reports) / 10
        assert mean == pytest.approx(reports[0].claimed_epsilon, rel=0.2)
