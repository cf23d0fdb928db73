"""Spent budget in the results of a simulation: the largest epsilon of its sites, read from their ledgers."""

from types import SimpleNamespace

import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from fixtures.private_federation import PrivateFederation

from client.private_round import ledger_folder
from memamba_core.privacy.ledger import Ledger, epsilon_in_sites
from memamba_core.privacy.plan import plan_of
from simulation.privacy_spent import privacy_spent

ROUNDS = {"site-01": 1, "site-02": 3, "site-03": 2, "site-04": 0}


def test_the_largest_epsilon_of_the_sites_is_reported(tmp_path):
    """The second site was charged for three rounds; the fourth has no ledger."""
    experiment = PrivateFederation(tmp_path / "unused").config.experiment
    plan = plan_of(experiment)
    for site, rounds in ROUNDS.items():
        for server_round in range(1, rounds + 1):
            ledger = Ledger(ledger_folder(tmp_path / site), site, plan.delta)
            ledger.charge("run", server_round, plan.step, plan.steps_per_round, max_epsilon=100.0)
    spent = privacy_spent(experiment, SimpleNamespace(sites=ROUNDS), tmp_path)
    own = spent.epsilon_of_site
    assert list(own) == ["site-01", "site-02", "site-03"]
    assert own["site-01"] < own["site-03"] < own["site-02"]
    assert spent.epsilon == own["site-02"]
    of_two = epsilon_in_sites([(plan.step, 3 * plan.steps_per_round)], 2, plan.delta)
    assert spent.epsilon_in_two_sites == pytest.approx(of_two)
    assert of_two > spent.epsilon


def test_nothing_is_reported_where_nothing_was_charged(tmp_path):
    federation = PrivateFederation(tmp_path)
    spent = privacy_spent(federation.config.experiment, federation.cohort, tmp_path / "empty")
    assert (spent.epsilon, spent.epsilon_of_site) == (0.0, {})
    assert privacy_spent(federation.config.experiment, federation.cohort, None) is None
