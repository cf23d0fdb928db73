"""Nothing is read for a run before the operator of the site has approved it; an approval covers what was shown."""

import json
import logging

import pytest
from fixtures.approvals import ApprovedFederation
from fixtures.coordinator_double import authority
from fixtures.private_federation import refusal
from fixtures.strict_site import build_site, cohort_of, opening_request, refused, restarted, statistics_request

import client.approval.store as store_module
from client.approval.admission import open_gate
from client.approval.store import MAX_BYTES, REPLACE_AFTER_S, ApprovalStore
from client.cohort_registry import CohortRegistry
from client.session import RefusedError
from client.worker import SiteWorker
from memamba_core.config.site import (
    CoordinatorAddress,
    DeclaredBands,
    DisclosureConfig,
    ListedRun,
    SiteConfig,
    SitePrivacy,
)
from memamba_core.data.records import Cohort
from memamba_core.errors import ConfigError, FederationError, TamperedLogError
from memamba_core.training.checkpoint import initial_model, weights_of
from memamba_core.wire.protocol import EvaluateRequest, Refusal, StatisticsRequest, TrainRequest
from server.federation import approval as waiting
from server.federation.handshake import perform_handshake
from server.federation.journal import Journal
from server.federation.rounds import run_federation

SITE = "site-01"


@pytest.fixture
def federation(tmp_path):
    return ApprovedFederation(tmp_path)


@pytest.fixture
def quick(monkeypatch):
    """Let the coordinator ask again at once."""
    monkeypatch.setattr(waiting.time, "sleep", lambda _seconds: None)


def asks(federation, **changes):
    """Send the request that opens a run, and return the code of the refusal; None if the site answered."""
    try:
        federation.workers[SITE].facts(federation.request(**changes))
    except RefusedError as error:
        return error.refusal
    return None


def rounds(federation, agreement):
    run = federation.run()
    same = {"run_id": "test", "config_digest": run.experiment.digest(), "fold": 0}
    weights = dict(weights_of(initial_model(run.experiment, agreement)))
    worker, digest = federation.workers[SITE], agreement.digest()
    return (
        (worker.statistics, StatisticsRequest(**same, gene_columns=(), scale_features=False, count_events=True)),
        (worker.train, TrainRequest(**same, agreement_digest=digest, weights=weights, server_round=1)),
        (worker.evaluate, EvaluateRequest(**same, agreement_digest=digest, weights=weights)),
    )


def agreed(federation, **options):
    return perform_handshake(federation.grid(), federation.run(**options), federation.cohort.signatures).agreement


def approving(federation, work, *sites):
    """Do the coordinator's work; the operators of the sites approve when it waits for them."""
    real = waiting.time.sleep

    def approve(_seconds):
        for site in sites or federation.sites:
            if federation.store(site).waiting() is not None:
                federation.approve(site)

    waiting.time.sleep = approve
    try:
        return work(federation)
    finally:
        waiting.time.sleep = real


# Nothing before the approval
# --------------------------------------------------------------------------------------------------------------


def test_no_patient_is_touched_before_the_approval(federation, monkeypatch):
    touched = []
    for name in ("records", "subset", "has_folds", "num_events", "has_slides", "has_genes"):
        monkeypatch.setattr(Cohort, name, property(lambda _self, name=name: touched.append(name)), raising=False)
    assert asks(federation) is Refusal.PENDING
    assert (touched, (federation.folder / SITE / "runs").exists()) == ([], False)
    monkeypatch.undo()
    federation.approve(SITE)
    assert asks(federation) is None


def test_no_later_phase_goes_around_the_approval(federation, quick, tmp_path):
    other = ApprovedFederation(tmp_path / "other")
    other.changes = {site: {"approve": "automatic"} for site in other.sites}
    other.restart()
    agreement = agreed(other)
    assert asks(federation) is Refusal.PENDING
    for work, request in rounds(federation, agreement):
        assert refusal(work, request) is Refusal.AGREEMENT  # the run was not opened


def test_a_policy_refuses_before_the_operator_is_asked(federation):
    federation.changes[SITE] = {"limits": federation.site_config().limits.model_copy(update={"strategies": ("krum",)})}
    federation.restart()
    assert asks(federation) is Refusal.POLICY
    assert federation.store().waiting() is None


# What an approval covers
# --------------------------------------------------------------------------------------------------------------


def test_an_approval_survives_restart_and_resume(federation):
    assert asks(federation) is Refusal.PENDING
    federation.approve(SITE)
    assert asks(federation) is None
    federation.restart()
    assert asks(federation) is None
    assert federation.store().waiting() is None


def other_settings(federation):
    experiment = federation.run().experiment.model_copy(update={"seed": 7})
    assert asks(federation, experiment=experiment) is Refusal.PENDING


def other_roster(federation):
    assert asks(federation, roster=(*federation.sites, "st-elsewhere")) is Refusal.PENDING


def other_fold(federation):
    assert asks(federation, fold=1) is Refusal.PENDING


def other_run(federation):
    assert asks(federation, run_id="test-2") is Refusal.PENDING


def other_caps(federation):
    federation.changes[SITE] = {"disclosure": DisclosureConfig(min_patients=11)}
    federation.restart()
    assert asks(federation) is Refusal.PENDING


def other_data(federation):
    data = federation.site_config().data
    clinical = data.clinical.model_copy(update={"event_means": "censored"})
    federation.changes[SITE] = {"data": data.model_copy(update={"clinical": clinical})}
    federation.restart()
    assert asks(federation) is Refusal.PENDING


def other_columns(federation, monkeypatch):
    genes = federation.workers[SITE].site.cohort.genes
    monkeypatch.setattr(type(genes), "columns", property(lambda self: ("TP53_mut",)), raising=False)
    federation.restart()
    assert asks(federation) is Refusal.PENDING


def other_blocks(federation):
    federation.blocks = "drawn again"
    assert asks(federation) is Refusal.PENDING


def other_coordinator(federation):
    authority(federation.folder / "other pki")
    address = federation.site_config().coordinator
    ca = federation.folder / "other pki" / "ca.crt"
    federation.changes[SITE] = {"coordinator": address.model_copy(update={"ca": ca})}
    federation.restart()
    assert asks(federation) is Refusal.PENDING


@pytest.mark.parametrize(
    "change",
    [other_settings, other_roster, other_fold, other_run, other_caps, other_data, other_blocks, other_coordinator],
)
def test_other_terms_ask_again(federation, change):
    federation.blocks = "drawn"
    assert asks(federation) is Refusal.PENDING
    federation.approve(SITE)
    assert asks(federation) is None
    change(federation)


def test_other_columns_ask_again(federation):
    assert asks(federation) is Refusal.PENDING
    federation.approve(SITE)
    site = federation.workers[SITE].site
    genes = site.cohort.genes
    object.__setattr__(genes, "columns", (*genes.columns[:-1], "TP53_mut"))
    federation.restart()
    assert asks(federation) is Refusal.PENDING


def test_an_approval_before_the_blocks_covers_those_that_are_drawn_next_and_no_others(federation):
    assert asks(federation) is Refusal.PENDING
    federation.approve(SITE)
    federation.blocks = "first"
    assert (asks(federation), asks(federation)) == (None, None)
    federation.blocks = "second"
    assert asks(federation) is Refusal.PENDING
    federation.blocks = "first"
    assert asks(federation) is None


def test_an_approval_is_for_what_was_shown_not_for_what_came_meanwhile(federation, monkeypatch):
    assert asks(federation) is Refusal.PENDING
    shown = federation.store().waiting()
    monkeypatch.setattr(store_module, "REPLACE_AFTER_S", -1.0)
    worse = federation.run().experiment.model_copy(update={"seed": 7})
    assert asks(federation, experiment=worse) is Refusal.PENDING  # under the same name
    federation.store().decide(shown, "approved")
    assert asks(federation, experiment=worse) is Refusal.PENDING
    assert asks(federation) is None


# Refusals
# --------------------------------------------------------------------------------------------------------------


def test_a_refused_run_is_refused_until_it_is_approved(federation):
    asks(federation)
    shown = federation.store().waiting()
    federation.store().decide(shown, "refused")
    assert (asks(federation), asks(federation)) == (Refusal.DECLINED, Refusal.DECLINED)
    assert federation.store().find("test") == (shown, "refused")
    federation.store().decide(shown, "approved")
    assert asks(federation) is None


def test_a_refusal_withdraws_every_approval_of_the_run(federation):
    for fold in (0, 1):
        assert asks(federation, fold=fold) is Refusal.PENDING
        federation.approve(SITE)
    federation.store().decide(federation.store().find("test")[0], "refused")
    assert (asks(federation, fold=0), asks(federation, fold=1)) == (Refusal.DECLINED, Refusal.DECLINED)


def test_a_refusal_ends_a_run_in_progress(federation, quick):
    agreement = approving(federation, agreed)
    later = rounds(federation, agreement)
    federation.store().decide(federation.store().decisions()[-1].proposal, "refused")
    for work, request in later:
        assert refusal(work, request) is Refusal.DECLINED


def test_caps_that_change_in_the_middle_of_a_run_ask_again(federation, quick):
    agreement = approving(federation, agreed)
    other_caps(federation)
    for work, request in rounds(federation, agreement):
        assert refusal(work, request) is Refusal.PENDING


# listed and automatic
# --------------------------------------------------------------------------------------------------------------


def test_listed_runs_pass_and_others_wait(federation):
    asks(federation)
    terms = federation.store().waiting().terms
    listed = ListedRun(coordinator=terms.coordinator, settings=terms.settings)
    federation.changes[SITE] = {"approve": "listed", "listed_runs": (listed,)}
    federation.restart()
    assert (asks(federation), asks(federation, run_id="another", fold=3)) == (None, None)
    assert asks(federation, experiment=federation.run().experiment.model_copy(update={"seed": 7})) is Refusal.PENDING
    stranger = ListedRun(coordinator=":".join(["00"] * 32), settings=terms.settings)
    federation.changes[SITE] = {"approve": "listed", "listed_runs": (stranger,)}
    federation.restart()
    assert asks(federation, run_id="one more") is Refusal.MESSAGE
    assert asks(federation, run_id="third") is Refusal.PENDING


def test_automatic_runs_need_no_approval(federation):
    federation.changes[SITE] = {"approve": "automatic"}
    federation.restart()
    assert asks(federation) is None
    assert federation.store().decisions() == ()
    assert federation.store().waiting() is None


def test_a_list_without_its_policy_is_a_mistake():
    values = {
        "name": "x",
        "data": {"root": ".", "clinical": {"file": "c.csv"}, "genomics": {"file": "g.csv"}},
        "approve": "ask",
        "listed_runs": [{"coordinator": ":".join(["AB"] * 32), "settings": "0" * 64}],
    }
    with pytest.raises(ConfigError, match="expected approve: listed"):
        SiteConfig.parse(values, "site.yaml")
    assert SiteConfig.parse({**values, "approve": "listed"}, "site.yaml").listed_runs


# A hostile coordinator
# --------------------------------------------------------------------------------------------------------------


def test_a_flood_of_runs_writes_one_file_and_one_line(federation, caplog):
    caplog.set_level(logging.INFO, "flower-client")
    for number in range(50):
        assert asks(federation, run_id=f"run-{number}") is Refusal.PENDING
    folder = federation.folder / SITE
    assert federation.store().waiting().terms.run_id == "run-0"
    assert sorted(p.name for p in folder.rglob("*") if p.is_file()) == ["approvals.key", "pending.json"]
    assert len(caplog.records) == 1
    assert "flower-client approve site.yaml run-0" in caplog.text


def test_a_run_that_was_given_up_makes_room_for_the_next(federation, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "flower-client")
    asks(federation, run_id="first")
    asks(federation, run_id="second")
    assert federation.store().waiting().terms.run_id == "first"
    now = store_module.time.time()
    monkeypatch.setattr(store_module.time, "time", lambda: now + REPLACE_AFTER_S + 1)
    asks(federation, run_id="second")
    assert federation.store().waiting().terms.run_id == "second"
    assert [record.args[-1] for record in caplog.records] == ["first", "second"]


@pytest.mark.parametrize(
    "roster",
    [
        tuple(f"site-{i}" for i in range(1001)),
        ("a", "a"),
        ("x" * 65,),
        ("\x1b[2Jsite",),
        ("site\u202eeno",),
        ("../../etc",),
        ("",),
    ],
    ids=["too many", "twice", "too long", "clears the screen", "right to left", "a path", "empty"],
)
def test_a_roster_that_cannot_be_shown_is_refused_without_a_trace(federation, roster):
    assert asks(federation, roster=roster) is Refusal.MESSAGE
    assert federation.store().waiting() is None


def test_the_largest_run_fits_into_the_bound(federation):
    roster = tuple(f"s{i:063d}" for i in range(1000))
    assert asks(federation, roster=roster, run_id="r" * 100) is Refusal.PENDING
    size = (federation.folder / SITE / "approvals" / "pending.json").stat().st_size
    assert size + 65_536 * 2 < MAX_BYTES  # settings of the largest allowed size, with every quotation mark escaped
    assert federation.store().waiting().terms.roster == roster


# The state folder
# --------------------------------------------------------------------------------------------------------------


def test_an_approval_cannot_be_written_by_hand(federation):
    asks(federation)
    pending = federation.folder / SITE / "approvals" / "pending.json"
    content = json.loads(pending.read_text())
    content["proposal"]["terms"]["run_id"] = "harmless"
    pending.write_text(json.dumps(content))
    assert federation.store().waiting() is None  # and the next request writes the true one
    asks(federation)
    assert federation.store().waiting().terms.run_id == "test"
    federation.approve(SITE)
    decisions = pending.with_name("decisions.jsonl")
    decisions.write_text(decisions.read_text().replace('"fold": 0', '"fold": 1'))
    with pytest.raises(TamperedLogError, match="line 1 was edited"):
        asks(federation)


def test_approvals_of_another_site_do_not_count(federation):
    asks(federation)
    federation.approve(SITE)
    (federation.folder / SITE / "approvals" / "approvals.key").unlink()
    with pytest.raises(TamperedLogError, match=r"is missing next to decisions\.jsonl"):
        federation.store()


def test_the_files_belong_to_their_owner_alone(federation):
    asks(federation)
    federation.approve(SITE)
    folder = federation.folder / SITE / "approvals"
    assert folder.stat().st_mode & 0o077 == 0
    assert [p.name for p in folder.iterdir() if p.suffix != ".lock" and p.stat().st_mode & 0o077] in (
        [],
        ["decisions.jsonl.head"],
    )


# The blocks of a strict site
# --------------------------------------------------------------------------------------------------------------


class StrictSite:
    """A site with blocks, whose operator is asked."""

    def __init__(self, folder, **changes):
        if not (folder / "pki").exists():
            authority(folder / "pki")
        coordinator = CoordinatorAddress(address="localhost:1", ca=folder / "pki" / "ca.crt")
        self.site = build_site(
            folder / "state", cohort_of(range(24)), coordinator=coordinator, approve="ask", **changes
        )
        self.store = ApprovalStore(folder / "state")
        self.restart(self.site.cohort)

    def restart(self, cohort):
        self.site = restarted(self.site, cohort).site
        self.worker = SiteWorker(self.site, admission=open_gate(self.site))

    def asks(self, *settings, run="run"):
        return refused(self.worker.facts, opening_request(run, -1, *settings))

    def approve(self):
        self.store.decide(self.store.waiting(), "approved")


def test_blocks_are_drawn_after_the_approval_and_stay_approved(tmp_path):
    strict = StrictSite(tmp_path)
    assert strict.asks() is Refusal.PENDING
    assert strict.store.waiting().terms.cohort == ""
    assert not (tmp_path / "state" / "cohort.json").exists()
    assert not (tmp_path / "state" / "cohort.key").exists()  # not even planned
    strict.approve()
    assert (strict.asks(), strict.asks()) == (None, None)
    strict.restart(strict.site.cohort)
    assert strict.asks() is None
    assert refused(strict.worker.statistics, statistics_request(opening_request())) is None


def test_the_next_run_names_the_blocks_that_it_uses(tmp_path):
    strict = StrictSite(tmp_path)
    strict.asks()
    strict.approve()
    strict.asks()
    assert strict.asks(run="next") is Refusal.PENDING
    assert strict.store.waiting().terms.cohort == strict.site.registry.digest(strict.site.cohort) != ""
    strict.approve()
    assert strict.asks(run="next") is None


def test_newcomers_who_fill_a_block_are_approved_with_the_run_that_admits_them(tmp_path):
    strict = StrictSite(tmp_path)
    strict.asks()
    strict.approve()
    strict.asks()
    strict.restart(cohort_of(range(36)))
    assert strict.asks(run="next") is Refusal.PENDING
    strict.approve()
    assert (strict.asks(run="next"), strict.asks(run="next")) == (None, None)
    assert len(strict.site.registry.read().blocks) == 5


def withdrawn(strict):
    strict.site.registry.withdraw(["P01"])


def drawn_again(strict):
    strict.site.registry.refreeze(strict.site.cohort, "units were wrong")


def changed_table(strict):
    strict.restart(cohort_of(range(24), changed=(3,)))


@pytest.mark.parametrize("change", [withdrawn, drawn_again, changed_table])
def test_other_blocks_of_a_run_in_progress_ask_again(tmp_path, change):
    strict = StrictSite(tmp_path)
    strict.asks()
    strict.approve()
    assert strict.asks() is None
    change(strict)
    assert refused(strict.worker.statistics, statistics_request(opening_request())) is Refusal.PENDING
    assert strict.asks() is Refusal.PENDING
    strict.approve()
    assert strict.asks() is None


def test_under_differential_privacy_no_patient_decides_whether_a_run_waits(tmp_path):
    strict = StrictSite(
        tmp_path,
        privacy=SitePrivacy(max_epsilon=8.0, delta=1e-5, bands=DeclaredBands(patients=100, pathology=0, genomics=100)),
    )
    strict.site.registry.freeze(strict.site.cohort)  # of runs before the site required differential privacy
    settings = ("privacy=dp_sgd",)
    if strict.asks(*settings) is not Refusal.PENDING:
        pytest.fail("the run did not wait")
    strict.approve()
    assert strict.asks(*settings) is None
    strict.restart(cohort_of(range(1, 25), changed=(3,)))  # one patient less, one more, one changed
    assert strict.asks(*settings) is None
    strict.site.registry.withdraw(["P01"])
    assert strict.asks(*settings) is None


def test_a_poll_of_a_waiting_run_computes_nothing_from_patients(tmp_path, monkeypatch):
    strict = StrictSite(tmp_path)
    strict.asks()
    strict.approve()
    strict.asks()
    strict.restart(strict.site.cohort)
    monkeypatch.setattr(CohortRegistry, "_fingerprints", lambda *_arguments: pytest.fail("a patient was read"))
    assert [strict.asks(run="next") for _ in range(3)] == [Refusal.PENDING] * 3


# The coordinator
# --------------------------------------------------------------------------------------------------------------


def test_a_run_waits_for_all_sites_and_its_numbers_are_those_without_a_wait(federation, tmp_path, monkeypatch):
    shown, approved = [], []

    def sleep(_seconds):
        site = federation.sites[len(approved)]
        federation.approve(site)
        approved.append(site)

    monkeypatch.setattr(waiting.time, "sleep", sleep)
    journal = Journal(tmp_path / "journal", federation.run().experiment.digest(), 0)
    grid, run = federation.grid(), federation.run(roster=tuple(federation.sites))
    options = {
        "signatures": federation.cohort.signatures,
        "journal": journal,
        "enrolled": grid.nodes,
        "on_approval": shown.append,
    }
    result = run_federation(grid, run, **options)
    assert shown == [("site-01", "site-02"), ("site-02",), ()]
    facts = [site for site, phase in federation.asked if phase == "query.facts"]
    assert facts == ["site-01", "site-02", "site-01", "site-02", "site-02"]
    automatic = ApprovedFederation(tmp_path / "automatic")
    automatic.changes = {site: {"approve": "automatic"} for site in automatic.sites}
    automatic.restart()
    undisturbed = automatic.train()
    assert all((result.weights[name] == weight).all() for name, weight in undisturbed.weights.items())

    shown.clear()
    federation.restart()
    resumed = run_federation(grid, run, **options)
    assert (shown, len(resumed.rounds)) == ([], 2)  # no operator was asked again


def test_a_site_that_does_not_approve_in_time_does_not_take_part(federation):
    federation.changes["site-02"] = {"approve": "automatic"}
    federation.restart()
    handshake = perform_handshake(
        federation.grid(),
        federation.run(approval_wait_s=0.0),
        federation.cohort.signatures,
        None,
        federation.grid().nodes,
    )
    assert list(handshake.nodes) == ["site-02"]
    assert "has not approved this run yet (waited 0 s, approval_wait_s)" in handshake.failures["site-01"].text


def test_a_run_without_approval_ends_with_the_reason(federation):
    with pytest.raises(FederationError, match="site-02: the site's operator has not approved this run yet"):
        perform_handshake(federation.grid(), federation.run(approval_wait_s=0.0), None, None, federation.grid().nodes)
