"""Network Grid: Flower's HttpGrid with bounded waits, patience for pauses, and readable errors.

Flower's own Grid waits without limit, trusts the metadata inside an answer, and raises whatever reading the answer
raises. Written for flwr 1.42.0, whose private names it uses; `tests/coordinator/test_flower_contract.py` checks every
assumption.
"""

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import httpx
from flwr.app import Error, Message
from flwr.common.constant import HEARTBEAT_PATIENCE, ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid import HttpGrid

from memamba_core.errors import SuperLinkLostError
from memamba_core.io.awake_clock import AwakeClock
from server.federation.exchange import UNREADABLE

from .allowance import Allowance, array_bytes
from .patience import Patience
from .retries import readable_errors, superlink_retry_policy

__all__ = ["Listener", "RuntimeGrid"]

_log = logging.getLogger(__name__)
_POLL_S = 0.25
_LOOK_S = 5.0  # between two looks at the connected nodes
_MAX_PUSHES = 3
_BACKOFF_S = 2.0
_ANSWER_BYTES = 64_000_000  # for sums and names; the weights that were sent are allowed on top
_LOST_ANSWER = ErrorCode.REPLY_MESSAGE_UNAVAILABLE


class Listener(Protocol):
    """Callbacks for messages, by node id."""

    def on_asked(self, nodes: Iterable[int]) -> None:
        """Handle that messages to these nodes are being sent."""
        ...

    def on_answer(self, node: int) -> None:
        """Handle that the answer of a node has arrived."""
        ...

    def on_away(self, nodes: Collection[int], longest_s: float) -> None:
        """Handle that these nodes, and no others, are away and waited for, at most `longest_s` seconds."""
        ...

    def on_pause(self, seconds: float) -> None:
        """Handle that this process, or its SuperLink, stood still."""
        ...


class RuntimeGrid(HttpGrid):
    """Flower's Grid over the network, with short polls, retries, and a callback for every answer.

    Args:
        address: `host:port` of the SuperLink on loopback.
        ca: certificate of the authority.
        token: token of the task.
        listener: called when nodes are asked and when they answer.
        return_wait_s: longest wait of an exchange for a node that is away and whose answer is needed, seconds.
        ended: set when the SuperLink has ended for good.

    Attributes:
        lost: set when the SuperLink has given up the run.
    """

    def __init__(
        self,
        address: str,
        ca: Path,
        token: str,
        listener: Listener,
        return_wait_s: float = 900.0,
        ended: threading.Event | None = None,
    ) -> None:
        super().__init__(address, insecure=False, root_certificates=ca.read_bytes(), token=token)
        self._retry_invoker = superlink_retry_policy(ended)
        self._listener = listener
        self._return_wait_s = return_wait_s
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
        """Send messages and wait for the answers of all nodes; see `exchange`."""
        return self.exchange(messages, timeout=timeout)

    def exchange(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        enough: Callable[[frozenset[int]], bool] | None = None,
    ) -> list[Message]:
        """Send one message to each of some nodes and collect the answers.

        Answers are read concurrently: an announced answer that arrives slowly, or never, delays no other. A message
        that was lost is repeated. A node that is away is waited for while its answer is needed.

        Args:
            messages: one for each node.
            timeout: time limit, seconds; pauses, and the time for which a needed node is away, do not count.
            enough: returns True if answers of these nodes are enough; None requires the answers of all.

        Raises:
            SuperLinkLostError: the SuperLink does not answer, or has given up the run.
        """
        sent = {message.metadata.dst_node_id: message for message in messages}
        if not sent:
            return []
        limit_s = threading.TIMEOUT_MAX / 4 if timeout is None else timeout
        self._listener.on_asked(sent.keys())
        allowance = Allowance(_ANSWER_BYTES + 2 * max(map(array_bytes, sent.values())), time.monotonic() + limit_s)
        readers = ThreadPoolExecutor(len(sent), "answers")
        try:
            with readable_errors():
                open_requests = self._push(list(sent.values()))
                nodes = {message.metadata.dst_node_id for message in open_requests.values()}
                clock = AwakeClock()
                patience = Patience(
                    nodes, limit_s, self._return_wait_s, enough or (lambda some: len(some) == len(sent)), clock
                )
                return self._collect(sent, open_requests, patience, clock, readers, allowance)
        finally:
            allowance.over.set()
            readers.shutdown(wait=False, cancel_futures=True)

    def _collect(
        self,
        sent: dict[int, Message],
        open_requests: dict[str, Message],
        patience: Patience,
        clock: AwakeClock,
        readers: ThreadPoolExecutor,
        allowance: Allowance,
    ) -> list[Message]:
        """Collect answers until the patience is over.

        Args:
            sent: the message of each node, to which its answer refers.
            open_requests: pushed messages without an answer, by id; a repeated message has an id of its own.
            patience: of the exchange.
            clock: of the patience.
            readers: threads that read answers.
            allowance: limits on reading an answer.
        """
        answers: list[Message] = []
        reading: dict[Future[Message], int] = {}
        looked_at, connected, pauses, away = -_LOOK_S, frozenset(sent), 0, frozenset[int]()
        while True:
            for announced, tree in self._announced(open_requests.keys()):
                request = open_requests.pop(announced.reply_to_message_id)
                work = readers.submit(self._read, announced.message_id, tree, request, allowance)
                reading[work] = request.metadata.dst_node_id
            for work in [work for work in reading if work.done()]:
                node, answer = reading.pop(work), work.result()
                if not patience.awaits(node):
                    continue
                if not answer.has_error():
                    patience.on_answer(node)
                elif patience.repeats(node, answer.error.code):
                    continue
                answers.append(_as_answer_to(sent[node], answer))
                self._listener.on_answer(node)
            if due := patience.take_due():
                open_requests |= self._push([_repetition(sent[node], patience.left_s) for node in due])
            if clock.now() - looked_at >= _LOOK_S:
                looked_at, connected = clock.now(), frozenset(self.get_node_ids())
            for node, code in patience.pass_time(connected).items():
                open_requests = {k: m for k, m in open_requests.items() if m.metadata.dst_node_id != node}
                answers.append(Message(Error(code, ""), reply_to=sent[node]))
            if clock.pauses > pauses:
                pauses = clock.pauses
                self._listener.on_pause(clock.paused_s)
            if patience.awaited_back != away:
                away = patience.awaited_back
                self._listener.on_away(away, self._return_wait_s)
            if patience.is_over:
                return answers
            if self.lost.is_set():
                raise SuperLinkLostError("it has given up the run")
            allowance.deadline = time.monotonic() + patience.left_s
            time.sleep(_POLL_S)

    def _push(self, messages: list[Message]) -> dict[str, Message]:
        """Push messages, and return those that the SuperLink took, by id.

        The SuperLink forgets messages whose content takes longer than three minutes, which includes a pause.
        """
        for message in messages:
            # a request may wait for the return of its site; a newer request replaces it
            message.metadata.ttl += self._return_wait_s
        for attempt in range(_MAX_PUSHES):
            try:
                taken = self.push_messages(messages)
                return {str(i): message for i, message in zip(taken, messages, strict=True) if i}
            except ObjectPushError:
                if attempt == _MAX_PUSHES - 1:
                    raise SuperLinkLostError(f"it did not take a message, {_MAX_PUSHES} times") from None
        return {}

    def _announced(self, waiting: Collection[str]) -> list[tuple[Any, ObjectTree]]:
        """Pull metadata and object tree of the answers that arrived; both come from the SuperLink, not from a site."""
        if not waiting:
            return []
        pulled = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=waiting))
        return [
            (message.metadata, tree)
            for message, tree in zip(pulled.messages_list, pulled.message_object_trees, strict=True)
            if message.metadata.reply_to_message_id in waiting
        ]

    def _read(self, message_id: str, tree: ObjectTree, request: Message, allowance: Allowance) -> Message:
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
        except ObjectPullError:  # the site stood still, or ended, before all of its answer was sent
            return Message(Error(_LOST_ANSWER, ""), reply_to=request)
        except Exception as error:  # foreign bytes can hold anything, and reading them can raise anything
            if not allowance.over.is_set():
                _log.warning("discarded an answer that could not be read (%s)", type(error).__name__)
        return Message(Error(UNREADABLE, ""), reply_to=request)


def _repetition(message: Message, left_s: float) -> Message:
    metadata = message.metadata
    return Message(
        content=message.content,
        dst_node_id=metadata.dst_node_id,
        message_type=metadata.message_type,
        ttl=left_s,
        group_id=metadata.group_id,
    )


def _as_answer_to(message: Message, answer: Message) -> Message:
    """Return the answer to a repetition as an answer to the message itself."""
    answer.metadata.__dict__["_reply_to_message_id"] = message.metadata.message_id
    return answer
