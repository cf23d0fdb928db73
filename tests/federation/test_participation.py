"""`flwr run .`: one site that finishes among many that refuse is no success."""

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from flwr.app import Context, Error, Message, RecordDict

from memamba_core.config.experiment import Experiment
from memamba_core.errors import ConfigError, FederationError
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import FactsReply, Refusal
from server.app import run_from_context

SETTINGS = tiny(*GENES_ONLY, "federation.num_rounds=2", "agreement.gene_groups=kind")
OTHERS = ("site-02", "site-03", "site-04")


def refuse(message_type, refusal=Refusal.POLICY, rounds=(1, 2)):
    """Refuse one kind of message, of training those of some rounds."""

    def fault(message, reply):
        if message.metadata.message_type != message_type:
            return reply
        if message_type == "train" and message.content.config_records["fields"]["server-round"] not in rounds:
            return reply
        return Message(Error(code=refusal.code, reason=refusal.text), reply_to=message)

    return fault


def flwr_run(federation, output, min_sites=0):
    """Run the ServerApp as Flower does, over the in-process grid."""
    words = [o for o in federation.overrides if o.partition("=")[0].partition(".")[0] in Experiment.model_fields]
    settings = {"config-name": "experiment", "overrides": " ".join(words), "signatures": "", "output": str(output)}
    context = Context(1, 0, {}, RecordDict(), {**settings, "fold": 0, "min-sites": min_sites})
    return run_from_context(federation.grid(), context)


def test_a_run_of_all_sites_succeeds(tmp_path):
    federation = Federation(SETTINGS)
    result = flwr_run(federation, tmp_path)
    assert set(result.facts) == set(federation.sites)
    assert (tmp_path / "model.safetensors").is_file()


def test_sites_that_refuse_the_handshake_end_the_run_before_round_1(tmp_path):
    faults = dict.fromkeys(OTHERS, refuse("query.agreement", Refusal.DATA))
    federation = Federation(SETTINGS, faults=faults)
    with pytest.raises(FederationError, match=r"1 of 4 connected sites took part; expected 4\.") as caught:
        flwr_run(federation, tmp_path)
    for site in OTHERS:
        assert f"{site}: {Refusal.DATA.text}" in str(caught.value)
    assert "min-sites" in str(caught.value)
    assert "federation.min_results" in str(caught.value)
    assert "train" not in {kind for _, kind in federation.asked}


def test_sites_that_refuse_every_round_end_the_run_after_the_model_was_written(tmp_path):
    federation = Federation((*SETTINGS, "federation.min_results=1"), faults=dict.fromkeys(OTHERS, refuse("train")))
    with pytest.raises(FederationError, match=rf"1 of 4 .*site-03: {Refusal.POLICY.text}"):
        flwr_run(federation, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()


def test_a_site_that_missed_one_round_took_part(tmp_path):
    federation = Federation((*SETTINGS, "federation.min_results=3"), faults={"site-02": refuse("train", rounds=(1,))})
    assert "site-02" in flwr_run(federation, tmp_path).rounds[0].failed


@pytest.mark.parametrize("message_type", ["query.facts", "query.agreement", "train"])
def test_fewer_sites_are_enough_where_the_run_config_says_so(tmp_path, message_type):
    federation = Federation(SETTINGS, faults={"site-02": refuse(message_type)})
    assert len(flwr_run(federation, tmp_path, min_sites=3).rounds) == 2
    with pytest.raises(FederationError, match=r"3 of 4 (connected|sites gave an accepted)"):
        flwr_run(Federation(SETTINGS, faults=federation.faults), tmp_path / "other", min_sites=4)


def test_a_site_without_training_patients_takes_part_if_it_evaluates(tmp_path):
    def nothing_to_train(message, reply):
        if message.metadata.message_type != "query.facts":
            return reply
        facts = FactsReply.from_payload(from_records(reply.content)).model_copy(update={"size_band": 0})
        return Message(to_records(facts), reply_to=message)

    federation = Federation(SETTINGS, faults={"site-02": nothing_to_train})
    assert "site-02" not in flwr_run(federation, tmp_path).rounds[0].sites

    def neither(message, reply):
        return refuse("evaluate", Refusal.DATA)(message, nothing_to_train(message, reply))

    with pytest.raises(FederationError, match=rf"3 of 4 .*site-02: {Refusal.DATA.text}"):
        flwr_run(Federation(SETTINGS, faults={"site-02": neither}), tmp_path / "other")


def test_a_negative_number_of_sites_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'min-sites' is -1; expected 0"):
        flwr_run(Federation(SETTINGS), tmp_path, min_sites=-1)
