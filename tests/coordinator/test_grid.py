"""Answers over the network: read concurrently, within a time limit, whatever bytes they consist of."""

import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import Metadata
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from memamba_core.io.awake_clock import AwakeClock
from memamba_core.wire.protocol import Refusal
from server.federation.exchange import UNREADABLE
from server.flower import grid as runtime_grid
from server.flower import patience, retries
from server.flower.grid import RuntimeGrid
from server.flower.retries import superlink_retry_policy

NODES = (11, 12)


def request(node):
    TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower stamps requests with it
    message = Message(RecordDict({"fields": ConfigRecord({"x": node})}), node, "query.facts")
    message.metadata.__dict__.update(_message_id=f"request-{node}", _run_id=1)
    return message


def answer_to(message, size=10):
    data = bytes(size)
    answer = Message(
        RecordDict({"weights": ArrayRecord({"w": Array("uint8", (size,), "raw", data)})}), reply_to=message
    )
    answer.metadata.__dict__["_message_id"] = answer.object_id
    return answer


class Runtime:
    """SuperLink that has these answers, and their objects unless they are missing."""

    lost = ()

    def __init__(self, announced, missing=()):
        self.announced, self.names, self.objects, self.connected = {}, {}, {}, NODES
        for name, answer in announced.items():
            self.add(name, answer)
        self.missing = {self.announced[name].object_id for name in missing}

    def add(self, name, answer):
        self.announced[name] = self.names[name] = answer
        self.objects |= {key: one.deflate() for key, one in get_all_nested_objects(answer).items()}

    def PullMessages(self, asked):
        here = [self.announced.pop(name) for name in list(asked.message_ids) if name in self.announced]
        named = {answer.object_id: name for name, answer in self.names.items()}
        return SimpleNamespace(
            messages_list=[
                SimpleNamespace(
                    metadata=Metadata(message_id=answer.object_id, reply_to_message_id=named[answer.object_id])
                )
                for answer in here
            ],
            message_object_trees=[get_object_tree(answer) for answer in here],
        )

    def PullObject(self, asked):
        if asked.object_id in self.lost:
            return SimpleNamespace(object_found=False)
        here = asked.object_id not in self.missing
        return SimpleNamespace(object_found=True, object_available=here, object_content=self.objects[asked.object_id])

    def ConfirmMessageReceived(self, _):
        pass

    def GetNodes(self, _):
        return SimpleNamespace(nodes=[SimpleNamespace(node_id=node) for node in self.connected])


@pytest.fixture
def ask(monkeypatch):
    """Answers by node to two requests, from a SuperLink whose answers `change` makes."""

    def go(change=lambda _runtime: None, missing=(), timeout=60.0, announced=None, enough=None):
        sent = [request(node) for node in NODES]
        honest = {f"request-{node}": answer_to(message) for node, message in zip(NODES, sent, strict=True)}
        runtime = Runtime(honest | (announced(sent) if announced else {}), missing)
        change(runtime)
        grid = RuntimeGrid.__new__(RuntimeGrid)
        answered = []
        grid.__dict__.update(
            _client=runtime,
            node=None,
            _listener=SimpleNamespace(
                on_asked=lambda _: None, on_answer=answered.append, on_away=lambda *_: None, on_pause=lambda _: None
            ),
            _return_wait_s=900.0,
            lost=SimpleNamespace(is_set=lambda: False),
        )

        def push(messages):
            for message in messages:
                if not message.metadata.message_id:  # a repetition
                    message.metadata.__dict__.update(_message_id=f"again-{message.metadata.dst_node_id}", _run_id=1)
                    runtime.add(message.metadata.message_id, answer_to(message))
            return [message.metadata.message_id for message in messages]

        monkeypatch.setattr(grid, "push_messages", push)
        monkeypatch.setattr(runtime_grid, "_POLL_S", 0.01)
        monkeypatch.setattr(runtime_grid, "_LOOK_S", 0.0)
        answers = list(grid.exchange(sent, timeout=timeout, enough=enough))
        return {int(a.metadata.reply_to_message_id.removeprefix("request-")): a for a in answers}, answered

    return go


def test_answers_are_read(ask):
    answers, answered = ask()
    assert sorted(answered) == [11, 12]
    assert all(not answers[node].has_error() for node in NODES)


def garble(runtime):
    """The bytes of the first answer form no message."""
    first = runtime.names["request-11"].object_id
    runtime.objects[first] = b"\xff\x00 nonsense"


def test_bytes_that_are_no_message_cost_one_site(ask):
    answers, _ = ask(garble)
    assert answers[11].error.code == UNREADABLE
    assert not answers[12].has_error()


def test_an_answer_in_the_name_of_another_is_dropped(ask):
    """The SuperLink names the sender of an answer; the metadata inside come from the site."""
    forged = lambda sent: {"request-11": answer_to(sent[1], size=5)}  # noqa: E731
    answers, _ = ask(announced=forged)
    assert answers[11].error.code == UNREADABLE
    assert not answers[12].has_error()


def test_an_answer_of_a_size_that_nobody_asked_for_is_not_taken_in(ask, monkeypatch):
    monkeypatch.setattr(runtime_grid, "_ANSWER_BYTES", 10_000)
    answers, _ = ask(announced=lambda sent: {"request-11": answer_to(sent[0], size=20_000)})
    assert answers[11].error.code == UNREADABLE
    assert not answers[12].has_error()


def test_an_answer_whose_bytes_never_come_keeps_nobody_waiting_longer_than_was_said(ask):
    started = time.monotonic()
    answers, answered = ask(missing=["request-11"], timeout=1.5)
    assert time.monotonic() - started < 5
    assert answered[0] == 12
    assert not answers[12].has_error()
    assert 11 not in answers or answers[11].error.code == UNREADABLE


def error_of(message, code):
    answer = Message(Error(code, ""), reply_to=message)
    answer.metadata.__dict__["_message_id"] = answer.object_id
    return answer


@pytest.mark.parametrize("code", [ErrorCode.MESSAGE_UNAVAILABLE, ErrorCode.CLIENT_APP_CRASHED, Refusal.STOPPED.code])
def test_a_request_that_was_lost_is_repeated_and_its_answer_belongs_to_the_request(ask, code, monkeypatch):
    monkeypatch.setattr(patience, "_FIRST_WAIT_S", 0.0)
    answers, answered = ask(announced=lambda sent: {"request-11": error_of(sent[0], code)})
    assert sorted(answered) == [11, 12]
    assert all(not answers[node].has_error() for node in NODES)


def test_an_answer_that_was_sent_in_part_is_requested_again(ask):
    def lose_the_objects(runtime):
        runtime.lost = {runtime.names["request-11"].object_id}

    answers, _ = ask(lose_the_objects)
    assert not answers[11].has_error()


def test_a_site_that_is_away_and_not_needed_is_left_out_while_the_others_are_waited_for(ask):
    def leave(runtime):
        runtime.connected = (12,)
        del runtime.announced["request-11"]

    answers, answered = ask(leave, enough=lambda nodes: len(nodes) >= 1)
    assert answers[11].error.code == ErrorCode.NODE_UNAVAILABLE
    assert answered == [12]
    assert not answers[12].has_error()


@pytest.mark.parametrize(("status", "calls"), [(500, 2), (503, 2), (403, 1)])
def test_what_fails_at_the_superlink_is_tried_again_and_what_it_refuses_is_not(status, calls):
    asked = []

    def call():
        asked.append(status)
        answer = httpx.Response(status if len(asked) == 1 else 200, request=httpx.Request("POST", "https://localhost"))
        answer.raise_for_status()

    with suppress(httpx.HTTPStatusError):
        superlink_retry_policy().invoke(call)
    assert len(asked) == calls


def test_a_superlink_that_has_ended_for_good_is_not_tried_again():
    ended, calls = threading.Event(), []

    def call():
        calls.append(1)
        ended.set()
        raise httpx.ConnectError("refused")

    with pytest.raises(httpx.ConnectError):
        superlink_retry_policy(ended).invoke(call)
    assert calls == [1]


def test_retries_end_after_fifteen_minutes_without_pauses(monkeypatch):
    readings = iter([0.0, *range(0, 600, 30), 100_000.0, *range(100_010, 200_000, 30)])
    monkeypatch.setattr(retries, "AwakeClock", lambda step: AwakeClock(step, read=lambda: float(next(readings))))
    assert 25 < len(list(retries._waits())) < 40
