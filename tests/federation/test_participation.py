"""Sites that have to answer, in a round and over a run; `flwr run .`, where one of many that finishes is no success."""

import re

import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny
from flwr.app import Context, Error, Message, RecordDict

from memamba_core.config.experiment import Experiment
from memamba_core.errors import ConfigError, FederationError
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import FactsReply, Refusal
from server.app import run_from_context
from server.attendance import Attendance
from server.federation.journal import Journal
from server.federation.participation import Participation
from server.federation.rounds import run_federation

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


# Rules


@pytest.mark.parametrize(
    ("settings", "answered", "reason"),
    [
        ({}, "abc", None),
        ({}, "ab", "every site has to answer .* missing: c"),
        ({"min_results": 2}, "ab", None),
        ({"min_results": 2}, "a", "federation.min_results is 2"),
        ({"required_sites": ("a", "b")}, "ab", None),
        ({"required_sites": ("a", "b")}, "ac", "federation.required_sites names b"),
        ({"required_sites": ("a", "test-only")}, "a", None),  # a site without training patients is not asked to train
        ({"min_patients_share": 0.6}, "c", None),  # 100 of 160
        ({"min_patients_share": 0.6}, "ab", "hold 38% of the patients by size bands"),
        ({"min_results": 2, "required_sites": ("c",), "min_patients_share": 0.5}, "bc", None),
        ({"min_results": 2, "required_sites": ("c",), "min_patients_share": 0.5}, "ab", "names c"),
    ],
)
def test_which_sites_a_round_needs(settings, answered, reason):
    sizes = {"a": 10, "b": 50, "c": 100, "test-only": 0}
    said = Participation(**settings).shortfall(set(answered), "abc", sizes)
    assert said is None if reason is None else re.search(reason, said)


def test_a_site_of_unknown_size_counts_as_large_as_the_largest():
    sizes = {"a": 100, "b": 50, "never came": None}
    assert "60%" in Participation(min_patients_share=0.7).shortfall("ab", "ab", sizes)
    assert Participation(min_patients_share=0.6).shortfall("ab", "ab", sizes) is None


def test_a_site_that_is_required_by_name_ends_the_run_before_round_1():
    settings = (*SETTINGS, "federation.required_sites=[site-02]")
    federation = Federation(settings, faults={"site-02": refuse("query.agreement", Refusal.DATA)})
    with pytest.raises(FederationError, match=r"3 of 4 sites take part, which is not enough: .* names site-02"):
        federation.train()
    others = Federation(settings, faults={"site-03": refuse("query.agreement", Refusal.DATA)})
    assert set(others.train().facts) == {"site-01", "site-02", "site-04"}


def test_a_run_that_lost_a_site_for_good_is_continued_without_it_and_without_new_settings(tmp_path):
    """The settings that the sites approved, and their digest, stay: what a round needs is the coordinator's."""
    federation = Federation(SETTINGS, faults={"site-02": refuse("train", rounds=(2,))})
    journal = Journal(tmp_path, federation.config.experiment.digest(), 0)
    wanted = r"round 2: 3 of 4 sites .* missing: site-02.* holds round 1: resume .* with federation.min_results=3"
    with pytest.raises(FederationError, match=wanted):
        federation.train(journal=journal)
    digests = set()

    def look(message, reply):
        digests.add(message.content.config_records["fields"]["config-digest"])
        return reply

    federation.faults = dict.fromkeys(("site-01", "site-03", "site-04"), look) | {
        "site-02": refuse("query.facts", Refusal.DATA)
    }
    result = run_federation(
        federation.grid(),
        federation.run(),
        signatures=federation.cohort.signatures,
        journal=journal,
        enrolled=federation.grid().nodes,
        participation=Participation(min_results=3),
    )
    assert digests == {federation.config.experiment.digest()}
    assert "from round 2 on: federation.min_results=3; the run began with: every site has to answer" in result.warnings
    attendance = Attendance.of(result)
    assert attendance.missed_rounds == {"site-02": 1}
    assert attendance.num_patients > attendance.num_patients_of_complete_sites, "the journal knows the lost site's size"


def test_the_largest_site_cannot_be_missing_without_a_word():
    """Before, a run ended as done without the largest of its sites, which had missed most of the rounds."""
    federation = Federation(SETTINGS, faults={"site-02": refuse("train")})
    with pytest.raises(FederationError, match="every site has to answer"):
        federation.train()
    few = Federation((*SETTINGS, "federation.min_results=1"), faults=federation.faults).train()
    assert Attendance.of(few).text.startswith("3 of 4 sites, ")
