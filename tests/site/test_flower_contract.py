"""Contract of Flower's private names that a site uses: an incompatible version of Flower fails here first."""

import importlib.metadata
import inspect
import re
import threading
from pathlib import Path

import httpx
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.common.serde import context_to_proto
from flwr.proto.runtime_pb2 import PullTaskInputResponse
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import fleet_http_connection
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

from client.flower import supernode_process
from client.flower import tasks as module
from client.flower.supernode import ConnectionEnd, connection_end, supernode_command
from client.flower.tasks import Heartbeat, NodeTasks, Task, pull_message, readable_errors
from memamba_core.errors import UnreachableError

SUPPORTED = ("1.41.0", "1.42.0")  # `make test-flower` runs the contract on each; the last one is the pin


def test_it_was_written_for_the_flower_that_is_installed():
    assert importlib.metadata.version("flwr") in SUPPORTED
    assert f"flwr {SUPPORTED[-1]}" in module.__doc__


def test_the_supernode_takes_the_options_that_it_gets(tmp_path):
    from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

    command, settings = supernode_command(
        "coordinator.example.org:8443", tmp_path / "ca.crt", tmp_path / "key", tmp_path / "secret", ("127.0.0.1", 9094)
    )
    options = _parse_args_run_supernode().parse_args(command[4:])
    assert (options.superlink, options.isolation) == ("coordinator.example.org:8443", "process")
    assert (options.host, options.port) == ("127.0.0.1", 9094)
    assert options.superexec_auth_secret_file == str(tmp_path / "secret")
    assert not options.insecure
    assert settings["FLWR_TELEMETRY_ENABLED"] == "0"


def test_telemetry_and_updates_are_off_by_these_names():
    from flwr.common import constant
    from flwr.supercore import telemetry, update_check

    sources = "".join(inspect.getsource(part) for part in (telemetry, update_check, constant))
    _, settings = supernode_command("a:1", Path("ca"), Path("key"), Path("secret"), ("127.0.0.1", 1))
    assert all(name in sources for name in settings)


class FakeClient:
    """SuperNode with a task and no message."""

    def __init__(self):
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
        self.context = context_to_proto(context)
        self.pushed, self.outputs = [], []

    def PullTaskInput(self, _request):
        return PullTaskInputResponse(context=self.context)

    def PullMessages(self, _request):
        return type("Empty", (), {"messages_list": []})()

    def PushTaskOutput(self, request):
        self.outputs.append(request)

    def close(self):
        pass


def test_a_task_without_a_message_is_reported():
    with pytest.raises(UnreachableError, match="no message"):
        pull_message(FakeClient())


def test_an_answer_goes_without_the_context(monkeypatch):
    """Flower's own executor sends the node's state back with each answer; here the state stays."""
    client = FakeClient()
    monkeypatch.setattr(module, "push_message", lambda _client, reply, _context: client.pushed.append(reply))
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    reply = Message(RecordDict({"fields": ConfigRecord({})}), dst_node_id=1, message_type="train")
    Task(reply, context, client).answer(reply)
    assert client.pushed == [reply]
    (output,) = client.outputs
    assert not output.HasField("context")


def test_only_tasks_of_a_client_app_are_asked_for(monkeypatch):
    asked = []

    class Client:
        def AcquireTask(self, request):
            asked.append(list(request.supported_task_types))
            return type("None", (), {"token": ""})()

    monkeypatch.setattr(module.RuntimeHttpClient, "from_server_address", lambda **_options: Client())
    assert NodeTasks("127.0.0.1:1", b"s" * 32).acquire() is None
    assert asked == [["flwr-clientapp"]]


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (httpx.ConnectError("x"), "nothing listens at its address"),
        (httpx.ReadTimeout("x"), "ReadTimeout"),
        (httpx.HTTPStatusError("x", request=None, response=httpx.Response(401)), "need the same runtime.secret"),
        (httpx.HTTPStatusError("x", request=None, response=httpx.Response(500)), "HTTP status 500"),
        (KeyError("an object of TCGA-2F-A9KO"), "an error of Flower: KeyError$"),
        (UnreachableError("as it was"), "^as it was$"),
    ],
)
def test_what_the_supernode_does_is_told_in_plain_words(failure, word):
    with pytest.raises(UnreachableError, match=word), readable_errors():
        raise failure


def test_the_errors_that_a_supernode_survives_are_those_of_its_loop():
    """Every text that the loop logs as an error is listed, so that no other error counts as recoverable."""
    from flwr.supercore.corestate import in_memory_corestate
    from flwr.supercore.retry import http_retry
    from flwr.supercore.servicer.runtime import runtime_handlers as shared_handlers
    from flwr.supernode import start_client_internal
    from flwr.supernode.nodestate import in_memory_nodestate
    from flwr.supernode.servicer.runtime import runtime_handlers

    logged = re.compile(r'log\(\s*ERROR,\s*"((?:[^"\\]|\\.)*)"')
    loop = (start_client_internal, http_retry)
    bookkeeping = (in_memory_nodestate, in_memory_corestate, runtime_handlers, shared_handlers)
    assert sum(len(logged.findall(inspect.getsource(part))) for part in loop) == 6
    texts = [text for part in (*loop, *bookkeeping) for text in logged.findall(inspect.getsource(part))]
    assert "Cannot get processing duration: Message ID %s not found." in texts, "a reply that comes late"
    assert all(connection_end(f"ERROR :     {text}") is None for text in texts)
    assert "log(ERROR, exc)" in inspect.getsource(fleet_http_connection), "the last line of a loop that failed"
    assert connection_end("ERROR :     [SSL: WRONG_VERSION_NUMBER] wrong version number") is ConnectionEnd.BROKEN
    assert connection_end("ERROR :     Exit Code: 305") is ConnectionEnd.REFUSED
    assert connection_end("INFO :      Sent successfully") is None


@pytest.mark.parametrize("kind", ["ApiError:1008", "UnexpectedError:KeyError"])
def test_a_request_that_the_supernode_refuses_to_its_executor_is_no_end_of_the_connection(kind):
    """An executor that stood still sends a heartbeat of a task that is over, for example."""
    from flwr.supercore.error import http

    assert '"[{request.url.path}][ApiError:' in inspect.getsource(http)
    assert '"[{request.url.path}][UnexpectedError:' in inspect.getsource(http)
    line = f"ERROR :     [/v1/runtime/send-task-heartbeat][{kind}] Runtime task-token authentication failed."
    assert connection_end(line) is None


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out"), True),
        (httpx.ReadTimeout("The read operation timed out"), True),
        (httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), False),
    ],
)
def test_a_handshake_that_times_out_is_tried_again(error, again, monkeypatch):
    """As when the coordinator stands still. Flower alone takes it for a wrong certificate, and drops the reply."""
    stock = fleet_http_connection.make_simple_http_retry_invoker
    monkeypatch.setattr(fleet_http_connection, "make_simple_http_retry_invoker", stock)
    if again:
        assert stock().should_giveup(error) == ("ssl" in str(error))
    supernode_process.retry_timeouts()
    calls = []

    def request():
        calls.append(1)
        if len(calls) == 1:
            raise error

    invoker = fleet_http_connection.make_simple_http_retry_invoker()
    invoker.wait_function = lambda _: None
    if again:
        invoker.invoke(request)
        assert len(calls) == 2
    else:
        with pytest.raises(httpx.ConnectError):
            invoker.invoke(request)


def test_a_supernode_whose_heartbeats_ended_is_restarted():
    """The thread ends with an error that it cannot retry. The loop continues, but the site counts as away."""
    from flwr.supercore.heartbeat import HeartbeatSender

    def refused():
        raise httpx.HTTPStatusError("500", request=None, response=httpx.Response(500))

    sender, raised = HeartbeatSender(refused), []
    hook, threading.excepthook = threading.excepthook, raised.append
    try:
        sender._thread.start()
        sender._thread.join(5)
    finally:
        threading.excepthook = hook
    assert raised, "Flower lets the error end the thread"
    assert connection_end("Exception in thread Thread-3 (_run):") is ConnectionEnd.BROKEN


def test_a_heartbeat_of_no_seconds_is_refused_after_the_key_was_found():
    """`check_key_at_coordinator` relies on the order of two checks of the SuperLink."""
    from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
    from flwr.superlink.servicer.fleet.fleet_handlers import activate_node

    source = inspect.getsource(activate_node)
    assert HEARTBEAT_MIN_INTERVAL > 0
    assert source.index("get_node_id_by_public_key") < source.index("_validate_heartbeat_interval")
    assert source.index("_validate_heartbeat_interval") < source.index("state.activate_node")


def test_a_heart_that_is_not_known_any_more_tells_it(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 0.03)
    lost = threading.Event()

    class Client:
        beats = 0

        def SendTaskHeartbeat(self, _request):
            self.beats += 1
            if self.beats == 1:
                raise httpx.ReadTimeout("briefly unreachable")
            return type("Reply", (), {"success": self.beats < 4})()

    client = Client()
    heart = Heartbeat(client, lost.set)
    heart.start()
    assert lost.wait(5)
    heart.stop()
    assert client.beats == 4


def test_a_heart_that_was_stopped_says_nothing(monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 0.03)
    lost = threading.Event()
    heart = Heartbeat(type("C", (), {"SendTaskHeartbeat": lambda *_a: 1 / 0})(), lost.set)
    heart.stop()
    heart.start()
    assert not lost.wait(0.1)


@pytest.fixture(params=[True, False], ids=["ours", "stock"])
def ours(request, monkeypatch):
    """True where the SuperNode sends the awaited reply only; reversed afterwards, because it is the whole process."""
    for name in ("store_message", "get_messages_legacy"):
        monkeypatch.setattr(InMemoryNodeState, name, getattr(InMemoryNodeState, name))
    if request.param:
        supernode_process.send_only_the_awaited_reply()
    return request.param


def test_a_reply_to_an_older_request_is_not_sent_in_place_of_the_awaited_one(ours):
    """After one reply too many, each later one would arrive when the coordinator has given up its request."""
    state = InMemoryNodeState(ObjectStoreFactory().store())

    def store(message):
        message.metadata.__dict__["_message_id"] = message.object_id
        message.metadata.__dict__["_run_id"] = 7
        state.store_message(message)
        return message

    def sent():
        return [message.metadata.reply_to_message_id for message in state.get_messages_legacy(is_reply=True)]

    requests = [
        store(Message(RecordDict({"fields": ConfigRecord({"x": number})}), 1, "train", ttl=60.0)) for number in (1, 2)
    ]
    old, new = (message.metadata.message_id for message in requests)
    store(Message(RecordDict(), reply_to=requests[0]))
    assert sent() == ([] if ours else [old])
    store(Message(RecordDict(), reply_to=requests[1]))
    assert sent() == [new]
    assert [m.metadata.message_id for m in state.get_messages_legacy(is_reply=False)] == ([new] if ours else [old, new])
