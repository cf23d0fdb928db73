"""Flower's Grid in one process, or a few: messages go directly to the ClientApp, without Ray or a network.

Every message is a copy, as over a network: clients that shared record objects would see each other's changes. This
module uses three names of Flower that are not public (`Run`, `TaskIdentity`, the message id in the metadata).
"""

import copy
import logging
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from memamba_core.wire.protocol import Refusal

from .processes import WorkerContext, end_with_parent

__all__ = ["InlineRunner", "LocalGrid", "ProcessRunner", "Runner"]

_log = logging.getLogger(__name__)
_RUN_ID = 1
_FIRST_NODE = 2  # 1 is the SuperLink's own


class Runner(Protocol):
    """Computation of a site's answer to a message."""

    def submit(self, site: str, message: Message) -> "Future[Message]":
        """Begin the computation; the future holds the answer."""
        ...

    def close(self) -> None:
        """Release processes that were started."""
        ...


class InlineRunner:
    """Runner of one site after the other, in this process."""

    def __init__(self, client_app: ClientApp) -> None:
        self._client_app = client_app

    def submit(self, site: str, message: Message) -> "Future[Message]":
        """Compute the answer now."""
        future: Future[Message] = Future()
        future.set_result(_answer(self._client_app, site, copy.deepcopy(message)))
        return future

    def close(self) -> None:
        """Do nothing: no process was started."""


_client_app_of_worker: ClientApp | None = None


def _start_worker(build: Callable[..., ClientApp], arguments: tuple[Any, ...]) -> None:
    global _client_app_of_worker
    end_with_parent()
    _client_app_of_worker = build(*arguments)


def _answer_in_worker(site: str, message: Message) -> Message:
    assert _client_app_of_worker is not None
    return _answer(_client_app_of_worker, site, message)


class ProcessRunner:
    """Runner of sites spread over a few processes; a site stays in its process, which holds its session.

    Args:
        build: importable function that makes the ClientApp in a worker.
        arguments: plain data for `build`.
        sites: names of the sites, dealt to the processes in turn.
        workers: number of processes.
        scratch: folder of the processes, which is removed with them.
    """

    def __init__(
        self,
        build: Callable[..., ClientApp],
        arguments: tuple[Any, ...],
        sites: Sequence[str],
        workers: int,
        scratch: TemporaryDirectory[str] | None = None,
    ) -> None:
        self._build, self._arguments, self._scratch = build, arguments, scratch
        self._processes = WorkerContext()
        self._pools = [self._start() for _ in range(min(workers, len(sites)))]
        self._pool_of = {site: index % len(self._pools) for index, site in enumerate(sites)}

    def submit(self, site: str, message: Message) -> "Future[Message]":
        """Begin the computation in the site's process; a process that died is replaced."""
        index = self._pool_of[site]
        try:
            return self._pools[index].submit(_answer_in_worker, site, message)
        except BrokenProcessPool:
            self._pools[index] = self._start()
            return self._pools[index].submit(_answer_in_worker, site, message)

    def close(self) -> None:
        """End the processes, also one that is still at work, because its answer is no longer needed."""
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)
        self._processes.end()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _start(self) -> ProcessPoolExecutor:
        # one process each: a pool of several would give a site's messages to any process that is free
        return ProcessPoolExecutor(
            1, mp_context=self._processes, initializer=_start_worker, initargs=(self._build, self._arguments)
        )


class LocalGrid(Grid):
    """Grid over sites on this machine.

    Args:
        sites: names of the sites; node ids are given in this order.
        runner: computes the answers.
        on_reply: called with the name of the site after each answer, for progress.
    """

    def __init__(self, sites: Sequence[str], runner: Runner, on_reply: Callable[[str], None] | None = None) -> None:
        self._sites = {_FIRST_NODE + index: site for index, site in enumerate(sites)}
        self._runner = runner
        self._on_reply = on_reply
        self._run = Run.create_empty(run_id=_RUN_ID)
        _act_as(1)

    @property
    def run(self) -> Run:
        """The one run of this grid."""
        return self._run

    @property
    def nodes(self) -> dict[str, int]:
        """Node id of each site."""
        return {site: node for node, site in self._sites.items()}

    def set_run(self, run: Run) -> None:
        """Replace the description of the run."""
        self._run = run

    def get_node_ids(self) -> Iterable[int]:
        """Return all sites; in a simulation every site is connected."""
        return list(self._sites)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message from the coordinator."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: in one process an exchange is one call."""
        raise TypeError("LocalGrid exchanges messages by send_and_receive only")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: in one process an exchange is one call."""
        raise TypeError("LocalGrid exchanges messages by send_and_receive only")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Give each site its message and collect the answers.

        `timeout` holds for sites in other processes only; a site in this process cannot be interrupted.
        """
        futures: dict[Future[Message], Message] = {}
        answers: list[Message] = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex
            future = self._runner.submit(self._sites[message.metadata.dst_node_id], message)
            futures[future] = message
            if future.done():
                self._notify(message)
        waiting = [future for future in futures if not future.done()]
        try:
            for future in as_completed(waiting, timeout=timeout):
                self._notify(futures[future])
        except TimeoutError:
            _log.warning("%d sites did not answer within %.0f s", sum(not f.done() for f in waiting), timeout or 0.0)
        for future, message in futures.items():
            if future.done():
                answers.append(_result(future, message))
        return answers

    def close(self) -> None:
        """End worker processes, if any."""
        self._runner.close()

    def _notify(self, message: Message) -> None:
        if self._on_reply is not None:
            self._on_reply(self._sites[message.metadata.dst_node_id])


def _result(future: "Future[Message]", message: Message) -> Message:
    """Return the answer, or an internal refusal if the site's process ended."""
    try:
        return future.result()
    except Exception:
        _log.exception("a site's process failed")
        return Message(Error(Refusal.INTERNAL.code, Refusal.INTERNAL.text), reply_to=message)


def _answer(client_app: ClientApp, site: str, message: Message) -> Message:
    node = message.metadata.dst_node_id
    context = Context(run_id=_RUN_ID, node_id=node, node_config={"site": site}, state=RecordDict(), run_config={})
    _act_as(node)
    try:
        return client_app(message=message, context=context)
    except Exception as error:  # the app itself answers with refusals; an error comes from Flower's own code
        _log.exception("%s: no answer", site)
        return Message(Error(Refusal.INTERNAL.code, type(error).__name__), reply_to=message)
    finally:
        _act_as(1)


def _act_as(node: int) -> None:
    """Set the identity that Flower stamps on messages; here one process acts as every node."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, _RUN_ID, node
