"""Offline responder: detect an absent executor, and refuse requests after a minute without it."""

import contextlib
import socket
from types import SimpleNamespace

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from client import offline_responder as module
from client.offline_responder import OfflineResponder, is_connected_to
from memamba_core.errors import UnreachableError
from memamba_core.wire.protocol import Refusal

pytestmark = pytest.mark.skipif(not module.TCP_TABLES[0].exists(), reason="connections are visible on Linux only")


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_is_seen_while_it_lasts(family, host):
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert not is_connected_to(port)
        with socket.create_connection((host, port)):
            assert is_connected_to(port)
        near, _ = listener.accept()
        near.close()
        assert not is_connected_to(port)


class Tasks:
    """Tasks of a SuperNode with one request."""

    def __init__(self, *_):
        self.token, self.answers, self.closed = "token", [], 0

    def acquire(self):
        token, self.token = self.token, None
        if token is UnreachableError:
            raise UnreachableError("not yet")
        return token

    @contextlib.contextmanager
    def open(self, _token, on_lost):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # Flower stamps requests with it
        request = Message(RecordDict({"fields": ConfigRecord({"x": 1})}), 1, "train")
        yield SimpleNamespace(message=request, answer=self.answers.append)

    def close(self):
        self.closed += 1


@pytest.fixture
def scene(monkeypatch):
    """Offline responder with a test clock, and a switch for the presence of the executor."""
    now, there, tasks = [100.0], [True], Tasks()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(module, "NodeTasks", lambda *_: tasks)
    monkeypatch.setattr(module, "is_connected_to", lambda _port: there[0])
    offline_responder = OfflineResponder(("0.0.0.0", 9094), b"secret")

    def wait(seconds):
        for _ in range(int(seconds)):
            now[0] += 1
            offline_responder.poll()

    return SimpleNamespace(now=now, wait=wait, there=there, tasks=tasks, offline_responder=offline_responder)


def test_a_present_executor_is_left_to_answer(scene):
    scene.wait(600)
    assert not scene.tasks.answers


def test_after_a_minute_without_it_a_request_is_refused(scene):
    scene.wait(10)
    scene.there[0] = False
    scene.wait(55)
    assert not scene.tasks.answers, "it may be starting again"
    scene.wait(10)
    (answer,) = scene.tasks.answers
    assert (answer.error.code, answer.error.reason) == (Refusal.ABSENT.code, Refusal.ABSENT.text)
    scene.wait(10)
    assert scene.tasks.closed >= 2, "its own connection would look like an executor"


def test_it_has_a_minute_after_each_start_of_the_supernode(scene):
    scene.there[0] = False
    scene.wait(50)
    scene.offline_responder.begin()
    scene.wait(50)
    assert not scene.tasks.answers


def test_a_supernode_that_is_being_started_is_waited_for(scene):
    scene.tasks.token, scene.there[0] = UnreachableError, False
    scene.wait(100)
    assert not scene.tasks.answers


def test_after_a_pause_of_the_connector_the_executor_has_a_minute_to_return(scene):
    """Its idle connection was closed meanwhile."""
    scene.there[0] = False
    scene.now[0] += 90
    scene.wait(50)
    assert not scene.tasks.answers
    scene.wait(15)
    assert len(scene.tasks.answers) == 1
