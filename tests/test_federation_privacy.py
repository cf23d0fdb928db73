"""A federation under differential privacy: what is charged, what is told, what is told again, what is refused."""

import dataclasses
import shutil

import numpy as np
import pytest
from federation_fixtures import GENES_ONLY, Federation, tiny

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.local import SiteWorker
from client.private import ledger_folder
from client.session import RefusedError
from memamba_core.config.compose import compose_foreign_experiment
from memamba_core.config.site import DisclosureConfig, SitePrivacy
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError, TamperedLogError
from memamba_core.privacy.accounting import epsilon_of
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import plan_of
from memamba_core.protocol import (
    PROTOCOL_VERSION,
    SIZE_BANDS,
    EvaluateRequest,
    FactsRequest,
    Refusal,
    StatisticsRequest,
    TrainReply,
    TrainRequest,
    package_version,
)
from server.rounds import run_federation
from server.settle import settle

DP = ("privacy=dp_sgd", "privacy.steps_per_round=2", "federation.num_rounds=2")
PRIVATE = SitePrivacy(max_epsilon=8.0, delta=1e-5)


class PrivateFederation(Federation):
    """Hospitals with a folder and a budget."""

    def __init__(self, folder, *overrides, budget=PRIVATE, **options):
        self.folder, self.budget = folder, budget
        super().__init__(tiny(*GENES_ONLY, *DP, *overrides), **options)

    def restart(self):
        super().restart()
        for name, worker in self.workers.items():
            config = worker.site.config.model_copy(update={"state": self.folder / name, "privacy": self.budget})
            self.workers[name] = SiteWorker(dataclasses.replace(worker.site, config=config))

    def ledger(self, site):
        return Ledger(ledger_folder(self.folder / site), site, self.budget.delta)


@pytest.fixture(scope="module")
def plan():
    return plan_of(Federation(tiny(*GENES_ONLY, *DP)).config.experiment)


@pytest.fixture
def federation(tmp_path):
    return PrivateFederation(tmp_path)


def a_training_request(federation, server_round=1):
    """What a coordinator would send after the settlement."""
    from memamba_core.training.checkpoint import initial_model, weights_of

    run = federation.run()
    agreement = settle(federation.grid(), run, federation.cohort.signatures).agreement
    return TrainRequest(
        weights=dict(weights_of(initial_model(run.experiment, agreement))),
        run_id=run.run_id,
        config_digest=run.experiment.digest(),
        agreement_digest=agreement.digest(),
        fold=run.fold,
        server_round=server_round,
    )


def refusal(work, request):
    with pytest.raises(RefusedError) as caught:
        work(request)
    return caught.value.refusal


def test_the_ledgers_hold_the_plan_and_the_run_stays_inside_epsilon(federation, plan):
    result = federation.train()
    assert len(result.rounds) == 2
    for site in federation.sites:
        charges = federation.ledger(site).charges()
        assert [(c.server_round, c.steps) for c in charges] == [(1, 2), (2, 2)]
        assert federation.ledger(site).epsilon() == epsilon_of([(plan.step, 4)], plan.delta) <= 8.0


def test_nothing_but_weights_and_bands_is_told(federation):
    result = federation.train()
    for record in result.rounds:
        for line in record.sites.values():
            assert line["train_loss"] is None
            assert set(line["incoming"].values()) == {None}
            assert set(line["trained"].values()) <= set(SIZE_BANDS)
    for facts in result.facts.values():
        assert (facts.num_patients, facts.num_events) == (None, None)
    assert set(result.evaluation.sites[federation.sites[0]].values()) == {None}
    assert result.evaluation.num_patients == 0


def test_two_runs_with_one_seed_differ(tmp_path):
    first, second = (PrivateFederation(tmp_path / name).train().weights for name in "ab")
    assert any(not np.array_equal(first[name], second[name]) for name in first)


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

    def crash(*_args, **_options):
        assert len(federation.ledger(site).charges()) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(PatientDataset, "load", crash)
    monkeypatch.setattr("memamba_core.privacy.secure_random.SecureRandom.bernoulli", lambda _s, n, _p: np.ones(n, bool))
    with pytest.raises(KeyboardInterrupt):
        federation.workers[site].train(request)
    monkeypatch.undo()
    assert refusal(federation.workers[site].train, request) is Refusal.BUDGET
    assert federation.workers[site].train(request.model_copy(update={"server_round": 2})).weights


def charged_after_training(patch):
    """The mutant that computes first: a crash would leave a round unpaid."""
    charge, later = Ledger.charge, []
    patch.setattr(Ledger, "charge", lambda *arguments: later.append(arguments) or 0.0)
    from memamba_core.training import private

    train = private.train_privately

    def train_then_charge(*arguments, **options):
        done = train(*arguments, **options)
        charge(*later.pop())
        return done

    patch.setattr(private, "train_privately", train_then_charge)


def test_charging_after_training_is_caught(federation, monkeypatch):
    with pytest.MonkeyPatch.context() as patch:
        charged_after_training(patch)
        with pytest.raises(AssertionError):
            test_the_charge_comes_before_the_first_patient_and_a_crash_costs_the_round(federation, monkeypatch)


def test_who_is_drawn_is_not_repeated_with_the_seed(federation, monkeypatch):
    """Ten steps of two calls with one seed; the chance that all ten draws agree is below 1e-9."""
    drawn = []
    request, site = a_training_request(federation), federation.sites[0]
    load = PatientDataset.load
    monkeypatch.setattr(PatientDataset, "load", lambda *a, **k: drawn[-1].append(a[1]) or load(*a, **k))
    monkeypatch.setattr("client.private.Ledger.charge", lambda *_a: 0.0)
    monkeypatch.setattr("client.private._keep", lambda *_a: None)
    for _ in range(2):
        drawn.append([])
        for _ in range(10):
            federation.workers[site].train(request)
    assert drawn[0] != drawn[1]


def test_a_draw_that_follows_from_the_seed_is_caught(federation, monkeypatch):
    def seeded_draw(_random, num, probability):
        return np.random.default_rng(0).random(num) < probability

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("memamba_core.privacy.secure_random.SecureRandom.bernoulli", seeded_draw)
        with pytest.raises(AssertionError):
            test_who_is_drawn_is_not_repeated_with_the_seed(federation, monkeypatch)


def test_a_hostile_plan_is_refused_at_once(federation):
    """Within every setting's own range and hopeless together: ten million steps."""
    import time

    overrides = tuple(o for o in federation.run().overrides if not o.startswith(("privacy", "federation.num_rounds")))
    hostile = ("privacy=dp_sgd", "privacy.steps_per_round=1000", "federation.num_rounds=10000", "privacy.epsilon=1000")
    experiment = compose_foreign_experiment("experiment", [*overrides, *hostile])
    request = FactsRequest(
        protocol=PROTOCOL_VERSION,
        package=package_version(),
        run_id="hostile",
        config_name="experiment",
        overrides=(*overrides, *hostile),
        config_digest=experiment.digest(),
        fold=0,
    )
    start = time.process_time()
    with pytest.raises(ConfigError, match="noisy steps"):
        federation.workers[federation.sites[0]].facts(request)
    assert time.process_time() - start < 2.0
    assert federation.ledger(federation.sites[0]).charges() == ()


@pytest.mark.parametrize("server_round", [0, 3, 10**9])
def test_a_round_outside_the_plan_is_refused(federation, server_round):
    request = a_training_request(federation, server_round)
    site = federation.sites[0]
    assert refusal(federation.workers[site].train, request) is Refusal.MESSAGE
    assert federation.ledger(site).charges() == ()


def test_an_exhausted_budget_ends_the_run_with_the_model_of_the_last_good_round(tmp_path, plan):
    enough_for_one = SitePrivacy(max_epsilon=epsilon_of([(plan.step, 3)], plan.delta), delta=plan.delta)
    federation = PrivateFederation(tmp_path, budget=enough_for_one)
    result = federation.train()
    assert [record.server_round for record in result.rounds] == [1]
    assert "the privacy budget of every site that was asked is spent" in result.warnings[-1]
    assert all(np.isfinite(array).all() for array in result.weights.values())


def test_a_round_goes_on_without_a_site_whose_budget_is_spent(federation, plan):
    poor = federation.sites[0]
    federation.ledger(poor).charge("an-earlier-study", 1, plan.step, 3, 100.0)
    result = federation.train()
    assert result.rounds[1].sites[poor]["code"] == Refusal.BUDGET.code
    assert len(result.rounds[1].sites) == len(federation.sites)


def test_an_edited_ledger_keeps_the_site_out(federation):
    request, site = a_training_request(federation), federation.sites[0]
    federation.workers[site].train(request)
    file = ledger_folder(federation.folder / site) / "ledger.jsonl"
    file.write_text(file.read_text().replace('"steps": 2', '"steps": 1'))
    result = run_federation(federation.grid(), federation.run(), signatures=federation.cohort.signatures)
    assert result.rounds[1].sites[site] == {"failure": Refusal.BUDGET.text, "code": Refusal.BUDGET.code}


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
    """A limit that docs/privacy.md states: nothing on the volume can know what was after it."""
    request, site = a_training_request(federation), federation.sites[0]
    shutil.copytree(federation.folder / site, tmp_path / "backup")
    federation.workers[site].train(request)
    shutil.rmtree(federation.folder / site)
    shutil.copytree(tmp_path / "backup", federation.folder / site)
    federation.restart()
    assert federation.workers[site].train(request).weights
    assert len(federation.ledger(site).charges()) == 1


def test_sums_over_patients_are_not_told(federation):
    request = a_training_request(federation)
    asked = StatisticsRequest(
        run_id=request.run_id,
        config_digest=request.config_digest,
        fold=request.fold,
        gene_columns=(),
        scale_features=False,
        count_events=True,
    )
    assert refusal(federation.workers[federation.sites[0]].statistics, asked) is Refusal.POLICY


def test_the_closing_evaluation_tells_nothing(federation):
    request = a_training_request(federation)
    values = request.model_dump(exclude={"server_round", "proximal_mu"})
    reply = federation.workers[federation.sites[0]].evaluate(EvaluateRequest(**values))
    assert not reply.model_dump(exclude={"counts"}, exclude_none=True)
    assert not reply.counts


@pytest.mark.parametrize("run_is_private", [True, False])
def test_site_and_run_must_both_want_it(tmp_path, run_is_private):
    federation = Federation(tiny(*GENES_ONLY, *(DP if run_is_private else ())))
    site = federation.cohort.sites[federation.sites[0]]
    policy = {"state": tmp_path, "privacy": None if run_is_private else PRIVATE}
    worker = SiteWorker(dataclasses.replace(site, config=site.config.model_copy(update=policy)))
    run = federation.run()
    request = FactsRequest(
        protocol=PROTOCOL_VERSION,
        package=package_version(),
        run_id=run.run_id,
        config_name=run.config_name,
        overrides=run.overrides,
        config_digest=run.experiment.digest(),
        fold=run.fold,
    )
    assert refusal(worker.facts, request) is Refusal.POLICY


def test_without_it_a_round_of_few_patients_is_refused_by_a_strict_site():
    federation = Federation(tiny(*GENES_ONLY))
    strict = federation.workers[federation.sites[0]]
    config = strict.site.config.model_copy(update={"disclosure": DisclosureConfig()})
    federation.workers[federation.sites[0]] = SiteWorker(dataclasses.replace(strict.site, config=config))
    result = federation.train()
    assert result.rounds[0].sites[federation.sites[0]]["code"] == Refusal.POLICY.code


@pytest.mark.parametrize("private", [True, False])
def test_a_run_without_it_is_warned_of(tmp_path, private, caplog):
    federation = PrivateFederation(tmp_path) if private else Federation(tiny(*GENES_ONLY))
    settle(federation.grid(), federation.run(), federation.cohort.signatures)
    assert ("privacy=none" in caplog.text) != private


def test_a_count_under_the_floor_is_told_as_a_band():
    from client.local import _or_band

    assert [_or_band(count, 10) for count in (0, 1, 9, 10, 11)] == [0, 1, 1, 10, 11]


@pytest.mark.parametrize("trained", ["last_layers", "all"])
def test_what_is_not_trained_comes_back_as_it_went_out(tmp_path, trained):
    """Of the whole three-expert model; what is trained has noise on every weight."""
    experts = "model.experts=[pathology,genomics,synergistic]"
    federation = PrivateFederation(tmp_path, experts, f"privacy.trained={trained}")
    request, site = a_training_request(federation), federation.sites[0]
    weights = federation.workers[site].train(request).weights
    moved = {name for name, array in weights.items() if not np.array_equal(array, request.weights[name])}
    last = {"genomics.linear_skip.weight", "head.3.weight", "head.3.bias"}
    assert moved == (last if trained == "last_layers" else set(weights))
    for name in moved:
        assert (weights[name] != request.weights[name]).mean() > 0.99


def test_the_reply_has_no_other_field():
    assert set(TrainReply.model_fields) == {
        *("weights", "trained", "train_loss", "counts", "num_patients", "num_events", "loss_sum"),
        *("concordant", "discordant", "tied_risk"),
    }


def test_both_modalities_and_fedprox(tmp_path):
    """The whole three-expert model, patients without slides or genes among them."""
    federation = PrivateFederation(
        tmp_path,
        "model.experts=[pathology,genomics,synergistic]",
        "data.synthetic.missing_slides=0.3",
        "data.synthetic.missing_genes=0.3",
        "strategy=fedprox",
    )
    result = federation.train()
    assert all(np.isfinite(array).all() for array in result.weights.values())
    assert len(result.rounds) == 2
