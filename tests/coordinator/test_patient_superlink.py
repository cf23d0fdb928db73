"""SuperLink that decides nothing by the clock: a run, a request and a lost delivery survive a pause."""

import datetime as dt
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import NOOP_FLWR_AID, SUPERLINK_NODE_ID, SubStatus
from flwr.server.superlink.linkstate import LinkStateFactory, SqlLinkState, sql_linkstate
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation import NoOpFederationManager

from server.flower.patient_superlink import make_patient

pytestmark = pytest.mark.filterwarnings("ignore:No path_separator:DeprecationWarning")  # of Flower's migrations

PAUSE_S = 7200.0


@pytest.fixture
def clock(monkeypatch):
    """Clock of the SuperLink, which a test sets ahead."""
    ahead = [0.0]

    def now():
        return dt.datetime.now(dt.UTC) + dt.timedelta(seconds=ahead[0])

    monkeypatch.setattr(sql_linkstate, "now", now)
    monkeypatch.setattr(sql_corestate, "now", now)
    return ahead


@pytest.fixture(params=[True, False], ids=["patient", "stock"])
def patient(request, monkeypatch):
    """True where the changes are made. Each is reversed afterwards, because it holds for the whole process."""
    for part, name in (
        (sql_corestate, "HEARTBEAT_DEFAULT_INTERVAL"),
        (sql_linkstate, "check_node_availability_for_in_message"),
        (SqlLinkState, "get_message_ins"),
    ):
        monkeypatch.setattr(part, name, getattr(part, name))
    if request.param:
        make_patient()
    return request.param


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """State of a SuperLink in a new database, which Flower takes seconds to make."""
    path = tmp_path_factory.mktemp("link") / "link.db"
    return LinkStateFactory(str(path), NoOpFederationManager(), ObjectStoreFactory()).state()


@pytest.fixture
def link(patient, clock, state):
    """A SuperLink with a run in progress and a connected node."""
    run_id = state.create_run(
        fab_id="a/b",
        fab_version="1",
        fab_hash="00",
        override_config={},
        federation_id=NOOP_FEDERATION_ID,
        federation_config=None,
        flwr_aid=NOOP_FLWR_AID,
        primary_task_type=TaskType.SERVER_APP,
    )
    (task,) = (task for task in state.get_tasks() if task.run_id == run_id)
    token = state.claim_task(task.task_id)
    state.activate_task(task.task_id)
    node = state.create_node(NOOP_FLWR_AID, "site", run_id.to_bytes(8), 30.0)
    state.activate_node(node, 30.0)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, run_id, SUPERLINK_NODE_ID

    def send(text, ttl=3600.0):
        message = Message(RecordDict({"fields": ConfigRecord({"x": text})}), node, "train", ttl=ttl)
        message.metadata.__dict__["_message_id"] = message.object_id
        stored, _ = state.store_message_and_object_tree(message, get_object_tree(message), state.start_session(run_id))
        assert stored
        return message.metadata.message_id

    def given():
        return [message.metadata.message_id for message in state.get_message_ins(node, 1)]

    def answers(*ids):
        return [m.error.code for m in state.get_message_res(set(ids), run_id) if m.has_error()]

    return SimpleNamespace(state=state, task=task, token=token, node=node, send=send, given=given, answers=answers)


def test_a_coordinator_that_stood_still_keeps_its_run(link, clock, patient):
    clock[0] = PAUSE_S
    known = link.state.acknowledge_task_heartbeat(link.task.task_id)
    assert known is patient
    assert (link.state.get_task_by_token(link.token) is not None) is patient


def test_a_request_to_a_site_without_heartbeats_stays(link, clock, patient):
    request = link.send("round 1", ttl=2 * PAUSE_S)
    clock[0] = PAUSE_S
    assert link.answers(request) == ([] if patient else [5])
    if patient:
        assert link.given() == [request]


def test_a_request_that_was_lost_on_its_way_is_given_again(link, patient):
    request = link.send("round 1")
    assert link.given() == [request]
    assert link.given() == ([request] if patient else []), "it pulls again, so that it has no work"


def test_only_the_newest_request_counts(link, patient):
    first, second = link.send("round 1"), link.send("round 2")
    assert link.given() == [second if patient else first]
    assert link.given() == [second]
    assert link.answers(first) == ([3] if patient else [])


def test_a_request_of_a_run_that_was_stopped_is_not_given_again(link, patient):
    """The site pulls it before the coordinator, which resumes, asks anything: its parts are gone with the run."""
    request = link.send("round 5")
    assert link.given() == [request]
    link.state.finish_task(link.task.task_id, SubStatus.STOPPED, "by the coordinator")
    assert link.given() == []
    assert link.answers(request) == ([3] if patient else [])


def test_a_request_that_was_answered_is_not_given_again(link):
    request = link.send("round 1")
    (message,) = link.state.get_message_ins(link.node, 1)
    reply = Message(RecordDict({"fields": ConfigRecord({"y": 1})}), reply_to=_with_content(message))
    reply.metadata.__dict__["_message_id"] = reply.object_id
    stored, _ = link.state.store_message_and_object_tree(
        reply, get_object_tree(reply), link.state.start_session(message.metadata.run_id)
    )
    assert stored
    assert link.given() == []
    assert link.answers(request) == []


def _with_content(message):
    """Return the message as its site has it after all parts of it arrived."""
    message.content = RecordDict({"fields": ConfigRecord({"x": 0})})
    return message
