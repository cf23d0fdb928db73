"""The membership attacks on losses whose leak is known, and on models of a real federation."""

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, tiny
from sklearn.metrics import roc_auc_score

from memamba_core.config.compose import compose_audit
from simulation.audit.membership import Observations, attack_by_likelihood_ratio, attack_by_loss, leaks, observe
from simulation.cohort import prepare_cohort


def observations(gap_event, gap_censored, num_models=16, num_patients=400, seed=0):
    """Patients of unequal difficulty; being trained on lowers the loss by a gap."""
    rng = np.random.default_rng(seed)
    event_N = rng.random(num_patients) < 0.4
    member_MN = rng.random((num_models, num_patients)).argsort(axis=0) < num_models // 2
    difficulty_N = rng.normal(0.0, 1.0, num_patients)
    gap_N = np.where(event_N, gap_event, gap_censored)
    logit_MN = difficulty_N + gap_N * member_MN + rng.normal(0.0, 0.3, member_MN.shape)
    return Observations(np.log1p(np.exp(-logit_MN)), member_MN, event_N)


def test_without_a_leak_both_attacks_guess():
    seen = observations(0.0, 0.0)
    for attack in (attack_by_loss, attack_by_likelihood_ratio):
        for leak in leaks(attack(seen), seen).values():
            assert leak.auc == pytest.approx(0.5, abs=0.05)
            assert leak.found == pytest.approx(0.05, abs=0.04)


def test_few_models_do_not_turn_the_attack_against_the_attacker():
    """With eight models, three others have seen a member and four have not: a mean of three is less certain."""
    seen = observations(0.0, 0.0, num_models=8, num_patients=4000)
    for leak in leaks(attack_by_likelihood_ratio(seen), seen).values():
        assert leak.auc == pytest.approx(0.5, abs=0.015)


def test_a_leak_of_those_who_died_is_not_hidden_by_the_others():
    seen = observations(1.5, 0.0)
    found = leaks(attack_by_likelihood_ratio(seen), seen)
    assert found["event"].auc > 0.9
    assert found["censored"].auc == pytest.approx(0.5, abs=0.05)
    assert found["censored"].auc < found["all"].auc < found["event"].auc
    assert found["event"].num_patients + found["censored"].num_patients == found["all"].num_patients


def test_the_likelihood_ratio_knows_who_is_difficult():
    seen = observations(0.7, 0.7)
    by_loss, by_ratio = (leaks(a(seen), seen)["all"].auc for a in (attack_by_loss, attack_by_likelihood_ratio))
    assert 0.55 < by_loss < by_ratio - 0.15


def test_the_area_is_that_of_another_program():
    seen = observations(0.5, 0.2, num_models=8)
    rounded = np.round(attack_by_loss(seen), 1)  # with ties
    wanted = np.mean([roc_auc_score(m, s) for m, s in zip(seen.member_MN, rounded, strict=True)])
    assert leaks(rounded, seen)["all"].auc == pytest.approx(wanted, abs=1e-12)


def test_a_model_is_judged_by_the_others_alone():
    """Its own membership must not enter: with it flipped, its scores stay as they were."""
    seen = observations(0.5, 0.5, num_models=8)
    flipped = seen.member_MN.copy()
    flipped[3] = ~flipped[3]
    other = Observations(seen.loss_MN, flipped, seen.event_N)
    assert np.array_equal(attack_by_likelihood_ratio(seen)[3], attack_by_likelihood_ratio(other)[3])


@pytest.mark.slow
def test_a_federation_that_overfits_leaks(tmp_path):
    overrides = tiny(
        *GENES_ONLY,
        "data.synthetic.num_patients=80",
        "model.dropout=0",
        "federation.num_rounds=6",
        "federation.local_epochs=5",
        "attacks=membership",
        "attacks.num_models=8",
    )
    config = compose_audit(overrides)
    models = []
    seen = observe(config, overrides, prepare_cohort(config), tmp_path, lambda: models.append(1))
    assert len(models) == len(seen.member_MN) == 8
    assert (seen.member_MN.sum(axis=0) == 4).all()
    assert leaks(attack_by_loss(seen), seen)["all"].auc > 0.6
