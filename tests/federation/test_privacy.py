"""A federation under differential privacy: training, disclosure, refusals."""

import dataclasses

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.private_federation import DP, PRIVATE, PrivateFederation, a_training_request, refusal
from fixtures.requests import facts_request

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from client.worker import SiteWorker
from memamba_core.config.privacy import DPSGDConfig
from memamba_core.config.site import DisclosureConfig
from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError
from memamba_core.wire.protocol import (
    SIZE_BANDS,
    EvaluateRequest,
    Refusal,
    StatisticsRequest,
    TrainReply,
)
from server.federation.handshake import perform_handshake


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A private federation and the result of its run."""
    federation = PrivateFederation(tmp_path_factory.mktemp("trained"))
    return federation, federation.train()


@pytest.fixture
def federation(tmp_path):
    return PrivateFederation(tmp_path)


def test_nothing_but_weights_and_bands_is_told(trained):
    federation, result = trained
    for record in result.rounds:
        for line in record.sites.values():
            assert line.train_loss is None
            assert set(line.incoming.model_dump().values()) == {None}
            assert set(line.trained.values()) <= set(SIZE_BANDS)
    for facts in result.facts.values():
        assert (facts.num_patients, facts.num_events) == (None, None)
    assert set(result.evaluation.sites[federation.sites[0]].model_dump().values()) == {None}
    assert result.evaluation.num_patients == 0


def test_two_runs_with_one_seed_differ(trained, federation):
    first, second = trained[1].weights, federation.train().weights
    assert any(not np.array_equal(first[name], second[name]) for name in first)


def test_who_is_drawn_is_not_repeated_with_the_seed(federation, monkeypatch):
    """Eight steps of ten patients twice with one seed; the chance that all draws agree is .82^80, below 1e-6."""
    drawn = []
    request, site = a_training_request(federation), federation.sites[0]
    load = PatientDataset.load
    monkeypatch.setattr(PatientDataset, "load", lambda *a, **k: drawn[-1].append(a[1]) or load(*a, **k))
    monkeypatch.setattr("client.private_round.Ledger.charge", lambda *_a: 0.0)
    monkeypatch.setattr("client.private_round._keep", lambda *_a: None)
    for _ in range(2):
        drawn.append([])
        for _ in range(4):
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
    """Each setting is within its range, but together they ask for ten million steps."""
    import time

    privacy = DPSGDConfig(steps_per_round=1000, epsilon=1000)
    experiment = federation.run().experiment
    rounds = experiment.federation.model_copy(update={"num_rounds": 10_000})
    experiment = experiment.model_copy(update={"privacy": privacy, "federation": rounds})
    request = facts_request(experiment, "hostile", fold=0)
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
    request = facts_request(run.experiment, run.run_id, run.fold)
    assert refusal(worker.facts, request) is Refusal.POLICY


def test_without_it_a_round_of_few_patients_is_refused_by_a_strict_site():
    federation = Federation(tiny(*GENES_ONLY, "federation.min_results=3"))
    strict = federation.workers[federation.sites[0]]
    config = strict.site.config.model_copy(update={"disclosure": DisclosureConfig()})
    federation.workers[federation.sites[0]] = SiteWorker(dataclasses.replace(strict.site, config=config))
    result = federation.train()
    assert result.rounds[0].sites[federation.sites[0]].code == Refusal.POLICY.code


@pytest.mark.parametrize("private", [True, False])
def test_a_run_without_it_is_warned_of(tmp_path, private, caplog):
    federation = PrivateFederation(tmp_path) if private else Federation(tiny(*GENES_ONLY))
    perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures)
    assert ("privacy=none" in caplog.text) != private


def test_a_count_under_the_floor_is_told_as_a_band():
    from client.worker import _or_band

    assert [_or_band(count, 10) for count in (0, 1, 9, 10, 11)] == [0, 1, 1, 10, 11]


@pytest.mark.parametrize("trained", ["last_layers", "all"])
def test_what_is_not_trained_comes_back_as_it_went_out(tmp_path, trained):
    """Weights of the whole three-expert model; every trained weight has noise."""
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


@pytest.mark.ci_slow
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
