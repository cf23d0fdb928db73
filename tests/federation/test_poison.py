"""Hostile sites in a federation of five: what leaves an update out, what does not, and that none of them ends a run."""

import json

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from fixtures.hostile_answers import LIES
from flwr.app import Message

from memamba_core.errors import FederationError
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import SIZE_BANDS, TrainReply, TrainRequest
from server.attendance import Attendance
from server.results import write_results

FIVE = (
    *GENES_ONLY,
    "data.synthetic.num_patients=60",
    "data.synthetic.num_sites=5",
    "partition.num_sites=5",
    "federation.num_rounds=2",
    "federation.update_norm=null",  # the rule of the median alone
)
BAD, WORSE = "site-02", "site-04"


def scaled(factor):
    """Return a fault: a multiple of the honest update, with counts at the top of the size band."""

    def fault(message, reply):
        if message.metadata.message_type != "train":
            return reply
        sent = TrainRequest.from_payload(from_records(message.content)).weights
        honest = TrainReply.from_payload(from_records(reply.content))
        weights = {n: (sent[n] + factor * (a - sent[n])).astype(np.float32) for n, a in honest.weights.items()}
        tops = {g: min(b for b in SIZE_BANDS if b > n) - 1 if n else 0 for g, n in honest.trained.items()}
        lie = honest.model_copy(update={"weights": weights, "trained": tops, "train_loss": 0.5})
        return Message(to_records(lie), reply_to=message)

    return fault


def lying(name):
    def fault(message, reply):
        if message.metadata.message_type != "train":
            return reply
        return Message(LIES[name][0](reply.content), reply_to=message)

    return fault


def trained(*overrides, **faults):
    faults = {site.replace("_", "-"): fault for site, fault in faults.items()}
    return Federation(tiny(*FIVE, *overrides), faults=faults).train()


@pytest.fixture(scope="module")
def honest():
    return trained()


def distance(result, other):
    return np.sqrt(sum(((result.weights[name] - array) ** 2).sum() for name, array in other.weights.items()))


def test_an_update_of_minus_a_hundred_is_left_out_by_name_and_has_no_influence(caplog, tmp_path):
    """Before this rule it passed with the default settings and without a line in the log."""
    federation = Federation(tiny(*FIVE), faults={BAD: scaled(-100)})
    result = federation.train()
    assert [set(record.failed) for record in result.rounds] == [{BAD}, {BAD}]
    for record in result.rounds:
        assert "100 times the round's median" in record.failed[BAD].failure
        assert f"round {record.server_round}: {BAD} is left out: its update has norm" in caplog.text
    other = trained(site_02=scaled(500))
    for name, array in result.weights.items():
        np.testing.assert_array_equal(array, other.weights[name])
    summary = write_results(tmp_path, federation.run(), result)
    assert summary.attendance.missed_rounds == {BAD: 2}
    assert not summary.attendance.is_complete
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["attendance"]["text"].startswith("4 of 5 sites, ")
    assert any(BAD in warning and "times the round's median" in warning for warning in written["warnings"])


def test_without_the_rule_it_is_the_model(honest):
    off = trained("federation.update_norm_factor=null", site_02=scaled(-100))
    on = trained(site_02=scaled(-100))
    assert distance(off, honest) > 10 * distance(on, honest)
    assert not any(record.failed for record in off.rounds)


@pytest.mark.parametrize("strategy", ["krum", "fedmedian", "fedtrimmedavg", "fedadam"])
def test_two_of_five_are_left_out_and_do_not_end_the_run(strategy):
    """Krum for one hostile site needs five replies; those that are left out count among them."""
    extra = ("strategy.num_malicious_sites=1",) if strategy == "krum" else ()
    result = trained(f"strategy={strategy}", *extra, site_02=scaled(-100), site_04=scaled(1000))
    assert [set(record.failed) for record in result.rounds] == [{BAD, WORSE}, {BAD, WORSE}]
    assert all(np.isfinite(array).all() for array in result.weights.values())


def test_two_that_stay_just_inside_are_not_left_out(honest):
    """The rule bounds what they do; it does not undo it."""
    result = trained(site_02=scaled(-9), site_04=scaled(-9))
    assert not any(record.failed for record in result.rounds)
    assert distance(result, honest) > distance(trained(site_02=scaled(-1)), honest)
    norms = [outcome.update_norm for outcome in result.rounds[0].trained.values()]
    assert max(norms) == pytest.approx(9 * np.median(norms), rel=0.2), "the record shows who they are"


def test_a_site_that_never_moves_answers_and_is_averaged():
    """Its weight in the average slows the others down. The recorded norm of zero shows it."""
    result = trained(site_02=scaled(0))
    assert [record.trained[BAD].update_norm for record in result.rounds] == [0.0, 0.0]


def test_zeros_without_a_patient_are_an_answer_that_adds_nothing():
    """As a site answers whose data fail after the approval: the run continues, and says so."""
    result = trained(site_02=lying("no patient"))
    assert all("trained on no patient" in record.failed[BAD].failure for record in result.rounds)
    assert Attendance.of(result).missed_rounds == {BAD: 2}


def test_a_reply_that_is_not_finite_is_no_answer():
    """All sites are required, and this one does not answer: only the coordinator's operator may go on without it."""
    wanted = r"4 of 5 sites gave an accepted answer, twice; every site has to answer.*site-02"
    with pytest.raises(FederationError, match=wanted):
        trained(site_02=lying("NaN"))
    result = trained("federation.min_results=4", site_02=lying("NaN"))
    assert [set(record.failed) for record in result.rounds] == [{BAD}, {BAD}]
