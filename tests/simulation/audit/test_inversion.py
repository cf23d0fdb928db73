"""Gradient inversion on generated patients: a round of one is read, a large or a private one is not."""

from dataclasses import replace

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.compose import compose_simulation
from memamba_core.errors import ConfigError
from simulation.audit.inversion import invert_round
from simulation.methods import build_agreement_only

WIDE = (*GENES_ONLY, "data.synthetic.num_genes=150", "data.synthetic.num_patients=200", "model.group_hidden=16")


@pytest.fixture(scope="module")
def federation():
    return Federation(tiny(*WIDE))


@pytest.fixture(scope="module")
def agreement(federation):
    return build_agreement_only(federation.grid(), federation.run(), federation.cohort)


def attack(federation, agreement, num_patients, *overrides):
    experiment = compose_simulation(tiny(*WIDE, *overrides)).experiment
    return invert_round(federation.cohort.cohort, experiment, agreement, num_patients)


def test_a_round_of_one_patient_is_that_patient(federation, agreement):
    report = attack(federation, agreement, 1)
    assert report.correlation > 0.99
    assert (report.recovered, report.recovered_by_chance) == (1.0, 0.0)


@pytest.mark.ci_slow
def test_the_more_patients_the_less_is_read(federation, agreement):
    few, many = (attack(federation, agreement, num) for num in (2, 90))
    assert few.correlation > many.correlation + 0.3
    assert many.recovered < 0.1


@pytest.mark.ci_slow
def test_a_private_round_of_one_patient_is_not_read(federation, agreement):
    report = attack(federation, agreement, 1, "privacy=dp_sgd", "privacy.epsilon=8")
    assert report.recovered == 0.0
    assert report.correlation < 0.8


def test_too_few_patients_are_said(federation, agreement):
    with pytest.raises(ConfigError, match=r"attacks\.round_sizes"):
        attack(federation, agreement, 150)


def test_a_model_without_genes_is_refused(federation, agreement):
    with pytest.raises(ConfigError, match="genomics network"):
        attack(federation, replace(agreement, feature_width=5), 1, "model.experts=[pathology]")
