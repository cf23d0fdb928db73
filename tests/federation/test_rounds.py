"""The round loop: which answers count, what training replies hold, and what each site is asked to train."""

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.hostile_answers import LIES, with_fields
from flwr.app import Message

import client.worker
from memamba_core.errors import FederationError
from memamba_core.wire.flower_records import from_records

BAD = "site-02"


def in_training(change):
    """Return a fault that changes the records of every training reply."""

    def fault(message, reply):
        if message.metadata.message_type != "train":
            return reply
        return Message(change(reply.content), reply_to=message)

    return fault


def test_rejected_answers_do_not_count_towards_min_results():
    faults = {BAD: in_training(LIES["NaN"][0])}
    settings = tiny(*GENES_ONLY, "federation.num_rounds=1", "federation.min_results=4")
    with pytest.raises(FederationError, match="3 of 4 sites gave an accepted answer"):
        Federation(settings, faults=faults).train()
    enough = tiny(*GENES_ONLY, "federation.num_rounds=1", "federation.min_results=3")
    (record,) = Federation(enough, faults=faults).train().rounds
    assert set(record.failed) == {BAD}


def test_a_training_reply_never_holds_a_histogram():
    """Also where learning curves are drawn on the test fold: a histogram each round is nearly a list of patients."""
    counts, losses, closing = [], [], []

    def look(message, reply):
        payload = from_records(reply.content)
        if message.metadata.message_type == "train":
            counts.append(payload.arrays.get("counts", {}))
            losses.append(payload.fields.get("loss-sum"))
        elif message.metadata.message_type == "evaluate":
            closing.append(payload.arrays.get("counts", {}))
        return reply

    federation = Federation(tiny(*GENES_ONLY, "federation.curve_on_test_fold=true"))
    federation.faults = dict.fromkeys(federation.sites, look)
    federation.train()
    assert len(counts) == 2 * 4
    assert all(loss is not None for loss in losses), "metrics of the incoming weights are in each reply"
    assert not any(counts)
    assert [set(arrays) for arrays in closing] == [{"histogram"}] * 4


def test_min_round_patients_counts_the_patients_who_are_trained_on():
    """The threshold lies between the training set and the whole cohort of each site."""
    settings = (*GENES_ONLY, "federation.num_rounds=1")
    federation = Federation(tiny(*settings))
    whole = {len(site.cohort.records) for site in federation.cohort.sites.values()}
    trained = {len(site.training_cohort(0, 0).records) for site in federation.cohort.sites.values()}
    assert max(trained) < min(whole) == 12
    with pytest.raises(FederationError, match="0 of 4 sites gave an accepted answer"):
        Federation(tiny(*settings, "disclosure.min_round_patients=12")).train()
    allowed = Federation(tiny(*settings, f"disclosure.min_round_patients={min(trained)}")).train()
    assert all("failure" not in line for line in allowed.rounds[0].sites.values())


def test_the_learning_rate_schedule_runs_over_all_rounds(monkeypatch):
    """Each round trains the next epochs of the run; a schedule that began again would train the first ones."""
    spans, real = [], client.worker.train

    def train(*arguments, span, **options):
        spans.append((span.first, span.num, span.total))
        return real(*arguments, span=span, **options)

    monkeypatch.setattr(client.worker, "train", train)
    Federation(tiny(*GENES_ONLY, "federation.num_rounds=3", "federation.local_epochs=2")).train()
    assert spans == [(first, 2, 6) for first in (0, 2, 4) for _ in range(4)]


def test_a_site_that_confirms_another_agreement_does_not_take_part():
    def confirm_another(message, reply):
        if message.metadata.message_type != "query.agreement":
            return reply
        return Message(with_fields(reply.content, **{"agreement-digest": "0" * 64}), reply_to=message)

    settings = ("federation.num_rounds=1", "federation.min_results=3")
    federation = Federation(tiny(*GENES_ONLY, *settings), faults={BAD: confirm_another})
    result = federation.train()
    assert BAD in result.failures
    assert BAD not in result.rounds[0].sites
    assert (BAD, "train") not in federation.asked
    assert {site for site, kind in federation.asked if kind == "train"} == set(federation.sites) - {BAD}
    assert all(np.isfinite(array).all() for array in result.weights.values())


def test_a_message_lives_as_long_as_the_coordinator_waits():
    """A site that returns later must not work through requests whose answers the coordinator no longer awaits."""
    lifetimes = set()

    def look(message, reply):
        lifetimes.add((message.metadata.message_type, message.metadata.ttl))
        return reply

    settings = ("federation.round_timeout_s=123", "federation.agreement_timeout_s=45", "federation.num_rounds=1")
    federation = Federation(tiny(*GENES_ONLY, *settings))
    federation.faults = dict.fromkeys(federation.sites, look)
    federation.train()
    handshake = {(f"query.{phase}", 45.0) for phase in ("facts", "statistics", "agreement")}
    assert lifetimes == handshake | {("train", 123.0), ("evaluate", 123.0)}
