"""Executor with a test double of the SuperNode: answers, withheld replies, and the logs."""

import contextlib
import dataclasses
import os
import time

import pytest
from fixtures.federation import BLOCKS, GENES_ONLY, Federation, tiny
from fixtures.requests import facts_request
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client.app import build_client_app
from client.executor import Executor
from client.logs import support_log
from client.worker import SiteWorker
from memamba_core.errors import TamperedLogError, UnreachableError
from memamba_core.privacy.egress import EgressLog
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.protocol import (
    AgreementReply,
    FactsReply,
    Phase,
    Refusal,
)

PATIENT = "TCGA-2F-A9KO"
CONTEXT = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def message(phase=Phase.AGREEMENT, content=None, **fields):
    """Build a request; the default content names a run only."""
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower stamps requests with it
    content = content or RecordDict({"fields": ConfigRecord({"run-id": "run-1", **fields})})
    request = Message(content, dst_node_id=1, message_type=getattr(phase, "message_type", phase))
    request.metadata.__dict__["_message_id"] = "m1"
    return request


@dataclasses.dataclass
class FakeTask:
    message: Message
    context: Context
    answers: list
    egress: EgressLog
    on_answer: object = None

    def answer(self, reply):
        if self.on_answer is not None:
            self.on_answer()
        self.answers.append((reply, len(self.egress.read())))


class FakeTasks:
    """Source that hands out requests one by one, then stops the process."""

    def __init__(self, requests, egress, interrupts, on_answer=None):
        self.requests, self.egress, self.interrupts = list(requests), egress, interrupts
        self.answers, self.on_answer, self.closed = [], on_answer, 0

    def acquire(self):
        if not self.requests:
            self.interrupts.stopping.set()
            return None
        return "token"

    @contextlib.contextmanager
    def open(self, token, on_lost):
        self.on_lost = on_lost
        try:
            yield FakeTask(self.requests.pop(0), CONTEXT, self.answers, self.egress, self.on_answer)
        finally:
            self.closed += 1


@pytest.fixture
def serve(tmp_path, interrupts):
    """Answer requests with an app; return the tasks, with `answers`: each reply and the number of logged lines."""

    def run(app, *requests, limit_s=60.0, **options):
        interrupts.stopping.clear()
        egress = EgressLog(tmp_path)
        tasks = FakeTasks(requests, egress, interrupts, **options)
        Executor(tasks, app, egress, interrupts, limit_s, poll_s=0.01, retry_s=0.01).run()
        return tasks

    return run


def honest(request, _context):
    return Message(to_records(AgreementReply(agreement_digest="d" * 64)), reply_to=request)


def refusal_of(reply):
    return next(r for r in Refusal if (r.code, r.text) == (reply.error.code, reply.error.reason))


def test_an_answer_has_its_line_before_it_goes(serve):
    tasks = serve(honest, message(), message())
    assert [lines for _, lines in tasks.answers] == [1, 2]
    first, _ = tasks.egress.read()
    assert (first.run_id, first.phase, first.kind, first.text) == ("run-1", "agreement", "AgreementReply", "")
    reply, _ = tasks.answers[0]
    assert AgreementReply.from_payload(from_records(reply.content)).agreement_digest == "d" * 64


def test_a_real_site_is_served(serve):
    federation = Federation(tiny(*GENES_ONLY, *BLOCKS))
    run = federation.run()
    request = facts_request(run.experiment, run.run_id, fold=0)
    worker = SiteWorker(federation.cohort.sites["site-01"])
    tasks = serve(build_client_app(lambda _context: worker), message(Phase.FACTS, to_records(request)))
    reply, _ = tasks.answers[0]
    assert FactsReply.from_payload(from_records(reply.content)).site == "site-01"
    assert tasks.egress.read()[0].run_id == run.run_id


def failing(_request, _context):
    raise KeyError(f"no slide of {PATIENT}")


def talkative(request, _context):
    return Message(Error(code=1, reason=f"died: {PATIENT}"), reply_to=request)


def nearly_a_refusal(request, _context):
    return Message(Error(code=Refusal.DATA.code, reason=f"{Refusal.DATA.text} {PATIENT}"), reply_to=request)


def of_another_phase(request, _context):
    reply = FactsReply(
        site=PATIENT,
        time_unit="",
        event_means="",
        encoder="",
        feature_width=0,
        feature_columns=(),
        feature_families=(),
        gene_columns=(),
        size_band=0,
        pathology_band=0,
        genomics_band=0,
    )
    return Message(to_records(reply), reply_to=request)


def with_more_than_agreed(request, _context):
    records = to_records(AgreementReply(agreement_digest="d"))
    records["fields"]["patient"] = PATIENT
    return Message(records, reply_to=request)


def with_another_record(request, _context):
    records = to_records(AgreementReply(agreement_digest="d"))
    records["notes"] = ConfigRecord({"patient": PATIENT})
    return Message(records, reply_to=request)


def to_another_request(request, _context):
    other = message()
    other.metadata.__dict__["_message_id"] = "m2"
    return honest(other, None)


@pytest.mark.parametrize(
    "app",
    [
        failing,
        talkative,
        nearly_a_refusal,
        of_another_phase,
        with_more_than_agreed,
        with_another_record,
        to_another_request,
    ],
)
def test_what_is_not_of_the_protocol_does_not_leave(serve, app, caplog):
    tasks = serve(app, message())
    ((reply, lines),) = tasks.answers
    assert refusal_of(reply) is Refusal.INTERNAL
    assert lines == 1
    assert PATIENT not in tasks.egress.path.read_text()
    assert PATIENT not in str(reply.error)
    logged = [record.getMessage() for record in caplog.records if record.name == support_log.name]
    assert logged
    assert PATIENT not in " ".join(logged)


def test_a_refusal_of_the_client_app_goes_as_it_is(serve):
    def refusing(request, _context):
        return Message(Error(code=Refusal.POLICY.code, reason=Refusal.POLICY.text), reply_to=request)

    tasks = serve(refusing, message())
    assert refusal_of(tasks.answers[0][0]) is Refusal.POLICY
    assert tasks.egress.read()[0].text == f"{Refusal.POLICY.code}: {Refusal.POLICY.text}"


@pytest.mark.parametrize("kind", ["query", "query.patients", "train.other", "evaluate.x"])
def test_a_message_that_the_protocol_does_not_have_is_not_shown_to_the_app(serve, kind):
    tasks = serve(failing, message(kind))
    assert refusal_of(tasks.answers[0][0]) is Refusal.MESSAGE
    assert tasks.egress.read()[0].phase == kind


@pytest.mark.parametrize("run_id", ["../etc", "", 7, "x" * 200])
def test_an_invalid_run_id_does_not_reach_the_log(serve, run_id):
    content = RecordDict({"fields": ConfigRecord({"run-id": run_id})})
    assert serve(honest, message(content=content)).egress.read()[0].run_id == ""


def test_the_round_is_in_the_line(serve):
    tasks = serve(failing, message(Phase.TRAIN, **{"server-round": 7}), message(Phase.TRAIN, **{"server-round": -1}))
    assert [line.server_round for line in tasks.egress.read()] == [7, 0]


def slow(request, context):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        sum(range(1000))
    return honest(request, context)


def test_training_has_a_time_limit(serve):
    started = time.monotonic()
    tasks = serve(slow, message(Phase.TRAIN, **{"server-round": 1}), limit_s=0.05)
    assert time.monotonic() - started < 5
    assert refusal_of(tasks.answers[0][0]) is Refusal.TIME


def test_the_limit_is_for_training_alone(serve):
    def leisurely(request, context):
        time.sleep(0.1)
        return honest(request, context)

    tasks = serve(leisurely, message(), limit_s=0.01)
    assert not tasks.answers[0][0].has_error()


def test_a_run_that_waits_for_approval_has_one_line_until_another_answer_leaves(serve, tmp_path):
    def app(request, context):
        if request.content["fields"]["run-id"] == "run-1":
            return honest(request, context)
        return Message(Error(code=Refusal.PENDING.code, reason=Refusal.PENDING.text), reply_to=request)

    waits = [message(content=RecordDict({"fields": ConfigRecord({"run-id": "second"})})) for _ in range(4)]
    tasks = serve(app, *waits[:3], message(), message(), waits[3])
    assert [lines for _, lines in tasks.answers] == [1, 1, 1, 2, 3, 4]
    assert [record.run_id for record in EgressLog(tmp_path).read()] == ["second", "run-1", "run-1", "second"]


def test_being_stopped_is_answered(serve, interrupts):
    def stopped(request, context):
        interrupts.stop()
        return slow(request, context)

    tasks = serve(stopped, message(), message())
    assert [refusal_of(reply) for reply, _ in tasks.answers] == [Refusal.STOPPED]


def test_a_lost_task_is_left_unanswered_and_the_next_is_served(serve, interrupts):
    seen = []

    def lost_once(request, context):
        seen.append(request)
        if len(seen) == 1:
            interrupts.lose()
            return slow(request, context)
        return honest(request, context)

    tasks = serve(lost_once, message(), message())
    assert len(tasks.answers) == len(tasks.egress.read()) == 1
    assert tasks.closed == 2


def test_an_answer_that_cannot_be_handed_over_is_in_the_log_and_the_next_is_served(serve):
    failures = [UnreachableError("nothing listens at its address")]

    def once():
        if failures:
            raise failures.pop()

    tasks = serve(honest, message(), message(), on_answer=once)
    assert len(tasks.answers) == 1
    assert len(tasks.egress.read()) == 2


def test_with_a_full_disk_nothing_leaves(serve, monkeypatch, tmp_path):
    def full(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    tasks = serve(honest, message())
    assert tasks.answers == []
    assert EgressLog(tmp_path).read() == ()


def test_with_a_log_that_was_edited_nothing_leaves_and_the_program_ends(serve, tmp_path):
    serve(honest, message(), message())
    path = EgressLog(tmp_path).path
    path.write_text(path.read_text().replace("run-1", "run-2"))
    with pytest.raises(TamperedLogError):
        serve(honest, message())


def test_it_waits_for_the_supernode_with_patience(tmp_path, interrupts):
    tasks = FakeTasks([message()], EgressLog(tmp_path), interrupts)
    absent = [UnreachableError("nothing listens at its address")] * 3
    acquire = tasks.acquire

    def at_first_not():
        if absent:
            raise absent.pop()
        return acquire()

    tasks.acquire = at_first_not
    Executor(tasks, honest, tasks.egress, interrupts, 60.0, retry_s=0.01).run()
    assert len(tasks.answers) == 1
