"""The coordinator's Grid over the network, and who speaks to the SuperLink besides: patience, and plain words.

Flower's own Grid waits for ever, believes what an answer says of itself, and raises what its bytes raise. Written for
flwr 1.41.0, whose private names it uses; `tests/coordinator/test_flower_contract.py` holds what is relied on.
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
_PATIENCE_S = 120.0  # for a SuperLink that is being restarted; Flower gives the run up after a minute of silence
_BACKOFF_S = 2.0
_ANSWER_BYTES = 64_000_000  # an answer holds sums and names, and as many weights as were sent


class Listener(Protocol):
    """Told of messages, by node id."""

    def on_asked(self, nodes: Iterable[int]) -> None:
        """Messages to these nodes are on their way."""
        ...

    def on_answer(self, node: int) -> None:
        """An answer of a node is here."""
        ...


class RuntimeGrid(HttpGrid):
    """Flower's Grid over the network, with short polls, patience, and word of every answer.

    Args:
        address: `host:port` of the SuperLink on loopback.
        ca: certificate of the authority.
        token: of the task.
        listener: told of questions and answers.

    Attributes:
        lost: set when the SuperLink has given the run up.
    """

    def __init__(self, address: str, ca: Path, token: str, listener: Listener) -> None:
        super().__init__(address, insecure=False, root_certificates=ca.read_bytes(), token=token)
        self._retry_invoker = superlink_retry_policy()
        self._listener = listener
        self.lost = threading.Event()

    def online(self, since: float) -> set[int]:
        """The nodes that are connected now.

        Args:
            since: Unix time; those that have not been heard of since then do not count. The database of a SuperLink
                that has just started calls connected for another minute whoever was there before it ended.
        """
        with readable_errors():
            return {
                node.node_id
                for node in self.get_nodes()
                if node.online_until - HEARTBEAT_PATIENCE * node.heartbeat_interval >= since
            }

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Send and wait for the answers, `timeout` seconds at most.

        Answers are read side by side: one that is announced and comes slowly, or never, keeps no other waiting.

        Raises:
            LinkLostError: the SuperLink is gone, or has given the run up.
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
                        raise SuperLinkLostError("it has given the run up")
                    time.sleep(_POLL_S)
        finally:
            allowance.over.set()
            readers.shutdown(wait=False, cancel_futures=True)
        return answers

    def _announced(self, waiting: set[str]) -> list[tuple[Any, ObjectTree]]:
        """Metadata and tree of the answers that are there. They are those of the SuperLink, who knows who sent them."""
        if not waiting:
            return []
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=waiting))
        return [
            (message.metadata, tree)
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
            if message.metadata.reply_to_message_id in waiting
        ]

    def _read(self, message_id: str, tree: ObjectTree, request: Message, allowance: "_Allowance") -> Message:
        """An answer, of the bytes that its site sends; or an error, if they do not make one in time."""
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
            _log.warning("dropped an answer that is none, or says that it is to another request")
        except httpx.HTTPError:
            raise
        except Exception as error:  # foreign bytes can be anything, and reading them raise anything
            if not allowance.over.is_set():
                _log.warning("dropped an answer that could not be read (%s)", type(error).__name__)
        return Message(Error(UNREADABLE, ""), reply_to=request)


def _size(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.array_records.values())


@dataclass(frozen=True)
class _Allowance:
    """What reading an answer may take.

    Attributes:
        most: bytes of one.
        deadline: by the monotonic clock, for all of an exchange.
        over: set when nobody waits for the exchange any more.
    """

    most: int
    deadline: float
    over: threading.Event = field(default_factory=threading.Event)

    def applied_to(self, pull: Callable[[str], bytes]) -> Callable[[str], bytes]:
        """Pulls objects of one answer until there are too many bytes of them, or nobody waits."""
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
    """Goes on through a restart of the SuperLink and errors of its own; what it refuses is not tried again."""
    return RetryInvoker(
        lambda: exponential(base_delay=0.25, max_delay=2),
        (httpx.TransportError, httpx.HTTPStatusError),
        max_tries=None,
        max_time=_PATIENCE_S,
        should_giveup=lambda error: (
            isinstance(error, httpx.HTTPStatusError) and error.response.status_code not in (500, 502, 503, 504)
        ),
    )


@contextmanager
def readable_errors() -> Iterator[None]:
    """What goes wrong between this process and its SuperLink is a `SuperLinkLostError`."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise SuperLinkLostError(f"it answered with HTTP status {error.response.status_code}") from error
    except httpx.HTTPError as error:
        raise SuperLinkLostError(f"no connection ({type(error).__name__})") from error
    except RunNotRunningException as error:
        raise SuperLinkLostError("it has given the run up") from error
