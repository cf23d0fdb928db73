"""Ledgers of a private federation: charges and their time, answers that are repeated, sites without budget."""

import shutil

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.private_federation import DP, PrivateFederation, a_training_request, refusal

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.private_round import ledger_folder
from memamba_core.config.site import SitePrivacy
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import TamperedLogError
from memamba_core.privacy.accounting import epsilon_of
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import plan_of
from memamba_core.wire.protocol import Refusal
from server.federation.outcome import Failed
from server.federation.rounds import run_federation
from server.results import build_summary

pytestmark = pytest.mark.durable


@pytest.fixture(scope="module")
def plan():
    return plan_of(Federation(tiny(*GENES_ONLY, *DP)).config.experiment)


@pytest.fixture
def federation(tmp_path):
    return PrivateFederation(tmp_path)


def test_the_ledgers_hold_the_plan_and_the_run_stays_inside_epsilon(federation, plan):
    result = federation.train()
    assert len(result.rounds) == 2
    for site in federation.sites:
        charges = federation.ledger(site).charges()
        assert [(c.server_round, c.steps) for c in charges] == [(1, 2), (2, 2)]
        assert federation.ledger(site).epsilon() == epsilon_of([(plan.step, 4)], plan.delta) <= 8.0


def test_a_round_that_is_asked_again_is_answered_again_and_not_charged(federation):
    request, site = a_training_request(federation), federation.sites[0]
    reply = federation.workers[site].train(request)
    federation.restart()
    again = federation.workers[site].train(request)
    assert all(np.array_equal(reply.weights[name], again.weights[name]) for name in reply.weights)
    assert reply.trained == again.trained
    assert len(federation.ledger(site).charges()) == 1


def test_the_charge_comes_before_the_first_patient_and_a_crash_costs_the_round(federation, monkeypatch):
    request, site = a_training_request(federation), federation.sites[0]

    charged = []

    def crash(*_args, **_options):
        charged.append(len(federation.ledger(site).charges()))
        raise KeyboardInterrupt

    monkeypatch.setattr(PatientDataset, "load", crash)
    monkeypatch.setattr("memamba_core.privacy.secure_random.SecureRandom.bernoulli", lambda _s, n, _p: np.ones(n, bool))
    with pytest.raises(KeyboardInterrupt):
        federation.workers[site].train(request)
    assert charged == [1]
    monkeypatch.undo()
    assert refusal(federation.workers[site].train, request) is Refusal.BUDGET
    assert federation.workers[site].train(request.model_copy(update={"server_round": 2})).weights


def charged_after_training(patch):
    """Mutant that computes first: a crash would leave a round uncharged."""
    charge, later = Ledger.charge, []
    patch.setattr(Ledger, "charge", lambda *arguments: later.append(arguments) or 0.0)
    from memamba_core.training import dp_training as private

    train = private.train_dp_round

    def train_then_charge(*arguments, **options):
        done = train(*arguments, **options)
        charge(*later.pop())
        return done

    patch.setattr(private, "train_dp_round", train_then_charge)


def test_charging_after_training_is_caught(federation, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        charged_after_training(patch)
        with pytest.raises(AssertionError):
            test_the_charge_comes_before_the_first_patient_and_a_crash_costs_the_round(federation, monkeypatch)


def test_an_exhausted_budget_ends_the_run_with_the_model_of_the_last_good_round(tmp_path, plan):
    enough_for_one = SitePrivacy(max_epsilon=epsilon_of([(plan.step, 3)], plan.delta), delta=plan.delta)
    federation = PrivateFederation(tmp_path, budget=enough_for_one)
    result = federation.train()
    assert [record.server_round for record in result.rounds] == [1]
    assert result.warnings[-1] == result.ended_early
    assert "the privacy budget of every site that was asked is spent" in result.ended_early
    summary = build_summary(federation.run(), result)
    assert (summary.is_complete, summary.attendance.is_complete) == (False, True)
    assert (summary.num_rounds, summary.ended_early) == (1, result.ended_early)
    assert all(np.isfinite(array).all() for array in result.weights.values())


def test_a_round_goes_on_without_a_site_whose_budget_is_spent(federation, plan):
    poor = federation.sites[0]
    federation.ledger(poor).charge("an-earlier-study", 1, plan.step, 3, 100.0)
    result = federation.train()
    assert result.rounds[1].sites[poor].code == Refusal.BUDGET.code
    assert len(result.rounds[1].sites) == len(federation.sites)


def test_an_edited_ledger_keeps_the_site_out(federation):
    request, site = a_training_request(federation), federation.sites[0]
    federation.workers[site].train(request)
    file = ledger_folder(federation.folder / site) / "ledger.jsonl"
    file.write_text(file.read_text().replace('"steps": 2', '"steps": 1'))
    result = run_federation(federation.grid(), federation.run(), signatures=federation.cohort.signatures)
    assert result.rounds[1].sites[site] == Failed(failure=Refusal.BUDGET.text, code=Refusal.BUDGET.code)


@pytest.mark.parametrize("how", ["taken back", "removed"])
def test_a_ledger_older_than_a_kept_answer_keeps_the_site_out(federation, how, tmp_path):
    request, site = a_training_request(federation), federation.sites[0]
    ledger = ledger_folder(federation.folder / site)
    federation.workers[site].train(request)
    shutil.copytree(ledger, tmp_path / "backup")
    federation.workers[site].train(request.model_copy(update={"server_round": 2}))
    shutil.rmtree(ledger)
    if how == "taken back":
        shutil.copytree(tmp_path / "backup", ledger)
    for server_round in (1, 2):
        with pytest.raises(TamperedLogError, match="older than this answer"):
            federation.workers[site].train(request.model_copy(update={"server_round": server_round}))


def test_a_state_volume_taken_back_as_a_whole_is_not_noticed(federation, tmp_path):
    """A limit that docs/explanation/privacy.md states: nothing on the volume can know what was after it."""
    request, site = a_training_request(federation), federation.sites[0]
    shutil.copytree(federation.folder / site, tmp_path / "backup")
    federation.workers[site].train(request)
    shutil.rmtree(federation.folder / site)
    shutil.copytree(tmp_path / "backup", federation.folder / site)
    federation.restart()
    assert federation.workers[site].train(request).weights
    assert len(federation.ledger(site).charges()) == 1
