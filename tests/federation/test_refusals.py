"""Refusals of a site before it computes anything: versions, settings, agreements, and its own policy."""

import dataclasses
import gc
import json
import re
import weakref

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.requests import facts_request

from client.session import RefusedError
from client.worker import SiteWorker
from memamba_core.config.experiment import Experiment
from memamba_core.config.site import DisclosureConfig, LimitsConfig
from memamba_core.errors import FederationError
from memamba_core.training.checkpoint import initial_model, load_checkpoint, weights_of
from memamba_core.wire.protocol import (
    PROTOCOL_VERSION,
    AgreementRequest,
    EvaluateRequest,
    FactsRequest,
    Refusal,
    StatisticsRequest,
    TrainRequest,
    package_version,
)
from server.federation.handshake import perform_handshake

SETTINGS = tiny(*GENES_ONLY, "federation.num_rounds=1", "federation.local_epochs=2")


@pytest.fixture(scope="module")
def federation():
    return Federation(SETTINGS)


@pytest.fixture(scope="module")
def agreement(federation):
    return perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures).agreement


@pytest.fixture
def site(federation, tmp_path):
    """A site with a state folder, like a real site."""
    one = federation.cohort.sites["site-01"]
    return dataclasses.replace(one, config=one.config.model_copy(update={"state": tmp_path / "state"}))


@pytest.fixture(scope="module")
def requests(federation, agreement):
    """The honest requests of a run, by the class."""
    run = federation.run()
    base = {"run_id": run.run_id, "config_digest": run.experiment.digest(), "fold": run.fold}
    held = {**base, "agreement_digest": agreement.digest()}
    weights = weights_of(initial_model(run.experiment, agreement))
    return {
        FactsRequest: facts_request(run.experiment, **base),
        StatisticsRequest: StatisticsRequest(
            gene_columns=agreement.gene_columns, scale_features=False, count_events=True, **base
        ),
        AgreementRequest: AgreementRequest(agreement=agreement.to_json(), scaling=dict(agreement.scaling()), **held),
        TrainRequest: TrainRequest(weights=weights, server_round=1, **held),
        EvaluateRequest: EvaluateRequest(weights=weights, **held),
    }


METHODS = {
    FactsRequest: SiteWorker.facts,
    StatisticsRequest: SiteWorker.statistics,
    AgreementRequest: SiteWorker.agreement,
    TrainRequest: SiteWorker.train,
    EvaluateRequest: SiteWorker.evaluate,
}


def ask(worker, requests, *kinds, **changes):
    """Send requests of these kinds, the last one with changes; return the last answer."""
    answer = None
    for kind in kinds:
        request = requests[kind]
        if kind is kinds[-1]:
            request = request.model_copy(update=changes)
        answer = METHODS[kind](worker, request)
    return answer


def refusal(*arguments, **changes):
    with pytest.raises(RefusedError) as caught:
        ask(*arguments, **changes)
    return caught.value.refusal


def test_the_honest_requests_are_answered(site, requests):
    answer = ask(SiteWorker(site), requests, *METHODS)
    assert answer.num_patients == len(site.test_cohort(0, 0).records)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"protocol": PROTOCOL_VERSION + 1}, Refusal.VERSION),
        ({"package": "0.0.0"}, Refusal.VERSION),
        ({"config_digest": "0" * 64}, Refusal.CONFIG),
        ({"run_id": "../../etc"}, Refusal.MESSAGE),
        ({"run_id": ""}, Refusal.MESSAGE),
        ({"settings": ""}, Refusal.SETTINGS),
        ({"settings": "{}"}, Refusal.SETTINGS),
        ({"settings": Experiment().to_json()}, Refusal.CONFIG),
        ({"settings": Experiment().to_json().replace('"seed":0', '"seed":"${oc.env:HOME}"')}, Refusal.SETTINGS),
        ({"settings": '{"hydra":{"searchpath":["/tmp"]}}'}, Refusal.SETTINGS),
        ({"settings": Experiment().to_json()[:-1] + ',"_target_":"os.system"}'}, Refusal.SETTINGS),
        ({"settings": Experiment().to_json() + " "}, Refusal.SETTINGS),
        ({"settings": '{"disclosure":{"min_patients":1}}'}, Refusal.SETTINGS),
        ({"settings": '{"data":{"root":"/"}}'}, Refusal.SETTINGS),
    ],
)
def test_how_a_run_may_not_begin(site, requests, changes, wanted):
    assert refusal(SiteWorker(site), requests, FactsRequest, **changes) is wanted
    assert not (site.config.state / "runs").exists()


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        ({"local_epochs": 1}, "local_epochs=2 is above limits.local_epochs=1"),
        ({"strategies": ("fedprox", "krum")}, "strategy fedavg is not among"),
        ({"settings": ()}, r"model\.d_model=4 differs from the installed default and is not in limits\.settings"),
        ({"settings": ("federation", "training")}, r"model\.d_model=4 differs .*model\.d_state=2 differs"),
        ({"settings": ("federation", "training", "model.d_state")}, r"model\.d_model=4 differs"),
        (
            {"settings": ("federation", "training", "model", "model.d_model>=8")},
            r"d_model=4 is outside model\.d_model>=8",
        ),
    ],
)
def test_the_sites_own_policy_is_final(site, requests, limits, word):
    strict = dataclasses.replace(site, config=site.config.model_copy(update={"limits": LimitsConfig(**limits)}))
    with pytest.raises(RefusedError, match=word) as caught:
        ask(SiteWorker(strict), requests, FactsRequest)
    assert caught.value.refusal is Refusal.POLICY


@pytest.mark.parametrize("allowed", [("federation", "training", "model"), None])
def test_a_run_within_the_sites_rules_is_answered(site, requests, allowed):
    open_minded = site.config.model_copy(update={"limits": LimitsConfig(settings=allowed)})
    assert Experiment.from_json(requests[FactsRequest].settings) != Experiment()
    ask(SiteWorker(dataclasses.replace(site, config=open_minded)), requests, FactsRequest)


def test_a_model_of_more_parameters_than_the_site_allows_is_refused_before_it_is_built(site, requests):
    limits = site.config.limits.model_copy(update={"max_parameters": 10})
    strict = dataclasses.replace(site, config=site.config.model_copy(update={"limits": limits}))
    with pytest.raises(RefusedError, match=r"parameters; expected at most limits\.max_parameters=10\b") as caught:
        ask(SiteWorker(strict), requests, FactsRequest, StatisticsRequest, AgreementRequest)
    assert caught.value.refusal is Refusal.POLICY


def test_a_run_that_another_version_opened_is_not_continued(site, requests):
    ask(SiteWorker(site), requests, FactsRequest)
    (kept,) = site.config.state.glob("runs/*/facts.json")
    old = {key: value for key, value in json.loads(kept.read_text()).items() if key != "settings"}
    kept.write_text(json.dumps({**old, "protocol": 2, "config_name": "experiment", "overrides": []}))
    with pytest.raises(RefusedError, match="a run continues only with the version that began it") as caught:
        ask(SiteWorker(site), requests, StatisticsRequest)
    assert caught.value.refusal is Refusal.VERSION


def test_another_version_is_told_with_both_numbers(site, requests):
    with pytest.raises(
        RefusedError, match=rf"version 0\.0\.0, protocol {PROTOCOL_VERSION}; this site {re.escape(package_version())}"
    ):
        ask(SiteWorker(site), requests, FactsRequest, package="0.0.0")
    assert package_version() in Refusal.VERSION.text


def test_a_refusal_reaches_the_coordinator_as_its_fixed_text(federation, requests):
    """The reason, here the site's limit, is for the site's log."""
    names = federation.sites
    try:
        for name in names:
            own = federation.cohort.sites[name]
            config = own.config.model_copy(update={"limits": LimitsConfig(local_epochs=1)})
            federation.workers[name] = SiteWorker(dataclasses.replace(own, config=config))
        with pytest.raises(FederationError) as caught:
            federation.train()
    finally:
        federation.restart()
    assert Refusal.POLICY.text in str(caught.value)
    assert "limits" not in str(caught.value)


@pytest.mark.parametrize("kind", [StatisticsRequest, AgreementRequest, TrainRequest, EvaluateRequest])
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"run_id": "another"}, Refusal.AGREEMENT),
        ({"run_id": "../secrets"}, Refusal.AGREEMENT),
        ({"config_digest": "0" * 64}, Refusal.CONFIG),
        ({"fold": 1}, Refusal.CONFIG),
    ],
)
def test_a_request_of_another_run_is_refused(site, requests, kind, changes, wanted):
    kinds = list(METHODS)
    assert refusal(SiteWorker(site), requests, *kinds[: kinds.index(kind) + 1], **changes) is wanted


@pytest.mark.parametrize("kind", [TrainRequest, EvaluateRequest])
def test_another_agreement_than_the_one_held_is_refused(site, requests, kind):
    worker = SiteWorker(site)
    ask(worker, requests, FactsRequest, AgreementRequest)
    assert refusal(worker, requests, kind, agreement_digest="0" * 64) is Refusal.AGREEMENT


def test_training_before_an_agreement_is_refused(site, requests):
    assert refusal(SiteWorker(site), requests, FactsRequest, TrainRequest) is Refusal.AGREEMENT


def test_an_agreement_that_is_not_what_its_digest_says_is_refused(site, requests, agreement):
    worker = SiteWorker(site)
    edges = agreement.to_json().replace(
        json.dumps(list(agreement.time_bin_edges), separators=(",", ":")), "[1.0,2.0,3.0]"
    )
    assert edges != agreement.to_json()
    assert refusal(worker, requests, FactsRequest, AgreementRequest, agreement=edges) is Refusal.AGREEMENT
    scaling = {**agreement.scaling(), "gene-center": agreement.gene_center + 1}
    assert refusal(worker, requests, AgreementRequest, scaling=scaling) is Refusal.AGREEMENT


def test_an_agreement_on_columns_that_the_site_lacks_is_refused(site, requests, agreement):
    unfitting = dataclasses.replace(agreement, gene_columns=("NOSUCH_cnv", *agreement.gene_columns[1:]))
    changes = {"agreement": unfitting.to_json(), "agreement_digest": unfitting.digest()}
    assert refusal(SiteWorker(site), requests, FactsRequest, AgreementRequest, **changes) is Refusal.AGREEMENT_FIELD


def test_statistics_of_columns_that_the_site_lacks_are_refused(site, requests):
    changes = {"gene_columns": ("NOSUCH_cnv",)}
    assert refusal(SiteWorker(site), requests, FactsRequest, StatisticsRequest, **changes) is Refusal.AGREEMENT_FIELD


def test_weights_of_another_model_are_refused(site, requests):
    worker = SiteWorker(site)
    ask(worker, requests, FactsRequest, AgreementRequest)
    weights = dict(requests[TrainRequest].weights)
    name, array = weights.popitem()
    assert refusal(worker, requests, TrainRequest, weights=weights) is Refusal.MESSAGE
    assert refusal(worker, requests, TrainRequest, weights={**weights, name: array.astype("f8")}) is Refusal.MESSAGE


def test_a_site_without_a_training_patient_has_nothing_to_do(site, requests):
    empty = dataclasses.replace(site, cohort=site.test_cohort(0, 0))
    worker = SiteWorker(empty)
    facts = ask(worker, requests, FactsRequest)
    assert (facts.size_band, facts.num_events) == (0, None if facts.num_patients is None else 0)
    assert refusal(worker, requests, AgreementRequest, TrainRequest) is Refusal.NOTHING_TO_DO


def test_training_that_takes_no_step_is_not_a_result(site, requests):
    worker = SiteWorker(site)
    ask(worker, requests, FactsRequest, AgreementRequest)
    huge = {name: array * 0 + 3e38 for name, array in requests[TrainRequest].weights.items()}
    assert refusal(worker, requests, TrainRequest, weights=huge) is Refusal.NOT_FINITE


def test_strict_floors_keep_exact_counts_at_home(site, requests):
    strict = dataclasses.replace(site, config=site.config.model_copy(update={"disclosure": DisclosureConfig()}))
    facts = ask(SiteWorker(strict), requests, FactsRequest)
    num = len(strict.training_cohort(0, 0).records)
    assert num < 10
    assert (facts.num_patients, facts.num_events, facts.size_band) == (None, None, 1)


def test_who_lived_is_kept_at_home_where_nearly_everybody_died(site, requests):
    thresholds = DisclosureConfig(min_patients=1, min_events=2, min_pairs=1, min_round_patients=1)
    records = tuple(dataclasses.replace(r, event=True) for r in site.cohort.records)
    config = site.config.model_copy(update={"disclosure": thresholds})
    grim = dataclasses.replace(site, config=config, cohort=dataclasses.replace(site.cohort, records=records))
    worker = SiteWorker(grim)
    facts = ask(worker, requests, FactsRequest)
    assert facts.num_patients
    assert facts.num_events is None
    sums = ask(worker, requests, StatisticsRequest)
    assert not any(counts.any() for counts in sums.events.values())
    closing = ask(worker, requests, AgreementRequest, EvaluateRequest)
    assert closing.num_patients
    assert closing.num_events is None
    assert not closing.counts


# What a site keeps


def test_a_restarted_site_recalls_the_run(site, requests):
    undisturbed = ask(SiteWorker(site), requests, FactsRequest, AgreementRequest, TrainRequest)
    recalled = ask(SiteWorker(site), requests, TrainRequest)
    for name, array in undisturbed.weights.items():
        assert (recalled.weights[name] == array).all()


def test_a_site_that_stays_for_many_runs_holds_the_patients_of_one(site, requests):
    worker = SiteWorker(site)
    ask(worker, requests, FactsRequest, AgreementRequest, TrainRequest)
    scaled = weakref.ref(worker._sessions._session.datasets["train", ""])
    ask(worker, requests, FactsRequest, run_id="next")
    gc.collect()
    assert scaled() is None
    assert ask(worker, requests, EvaluateRequest).num_patients, "the run of before is found again on the disk"


def test_a_restarted_site_without_a_state_folder_has_forgotten(site, requests):
    forgetful = dataclasses.replace(site, config=site.config.model_copy(update={"state": None}))
    ask(SiteWorker(forgetful), requests, FactsRequest, AgreementRequest)
    assert refusal(SiteWorker(forgetful), requests, TrainRequest) is Refusal.AGREEMENT


def test_a_restarted_site_that_was_updated_does_not_go_on(site, requests, monkeypatch):
    ask(SiteWorker(site), requests, FactsRequest, AgreementRequest)
    monkeypatch.setattr("client.session.package_version", lambda: "9.9.9")
    assert refusal(SiteWorker(site), requests, TrainRequest) is Refusal.VERSION


def test_the_final_model_is_kept_at_the_site(site, requests, agreement):
    ask(SiteWorker(site), requests, *METHODS)
    kept = load_checkpoint(site.config.state / "runs" / "test")
    assert kept.agreement.digest() == agreement.digest()
    for name, array in requests[EvaluateRequest].weights.items():
        assert (kept.weights[name] == array).all()


def test_the_state_folder_holds_no_patient(site, requests):
    ask(SiteWorker(site), requests, *METHODS)
    files = [path for path in site.config.state.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        content = path.read_bytes()
        assert not [r.case_id for r in site.cohort.records if r.case_id.encode() in content]
