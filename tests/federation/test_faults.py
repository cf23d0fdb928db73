"""A site that fails is data, not an exception: the round continues without it, and record and log name it."""

import json

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.hostile_answers import LIES, broken_array, with_arrays, with_fields
from flwr.app import Message, RecordDict

from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import AgreementError, DataError, FederationError
from memamba_core.training.trainer import train
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import FactsReply, Refusal, StatisticsReply
from server.federation.handshake import perform_handshake
from server.federation.journal import Journal
from server.federation.outcome import Failed
from server.federation.rounds import run_federation

SETTINGS = tiny(*GENES_ONLY, "federation.num_rounds=1", "federation.min_results=1")
BAD = "site-02"


def only_in(message_type, change):
    """A fault in one kind of message; `change` gets the records of the honest answer."""

    def fault(message, reply):
        if message.metadata.message_type != message_type:
            return reply
        return Message(change(reply.content), reply_to=message)

    return fault


def one_lie_a_round(names):
    """A fault in every answer to a training request: the first lie in round 1, the second in round 2."""

    def fault(message, reply):
        if message.metadata.message_type != "train":
            return reply
        change, _ = LIES[names[message.content.config_records["fields"]["server-round"] - 1]]
        return Message(change(reply.content), reply_to=message)

    return fault


def test_each_round_goes_on_without_the_sites_that_lie_and_names_them(caplog):
    """Two of four sites lie, with another lie in each round."""
    names = list(LIES)
    half = len(names) // 2
    liars = {BAD: names[:half], "site-03": names[half:]}
    faults = {site: one_lie_a_round(lies) for site, lies in liars.items()}
    settings = (f"federation.num_rounds={half}", "federation.min_results=2", "federation.update_norm=null")
    federation = Federation(tiny(*GENES_ONLY, *settings), faults=faults)
    result = federation.train()
    assert len(result.rounds) == half == len(liars["site-03"])
    for record in result.rounds:
        assert set(record.sites) == set(federation.sites)
        assert set(record.trained) == set(federation.sites) - set(liars)
        for site, lies in liars.items():
            lie = lies[record.server_round - 1]
            assert LIES[lie][1] in record.sites[site].failure, lie
            assert f"round {record.server_round}: {site} is left out" in caplog.text, lie
    assert all(np.isfinite(array).all() for array in result.weights.values())


@pytest.fixture(scope="module")
def honest():
    return Federation(SETTINGS).train()


def test_a_site_left_out_has_no_influence(honest):
    """Whatever the rejected site sends, the weights are those of the other sites."""
    results = [
        Federation(SETTINGS, faults={BAD: only_in("train", LIES[name][0])}).train().weights
        for name in ("NaN", "a billion patients")
    ]
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])
    assert any(not np.array_equal(array, honest.weights[name]) for name, array in results[0].items())


PATIENT = "Jane Doe, born 1950-01-01"


def test_what_an_exception_says_stays_at_the_site(monkeypatch, caplog, tmp_path):
    federation = Federation(SETTINGS)
    replies = []

    bad_ids = {r.case_id for r in federation.cohort.sites[BAD].cohort.records}

    def raising(model, dataset, **options):
        if dataset.records[0].case_id in bad_ids:
            raise RuntimeError(f"/data/clinical.csv: {PATIENT} has no slide")
        return train(model, dataset, **options)

    monkeypatch.setattr("client.worker.train", raising)
    federation.faults = dict.fromkeys(federation.sites, lambda message, reply: replies.append(reply) or reply)
    result = federation.train(journal=Journal(tmp_path, federation.config.experiment.digest(), 0))
    (record,) = result.rounds
    assert record.sites[BAD] == Failed(failure=Refusal.INTERNAL.text, code=Refusal.INTERNAL.code)
    texts = [repr(result.rounds), repr(result.failures), repr(result.evaluation)]
    texts += [repr(r.error) if r.has_error() else repr(r.content) for r in replies]
    texts += [path.read_bytes().decode("latin1") for path in tmp_path.iterdir()]
    assert any(r.has_error() for r in replies)
    for text in texts:
        assert "Jane" not in text
        assert "clinical.csv" not in text
    by_logger = {record.name: record for record in caplog.records if record.exc_info}
    assert "Jane" in str(by_logger["client.app"].exc_info[1])  # the site's own log has all of it
    for line in caplog.records:
        if not line.name.startswith("client"):
            assert "Jane" not in line.getMessage()


CLOSING_LIES = {
    "infinite loss": lambda r: with_fields(r, **{"loss-sum": float("inf")}),
    "absurd loss": lambda r: with_fields(r, **{"loss-sum": 1e308}),
    "a million events": lambda r: with_fields(r, **{"num-events": 10**6}),
    "another grid": lambda r: with_arrays(r, "counts", lambda a: a.update(histogram=np.zeros((2, 3, 4), np.int64))),
    "negative counts": lambda r: with_arrays(r, "counts", lambda a: a.update(histogram=-a["histogram"])),
    "nonsense": broken_array,
}


@pytest.mark.parametrize("names", [list(CLOSING_LIES)[:3], list(CLOSING_LIES)[3:]], ids=", ".join)
def test_a_bad_closing_evaluation_is_left_out(names, caplog):
    """One lie at each of three sites; the fourth is honest."""
    *bad, good = ("site-02", "site-03", "site-04", "site-01")
    faults = {site: only_in("evaluate", CLOSING_LIES[name]) for site, name in zip(bad, names, strict=True)}
    result = Federation(SETTINGS, faults=faults).train()
    for site, name in zip(bad, names, strict=True):
        assert isinstance(result.evaluation.sites[site], Failed), name
        assert f"closing evaluation: {site} is left out" in caplog.text, name
    assert result.evaluation.num_patients == result.evaluation.sites[good].num_patients > 0
    assert np.isfinite(result.evaluation.loss)
    json.dumps({site: line.model_dump() for site, line in result.evaluation.sites.items()}, allow_nan=False)


@pytest.fixture(scope="module")
def without():
    """Digest of the agreement without the bad site."""
    federation = Federation(SETTINGS)
    grid = federation.grid([site for site in federation.sites if site != BAD])
    return perform_handshake(grid, federation.run(), federation.cohort.signatures).agreement.digest()


def lie_about(reply_class, records, **changes):
    reply = reply_class.from_payload(from_records(records))
    return to_records(reply.model_copy(update=changes))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: with_arrays(r, "genes", lambda a: a.update(mean=a["mean"][:-1])),
        lambda r: with_arrays(r, "genes", lambda a: a.update({k: v[:0] for k, v in a.items()})),
        lambda r: with_arrays(r, "genes", lambda a: a.update(m2=-a["m2"] - 1)),
        lambda r: with_arrays(r, "genes", lambda a: a.update(mean=a["mean"] * np.nan)),
        lambda r: with_arrays(r, "genes", lambda a: a.update(mean=a["mean"] * 0 + 1e30)),
        lambda r: with_arrays(r, "genes", lambda a: a.update(m2=a["m2"] + 1e30)),
        lambda r: with_arrays(r, "genes", lambda a: a.update(count=a["count"] * 1e9)),
        lambda r: with_arrays(r, "events", lambda a: a.update(event=a["event"][:-1])),
        lambda r: with_arrays(r, "events", lambda a: a.update(event=a["event"] - 1)),
        lambda r: with_arrays(r, "events", lambda a: a.update(event=a["event"] + 10**17)),
        lambda r: with_arrays(r, "events", lambda a: a.pop("event")),
    ],
    ids=[
        "short mean",
        "empty sums",
        "negative m2",
        "NaN",
        "mean beyond the clip",
        "deviations beyond the clip",
        "a billion patients",
        "short grid",
        "negative events",
        "too many events",
        "no events",
    ],
)
def test_sums_that_cannot_be_are_not_added_up(change, without):
    """The agreement is then that of the other sites, to the last bit."""
    federation = Federation(SETTINGS, faults={BAD: only_in("query.statistics", change)})
    handshake = perform_handshake(federation.grid(), federation.run(), federation.cohort.signatures)
    assert set(handshake.failures) == {BAD}
    assert set(handshake.nodes) == set(federation.sites) - {BAD}
    assert handshake.agreement.digest() == without


def test_who_does_not_take_part_is_not_asked_to_train():
    nothing = only_in("query.statistics", lambda r: RecordDict())
    federation = Federation(SETTINGS, faults={BAD: nothing})
    result = federation.train()
    assert set(result.failures) == {BAD}
    assert set(result.rounds[0].sites) == set(result.evaluation.sites) == set(federation.sites) - {BAD}
    assert (BAD, "train") not in federation.asked


def test_sites_under_the_floor_send_zeros_and_still_receive():
    thresholds = ("disclosure.min_patients=10", "disclosure.min_events=1")  # sites train on 9 to 11 patients
    federation = Federation(tiny(*GENES_ONLY, *thresholds, "federation.num_rounds=1"))
    sums = {}

    def listen(site):
        def hear(message, reply):
            if message.metadata.message_type == "query.statistics":
                sums[site] = StatisticsReply.from_payload(from_records(reply.content))
            return reply

        return hear

    federation.faults = {site: listen(site) for site in federation.sites}
    result = federation.train()
    sizes = {site: result.rounds[0].sites[site].trained["head"] for site in federation.sites}
    small = {site for site, size in sizes.items() if size < 10}
    assert small
    assert small != set(sizes)
    for site, reply in sums.items():
        total = sum(array.sum() for arrays in (reply.genes, reply.events) for array in arrays.values())
        assert (total == 0) == (site in small)
    assert set(result.facts) == set(federation.sites)
    assert all(federation.workers[site]._sessions._session.agreement is not None for site in small)
    assert all(result.rounds[0].sites[site].train_loss is None for site in small)
    assert all(result.facts[site].num_patients is None for site in small)


def test_a_column_that_few_patients_have_is_not_summed():
    """A mean over one measured patient would be that patient's value."""
    federation = Federation(tiny(*GENES_ONLY, "disclosure.min_patients=3"))
    genes = federation.cohort.cohort.genes
    site = federation.cohort.sites[BAD]
    rows = [r.gene_row for r in site.training_cohort(0, 0).records]
    genes.values_NC[rows[2:], 4] = np.nan
    heard = []
    federation.faults = {BAD: only_in("query.statistics", lambda r: heard.append(r) or r)}
    federation.train()
    reply = StatisticsReply.from_payload(from_records(heard[0]))
    columns = sorted(genes.columns)
    hidden = columns.index(genes.columns[4])
    assert [reply.genes[name][hidden] for name in ("count", "mean", "m2")] == [0, 0, 0]
    assert (np.delete(reply.genes["count"], hidden) == len(rows)).all()


# The federation as a whole


def test_too_few_answers_end_the_run_after_a_second_try_and_it_can_be_resumed(tmp_path):
    settings = tiny(*GENES_ONLY, "federation.min_results=4", "federation.num_rounds=3")
    undisturbed = Federation(settings).train()
    federation = Federation(settings)
    journal = Journal(tmp_path, federation.config.experiment.digest(), 0)
    calls = []

    def away_in_round_2(message, reply):
        if message.metadata.message_type == "train":
            calls.append(message.content.config_records["fields"]["server-round"])
            if calls[-1] == 2:
                return Message(RecordDict(), reply_to=message)
        return reply

    federation.faults = {BAD: away_in_round_2}
    with pytest.raises(
        FederationError, match=rf"round 2: 3 of 4 sites .* twice; .*is 4\. Left out: {BAD}: \w.* resume"
    ):
        federation.train(journal=journal)
    assert calls == [1, 2, 2]
    federation.faults = {}
    result = federation.train(journal=journal)
    for name, array in undisturbed.weights.items():
        np.testing.assert_array_equal(result.weights[name], array)


def test_a_site_that_stumbles_once_is_in_the_repeated_round(tmp_path):
    federation = Federation(tiny(*GENES_ONLY, "federation.min_results=4", "federation.num_rounds=1"))
    stumbles = iter([True])
    federation.faults = {
        BAD: lambda m, r: (
            Message(RecordDict(), reply_to=m) if m.metadata.message_type == "train" and next(stumbles, False) else r
        )
    }
    result = federation.train()
    assert BAD in result.rounds[0].trained


def test_nobody_there_is_said():
    federation = Federation(SETTINGS)
    with pytest.raises(FederationError, match=r"no site answered: no node is connected"):
        federation.train(sites=[])


def test_sites_that_all_fail_are_not_called_absent():
    """Nodes are connected, and each fails with its reason."""
    unknown_band = only_in("query.facts", lambda r: lie_about(FactsReply, r, size_band=7))
    federation = Federation(SETTINGS)
    federation.faults = dict.fromkeys(federation.sites, unknown_band)
    with pytest.raises(FederationError, match=r"no site answered\. node 2: size_band is 7") as raised:
        federation.train()
    assert "connected" not in str(raised.value)


@pytest.mark.parametrize(("fold", "words"), [(0, "test fold 0"), (-1, "flower-client doctor")])
def test_nobody_to_train_on_is_said_before_the_first_round(fold, words):
    """The error must not be that of a spent privacy budget, which arises when every site refuses for that reason."""
    federation = Federation((*SETTINGS, "agreement.gene_scaling=public"))
    testing_all = only_in("query.facts", lambda r: lie_about(FactsReply, r, size_band=0))
    federation.faults = dict.fromkeys(federation.sites, testing_all)
    with pytest.raises(FederationError, match=f"no site has a patient to train on.*{words}"):
        run_federation(federation.grid(), federation.run(fold), signatures=federation.cohort.signatures)


def test_two_nodes_with_one_name_are_an_error():
    federation = Federation(SETTINGS)
    take_the_name = only_in("query.facts", lambda r: lie_about(FactsReply, r, site="site-01"))
    federation.faults = {BAD: take_the_name}
    with pytest.raises(FederationError, match=r"two nodes \(2 and 3\) are named 'site-01'"):
        federation.train()


def test_another_encoder_ends_the_run_with_both_sides_named():
    federation = Federation(tiny("federation.num_rounds=1"))
    federation.faults = {BAD: only_in("query.facts", lambda r: lie_about(FactsReply, r, encoder="ctranspath"))}
    with pytest.raises(AgreementError, match=r"'synthetic' at site-01, site-03, site-04; 'ctranspath' at site-02"):
        federation.train()


def test_an_unreadable_bag_costs_one_site(monkeypatch):
    federation = Federation(tiny("federation.num_rounds=1", "federation.min_results=3"))
    load = PatientDataset.load
    bad_ids = {r.case_id for r in federation.cohort.sites[BAD].cohort.records}

    def broken(dataset, index, **options):
        if dataset.records[index].case_id in bad_ids:
            raise DataError(f"/data/{dataset.records[index].case_id}.h5 is truncated")
        return load(dataset, index, **options)

    monkeypatch.setattr(PatientDataset, "load", broken)
    result = federation.train()
    assert result.rounds[0].sites[BAD] == Failed(failure=Refusal.DATA.text, code=Refusal.DATA.code)
    assert result.evaluation.sites[BAD].code == Refusal.DATA.code
