"""Answer a SuperNode's tasks one by one with installed code; code that comes with a task never runs.

A task consists of a message and a bundle of code that Flower's own executor would unpack and import. Here the bundle
stays packed. Every answer is one of the classes of `memamba_core.wire.protocol` or a `Refusal`. The egress log has a
line for an answer before the answer leaves.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from flwr.app import Context, Error, Message

from client.flower.tasks import Task
from memamba_core.errors import ProtocolError, UnreachableError
from memamba_core.privacy.egress import EgressLog, EgressRecord, describe_answer, describe_refusal
from memamba_core.wire.flower_records import from_records
from memamba_core.wire.message import WireMessage
from memamba_core.wire.protocol import (
    AgreementReply,
    EvaluateReply,
    FactsReply,
    Phase,
    Refusal,
    StatisticsReply,
    TrainReply,
    TrainRequest,
    check_leaves,
)

from .interrupts import Interrupts, StopRequested, TaskLost, TimeOver
from .logs import code_location, support_log
from .session import RUN_ID

__all__ = ["Executor", "Tasks"]

_log = logging.getLogger(__name__)

_REPLIES: dict[Phase, type[WireMessage]] = {
    Phase.FACTS: FactsReply,
    Phase.STATISTICS: StatisticsReply,
    Phase.AGREEMENT: AgreementReply,
    Phase.TRAIN: TrainReply,
    Phase.EVALUATE: EvaluateReply,
}
_REFUSALS = {(refusal.code, refusal.text): refusal for refusal in Refusal}
_RUN_ID_KEY = TrainRequest.model_fields["run_id"].alias or ""
_ROUND_KEY = TrainRequest.model_fields["server_round"].alias or ""


class Tasks(Protocol):
    """Source of tasks: `NodeTasks`, or a double in tests."""

    def acquire(self) -> str | None:
        """See `NodeTasks.acquire`."""
        ...

    def open(self, token: str, on_lost: Callable[[], None]) -> AbstractContextManager[Task]:
        """See `NodeTasks.open`."""
        ...


class Executor:
    """Task loop of the program that reads patient data.

    Args:
        tasks: of the site's SuperNode.
        app: the installed ClientApp.
        egress: log of every answer that leaves.
        interrupts: of the process.
        train_limit_s: time limit of a training request, in seconds; None: no limit.
        poll_s: wait between two requests for a task, in seconds.
        retry_s: wait before the next request to a SuperNode that does not answer, in seconds.
    """

    def __init__(
        self,
        tasks: Tasks,
        app: Callable[[Message, Context], Message],
        egress: EgressLog,
        interrupts: Interrupts,
        train_limit_s: float | None,
        *,
        poll_s: float = 0.2,
        retry_s: float = 1.0,
    ) -> None:
        self._tasks = tasks
        self._app = app
        self._egress = egress
        self._interrupts = interrupts
        self._train_limit_s = train_limit_s
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._last_notice = ""

    def run(self) -> None:
        """Answer tasks until the process must end.

        Raises:
            TamperedLogError: the egress log was edited or truncated; nothing more leaves.
        """
        stopping = self._interrupts.stopping
        while not stopping.is_set():
            try:
                token = self._tasks.acquire()
            except UnreachableError as error:
                self._notify(f"waiting for the SuperNode: {error}")
                stopping.wait(self._retry_s)
                continue
            self._notify("ready for requests of the coordinator")
            if token is None:
                stopping.wait(self._poll_s)
            else:
                self._serve(token)

    def _serve(self, token: str) -> None:
        try:
            with self._tasks.open(token, self._interrupts.lose) as task:
                self._answer(task)
        except UnreachableError as error:
            support_log.warning("a task was lost: %s", error)
        except TaskLost:
            support_log.warning("a task was cancelled: the SuperNode was restarted, or the run has ended")
        except OSError as error:
            _log.exception("the egress log could not be written")
            support_log.error(
                "the egress log could not be written (%s), so the answer was not sent. Check the free disk space",
                error.strerror or type(error).__name__,
            )

    def _answer(self, task: Task) -> None:
        """Compute the answer, write its line to the egress log, and only then send it."""
        started = time.monotonic()
        message = task.message
        phase = next((p for p in Phase if p.message_type == message.metadata.message_type), None)
        run_id, server_round = _run_and_round(message)
        about = {"run_id": run_id, "phase": phase.value if phase else message.metadata.message_type[:80]}
        reply = self._checked(self._work(phase, task), message, phase)
        if isinstance(reply, Refusal):
            record = describe_refusal(reply.code, reply.text, server_round=server_round, **about)
            answer = Message(Error(code=reply.code, reason=reply.text), reply_to=message)
        else:
            payload = from_records(reply.content)
            kind = _REPLIES[phase].__name__ if phase else ""
            record = describe_answer(payload, server_round=server_round, kind=kind, **about)
            answer = reply
        if reply is Refusal.PENDING:  # asked again every few seconds
            self._egress.append_once(record)
        else:
            self._egress.append(record)
        task.answer(answer)
        if reply is not Refusal.PENDING:  # the gate of approvals has logged it once
            _report(record, time.monotonic() - started)

    def _work(self, phase: Phase | None, task: Task) -> Message | Refusal:
        if phase is None:
            _log.error("message type %r is not part of the protocol", task.message.metadata.message_type)
            return Refusal.MESSAGE
        limit_s = self._train_limit_s if phase is Phase.TRAIN else None
        try:
            with self._interrupts.breakable(limit_s):
                return self._app(task.message, task.context)
        except StopRequested:
            return Refusal.STOPPED
        except TimeOver:
            _log.error("training exceeded limits.minutes_per_round")
            return Refusal.TIME
        except Exception as error:
            _log.exception("the ClientApp raised")
            support_log.error("program error: %s at %s", type(error).__name__, code_location(error))
            return Refusal.INTERNAL

    def _checked(self, reply: Message | Refusal, request: Message, phase: Phase | None) -> Message | Refusal:
        """Return the reply if it is the answer of this phase or exactly a refusal; withhold any other reply."""
        if isinstance(reply, Refusal):
            return reply
        if reply.metadata.reply_to_message_id != request.metadata.message_id:
            _log.error("withheld an answer to another request")
            return Refusal.INTERNAL
        if reply.has_error():
            return _REFUSALS.get((reply.error.code, reply.error.reason or ""), Refusal.INTERNAL)
        try:
            assert phase is not None, "a message of no phase was refused before"
            check_leaves(_REPLIES[phase].from_payload(from_records(reply.content)))
        except ProtocolError as error:
            _log.error("withheld an answer that does not follow the protocol: %s", error)
            return Refusal.INTERNAL
        return reply

    def _notify(self, text: str) -> None:
        if text != self._last_notice:
            support_log.info("%s", text)
            self._last_notice = text


def _run_and_round(message: Message) -> tuple[str, int]:
    """Return run and round of a request; "" and 0 where the request does not give them in a valid form."""
    try:
        fields = from_records(message.content).fields
    except (ProtocolError, ValueError):  # no content, or another protocol: the ClientApp will refuse it
        return "", 0
    run_id, server_round = fields.get(_RUN_ID_KEY), fields.get(_ROUND_KEY)
    return (
        run_id if isinstance(run_id, str) and RUN_ID.fullmatch(run_id) else "",
        server_round if isinstance(server_round, int) and server_round > 0 else 0,
    )


def _report(record: EgressRecord, seconds: float) -> None:
    what = f"{record.phase}, round {record.server_round}" if record.server_round else record.phase
    if record.text:
        support_log.warning("%s of run %s: refused in %.1f s (%s)", what, record.run_id, seconds, record.text)
    else:
        size = record.num_bytes / 1e6
        support_log.info("%s of run %s: answered in %.1f s, %.1f MB left", what, record.run_id, seconds, size)
