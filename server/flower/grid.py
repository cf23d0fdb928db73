"""Network Grid: Flower's HttpGrid with bounded waits, retries across SuperLink restarts, and readable errors.

Flower's own Grid waits without limit, trusts the metadata inside an answer, and raises whatever reading the answer
raises. Written for flwr 1.42.0, whose private names it uses; `tests/coordinator/test_flower_contract.py` checks every
assumption.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
from flwr.app import Error, Message
from flwr.common.constant import HEARTBEAT_PATIENCE
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, inflate_object_from_contents, pull_objects
from flwr.supercore.retry import RetryInvoker, exponential
from flwr.supercore.run import RunNotRunningException
from flwr.superlink.grid import HttpGrid

from memamba_core.errors import SuperLinkLostError
from server.federation.exchange import UNREADABLE

__all__ = ["Listener", "RuntimeGrid", "readable_errors", "superlink_retry_policy"]

_log = logging.getLogger(__name__)
_POLL_S = 0.25
_RETRY_S = 120.0  # while the SuperLink is being restarted; Flower gives a run up after a minute without heartbeats
_BACKOFF_S = 2.0
_ANSWER_BYTES = 64_000_000  # for sums and names; the weights that were sent are allowed on top


class Listener(Protocol):
    """Callbacks for messages, by node id."""

    def on_asked(self, nodes: Iterable[int]) -> None:
        """Handle that messages to these nodes are being sent."""
        ...

    def on_answer(self, node: int) -> None:
        """Handle that the answer of a node has arrived."""
        ...


class RuntimeGrid(HttpGrid):
    """Flower's Grid over the network, with short polls, retries, and a callback for every answer.

    Args:
        address: `host:port` of the SuperLink on loopback.
        ca: certificate of the authority.
        token: token of the task.
        listener: called when nodes are asked and when they answer.

    Attributes:
        lost: set when the SuperLink has given up the run.
    """

    def __init__(self, address: str, ca: Path, token: str, listener: Listener) -> None:
        super().__init__(address, insecure=False, root_certificates=ca.read_bytes(), token=token)
        self._retry_invoker = superlink_retry_policy()
        self._listener = listener
        self.lost = threading.Event()

    def online(self, since: float) -> set[int]:
        """Return the nodes that are connected now.

        Args:
            since: Unix time; a node without a sign of life since then does not count. For a minute after its start,
                the database of a SuperLink calls every node connected that was connected before its end.
        """
        with readable_errors():
            return {
                node.node_id
                for node in self.get_nodes()
                if node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval >= since
            }

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send messages and wait for the answers, at most `timeout` seconds.

        Answers are read concurrently: an announced answer that arrives slowly, or never, delays no other.

        Raises:
            SuperLinkLostError: the SuperLink does not answer, or has given up the run.
        """
        sent = list(messages)
        if not sent:
            return []
        deadline = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
        self._listener.on_asked([message.metadata.dst_node_id for message in sent])
        answers: list[Message] = []
        reading: dict[Future[Message], int] = {}
        allowance = _Allowance(_ANSWER_BYTES + 2 * max(map(_size, sent)), deadline)
        readers = ThreadPoolExecutor(len(sent), "answers")
        try:
            with readable_errors():
                waiting = {str(message_id) for message_id in self.push_messages(sent) if message_id}
                asked = {str(message.metadata.message_id): message for message in sent}
                while waiting or reading:
                    for announced, tree in self._announced(waiting):
                        request = asked[announced.reply_to_message_id]
                        waiting.discard(announced.reply_to_message_id)
                        work = readers.submit(self._read, announced.message_id, tree, request, allowance)
                        reading[work] = request.metadata.dst_node_id
                    for work in [work for work in reading if work.done()]:
                        answers.append(work.result())
                        self._listener.on_answer(reading.pop(work))
                    if not (waiting or reading) or time.monotonic() > deadline:
                        break
                    if self.lost.is_set():
                        raise SuperLinkLostError("it has given up the run")
                    time.sleep(_POLL_S)
        finally:
            allowance.over.set()
            readers.shutdown(wait=False, cancel_futures=True)
        return answers

    def _announced(self, waiting: set[str]) -> list[tuple[Any, ObjectTree]]:
        """Pull metadata and object tree of the answers that arrived; both come from the SuperLink, not from a site."""
        if not waiting:
            return []
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=waiting))
        return [
            (message.metadata, tree)
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
            if message.metadata.reply_to_message_id in waiting
        ]

    def _read(self, message_id: str, tree: ObjectTree, request: Message, allowance: "_Allowance") -> Message:
        """Read an answer from the bytes that its site sends; return an error if they form no message in time."""
        node, run_id = self.node, request.metadata.run_id
        pull = make_pull_object_fn_protobuf(self._runtime_client.PullObject, node, run_id)
        try:
            contents = pull_objects(
                [branch.object_id for branch in iterate_object_tree(tree)],
                allowance.applied_to(pull),
                max_time=max(0.0, allowance.deadline - time.monotonic()),
                backoff_cap=_BACKOFF_S,
            )
            self._runtime_client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=message_id)
            )
            answer = inflate_object_from_contents(message_id, contents)
            if (
                isinstance(answer, Message)
                and (answer.has_content() or answer.has_error())
                and answer.metadata.reply_to_message_id == request.metadata.message_id
            ):
                return answer
            _log.warning("discarded an answer that is no message, or names another request")
        except httpx.HTTPError:
            raise
        except Exception as error:  # foreign bytes can hold anything, and reading them can raise anything
            if not allowance.over.is_set():
                _log.warning("discarded an answer that could not be read (%s)", type(error).__name__)
        return Message(Error(UNREADABLE, ""), reply_to=request)


def _size(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.array_records.values())


@dataclass(frozen=True)
class _Allowance:
    """Limits on reading an answer.

    Attributes:
        most: bytes of one answer.
        deadline: of the whole exchange, by the monotonic clock.
        over: set when the exchange has ended.
    """

    most: int
    deadline: float
    over: threading.Event = field(default_factory=threading.Event)

    def applied_to(self, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """Wrap a pull function of one answer; it fails once the answer is too large or the exchange has ended."""
        left, counting = [self.most], threading.Lock()

        def pull_counted(object_id: str) -> bytes:
            if self.over.is_set():
                raise ObjectPullError(object_id, "the exchange is over")
            content = pull(object_id)
            with counting:
                left[0] -= len(content)
                if left[0] < 0:
                    raise ObjectPullError(object_id, "an answer of this size was not asked for")
            return content

        return pull_counted


def superlink_retry_policy() -> RetryInvoker:
    """Retry connection errors and HTTP status 500, 502, 503 and 504 for two minutes; do not retry a refusal."""
    return RetryInvoker(
        lambda: exponential(base_delay=0.25, max_delay=2),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=_RETRY_S,
        should_giveup=lambda error: (
            isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (500, 502, 503, 504)
        ),
    )


@contextmanager
def readable_errors() -> Iterator[None]:
    """Raise HTTP errors between this process and its SuperLink as `SuperLinkLostError`."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkLostError(f"it answered with HTTP status {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise SuperLinkLostError(f"no connection ({type(error).__name__})") from error
    except RunNotRunningException as error:
        raise SuperLinkLostError("it has given up the run") from error
