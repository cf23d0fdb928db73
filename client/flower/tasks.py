"""Flower's private names that a site needs: the tasks of a SuperNode, and a check of the site's key.

Written for flwr 1.42.0. `tests/site/test_flower_contract.py` checks every assumption.
"""

import enum
import logging
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SubStatus
from flwr.common.serde import context_from_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.runtime.run_clientapp import push_message

from memamba_core.errors import UnreachableError

__all__ = [
    "Heartbeat",
    "KeyStatus",
    "NodeTasks",
    "Task",
    "check_key_at_coordinator",
    "pull_message",
    "readable_errors",
]

_log = logging.getLogger(__name__)

CLIENT_APP_TASK = "flwr-clientapp"
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_TRANSPORT_TRIES = 8  # with waits of at most 1, 2, 4, 8 ... seconds: about half a minute


@dataclass
class Task:
    """One message that waits for an answer.

    Attributes:
        message: from the coordinator. The bundle of code that came with it was not read.
        context: Flower's context of the node.
    """

    message: Message
    context: Context
    _client: RuntimeHttpClient

    def answer(self, reply: Message) -> None:
        """Hand over the answer. The SuperNode reports an unanswered task as lost, about a minute later.

        Raises:
            UnreachableError: the answer could not be handed over.
        """
        with readable_errors():
            push_message(self._client, reply, self.context)
            self._client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.COMPLETED, details=""))


class NodeTasks:
    """The tasks of a SuperNode in process isolation.

    Args:
        address: `host:port` of its runtime API.
        secret: runtime secret with which the SuperNode was started.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._address = address
        auth = SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=frozenset({_ACQUIRE}))
        self._acquiring = self._client("SuperExec", auth)

    def acquire(self) -> str | None:
        """Acquire the next task of a ClientApp and return its token, or None if no task waits.

        Tasks of other kinds are never requested.

        Raises:
            UnreachableError: the SuperNode does not answer, or refuses; the text gives the reason.
        """
        with readable_errors():
            request = AcquireTaskRequest(supported_task_types=[CLIENT_APP_TASK])
            return self._acquiring.AcquireTask(request).token or None

    def close(self) -> None:
        """Close the connection on which tasks are acquired."""
        self._acquiring.close()

    @contextmanager
    def open(self, token: str, on_lost: Any) -> Iterator[Task]:
        """Take a task and keep it alive until the end of the block.

        Args:
            token: of `acquire`.
            on_lost: called from another thread when the SuperNode no longer knows the task.

        Raises:
            UnreachableError: the SuperNode does not answer, or refuses; the text gives the reason.
        """
        client = self._client(CLIENT_APP_TASK, RuntimeTokenHttpInterceptor(token), retry=supernode_retry_policy())
        heartbeat_client = self._client(CLIENT_APP_TASK, RuntimeTokenHttpInterceptor(token))
        heartbeat = Heartbeat(heartbeat_client, on_lost)
        try:
            with readable_errors():
                message, context = pull_message(client)
            heartbeat.start()
            yield Task(message, context, client)
        finally:
            heartbeat.stop()
            client.close()
            heartbeat_client.close()

    def _client(self, component: str, *interceptors: Any, retry: RetryInvoker | None = None) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,  # loopback, or the internal network of the site's two containers
            root_certificates=None,
            interceptors=[_VersionHeaders(component), *interceptors],
            retry_invoker=retry,
        )


class Heartbeat:
    """Thread that keeps a task alive: the SuperNode drops a task after a minute without a heartbeat.

    Args:
        client: with the token of the task.
        on_lost: called once, from the thread, when the SuperNode no longer knows the task.
    """

    def __init__(self, client: RuntimeHttpClient, on_lost: Any) -> None:
        self._client = client
        self._on_lost = on_lost
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Send heartbeats from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more heartbeats, and report no loss any more."""
        self._stopped.set()

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT_DEFAULT_INTERVAL / 3):
            try:
                known = self._client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success
            except httpx.HTTPStatusError as error:
                known = error.response.status_code not in (401, 403)
            except (httpx.HTTPError, RuntimeError):  # briefly unreachable; or closed, because the work is done
                known = True
            if not known and not self._stopped.is_set():
                self._on_lost()
                return


def pull_message(client: RuntimeHttpClient) -> tuple[Message, Context]:
    """Pull the message of a task and the context of the node; the bundle of code in the reply is ignored.

    Raises:
        UnreachableError: the SuperNode has no message for the task.
    """
    context = context_from_proto(client.PullTaskInput(PullTaskInputRequest()).context)
    pulled = client.PullMessages(PullAppMessagesRequest())
    if not pulled.messages_list:
        raise UnreachableError("the SuperNode has no message for the task")
    tree, node = pulled.message_object_trees[0], Node(node_id=context.node_id)
    message = pull_and_inflate_object_from_tree(
        tree,
        make_pull_object_fn_protobuf(client.PullObject, node, context.run_id),
        make_confirm_message_received_fn_protobuf(client.ConfirmMessageReceived, node, context.run_id),
        return_type=Message,
    )
    message.metadata.__dict__["_message_id"] = tree.object_id  # a reply refers to this id
    return message, context


def supernode_retry_policy() -> RetryInvoker:
    """Return the policy of requests to a SuperNode: retry after a loss of the connection, never after a refusal."""
    return RetryInvoker(
        lambda: exponential(max_delay=8), httpx.TransportError, max_tries=_TRANSPORT_TRIES, max_time=None
    )


@contextmanager
def readable_errors() -> Iterator[None]:
    """Turn errors of httpx and Flower into an `UnreachableError` whose text may stand in the support log."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        code = error.response.status_code
        if code == 401:
            text = "it refuses this program's secret or task; connector and executor need the same runtime.secret"
        else:
            text = f"it answered with HTTP status {code}"
        raise UnreachableError(text) from error
    except httpx.ConnectError as error:
        raise UnreachableError("nothing listens at its address") from error
    except httpx.HTTPError as error:
        raise UnreachableError(type(error).__name__) from error
    except UnreachableError:
        raise
    except Exception as error:  # Flower raises many kinds: an object that is gone, a message that is too old
        _log.exception("Flower raised")
        raise UnreachableError(f"an error of Flower: {type(error).__name__}") from error


class _VersionHeaders:
    """Interceptor that sends the version of Flower; Flower's own ends the process when the versions differ."""

    def __init__(self, component: str) -> None:
        self._headers = dict(RuntimeVersionMetadata.from_local_component(component).as_metadata())

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        add_headers(context.request, self._headers)
        return call_next(context)


class KeyStatus(enum.Enum):
    """The coordinator's verdict on this site's key."""

    ENROLLED = enum.auto()
    NOT_ENROLLED = enum.auto()
    SIGNATURE_REJECTED = enum.auto()
    """Signature or time of the request is wrong: if the clock is right, a proxy on the way alters requests."""
    FLOWER_VERSION_MISMATCH = enum.auto()
    """The coordinator runs another version of Flower."""
    NOT_A_COORDINATOR = enum.auto()
    """The program that answers is not a SuperLink, or a proxy in front of it lets no request through."""


_KEY_STATUS: dict[int, KeyStatus] = {
    ApiErrorCode.FLEET_INVALID_HEARTBEAT_INTERVAL: KeyStatus.ENROLLED,
    ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED: KeyStatus.NOT_ENROLLED,
    ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE: KeyStatus.FLOWER_VERSION_MISMATCH,
}


def check_key_at_coordinator(
    address: str, trusted: ssl.SSLContext, key: ec.EllipticCurvePrivateKey, *, timeout_s: float = 10.0
) -> KeyStatus:
    """Present this site's key to the coordinator, without connecting a node.

    The request is that of a SuperNode that connects, with a heartbeat interval of zero seconds. A SuperLink looks up
    the key first and then refuses the interval. So no node is registered that would be gone when a message comes.

    Args:
        address: `host:port` of the coordinator.
        trusted: TLS context that trusts the coordinator's authority and no other.
        key: of the node.
        timeout_s: of the request.

    Raises:
        httpx.TransportError: no connection.
    """
    interceptors = (_VersionHeaders("SuperNode"), NodeAuthHttpInterceptor(key, key.public_key()))
    with FleetHttpClient(f"https://{address}", interceptors=interceptors, verify=trusted, timeout=timeout_s) as fleet:
        request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=0)
        try:
            fleet.ActivateNode(request)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == 401:
                return KeyStatus.SIGNATURE_REJECTED
            refused = FlowerError.from_json(error.response.text)
            return _KEY_STATUS.get(refused.code if refused else 0, KeyStatus.NOT_A_COORDINATOR)
        return KeyStatus.NOT_A_COORDINATOR
