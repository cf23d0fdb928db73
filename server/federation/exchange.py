"""Send requests to sites and collect answers or failures within a time limit.

A failed site is data, not an exception. An answer may have been written by anyone who holds the site's key: its text is
never shown unescaped.
"""

import logging
import re
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from memamba_core.errors import ProtocolError
from memamba_core.io.awake_clock import AwakeClock
from memamba_core.wire.flower_records import from_records, to_records
from memamba_core.wire.message import WireMessage
from memamba_core.wire.protocol import PROTOCOL_VERSION, Phase, Refusal, package_version

__all__ = ["UNREADABLE", "Answers", "PatientGrid", "SiteFailure", "ask", "quote", "wait_for_return"]

_log = logging.getLogger(__name__)
_RETURN_S = 120.0  # Flower notices a broken connection after 60 s, and its return after 30 s
_MAX_CHARACTERS = 300  # of a failure
_VERSION = re.compile(r"the site runs version [0-9A-Za-z.+-]{1,40} of this software, protocol \d{1,6}")
UNREADABLE = 90
"""Error code that the coordinator itself puts in place of an answer that could not be read."""
_ERRORS = {  # Flower's codes, and `UNREADABLE`
    3: "no answer before the request expired",
    4: "its answer came too late",
    5: "not connected: its SuperNode gave no sign of life for a minute",
    8: "its client ended before it answered, or gave no sign of life for a minute",
    UNREADABLE: "its answer could not be read: not a message, too many bytes, or incomplete at the end of the time",
}
Reply = TypeVar("Reply", bound=WireMessage)


@runtime_checkable
class PatientGrid(Protocol):
    """Grid that can wait for nodes that are away."""

    def exchange(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,
        enough: Callable[[frozenset[int]], bool] | None = None,
    ) -> list[Message]:
        """Send messages and collect the answers; see `RuntimeGrid.exchange`."""
        ...


def quote(text: str) -> str:
    """Return a text of a site in quotation marks, at most 60 characters long, with control characters escaped."""
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


@dataclass(frozen=True)
class SiteFailure:
    """Reason why a site gave no usable answer.

    Attributes:
        code: `Refusal` code, Flower's error code, or 0 for no usable answer.
        text: one line of at most 300 printable characters, whatever was quoted in it.
    """

    code: int
    text: str

    def __post_init__(self) -> None:
        shown = "".join(character if character.isprintable() else "?" for character in self.text)
        object.__setattr__(self, "text", shown if len(shown) <= _MAX_CHARACTERS else f"{shown[:_MAX_CHARACTERS]}...")

    @classmethod
    def of_error(cls, code: int, reason: str) -> "SiteFailure":
        """Build a failure from an error reply, by its code; the text that came with it is not repeated.

        Args:
            code: code of a `Refusal`, or of Flower.
            reason: text of the reply, of which only the site's version is read.
        """
        refusal = next((refusal for refusal in Refusal if refusal.code == code), None)
        if refusal is Refusal.VERSION:
            theirs = reason if _VERSION.fullmatch(reason) else "the site runs another version of this software"
            ours = f"version {package_version()}, protocol {PROTOCOL_VERSION}"
            return cls(code, f"{theirs}; this coordinator runs {ours}. Install the same version on both sides")
        if refusal is not None:
            return cls(code, refusal.text)
        return cls(code, _ERRORS.get(code, f"error code {code}, which this software does not use"))


@dataclass(frozen=True)
class Answers(Generic[Reply]):
    """Answers of an exchange by site, in alphabetical order.

    Attributes:
        replies: usable answers.
        failures: all other sites that were asked.
        bytes_sent, bytes_received: of array and config records, summed over sites.
    """

    replies: dict[str, Reply]
    failures: dict[str, SiteFailure]
    bytes_sent: int
    bytes_received: int


def ask(
    grid: Grid,
    phase: Phase,
    requests: Mapping[str, WireMessage],
    nodes: Mapping[str, int],
    reply_class: type[Reply],
    *,
    timeout_s: float,
    group: str = "",
    enough: Callable[[frozenset[str]], bool] | None = None,
) -> Answers[Reply]:
    """Send each site its request and collect the answers that arrive in time.

    Args:
        grid: Flower's Grid, in process or over the network.
        phase: sets the message type.
        requests: site name -> request.
        nodes: site name -> Flower's node id.
        reply_class: class of a usable answer.
        timeout_s: longest wait, seconds; also the lifetime of a message, so that a slow site does not work through
            expired requests.
        group: label in Flower's logs, for example the round.
        enough: returns True if answers of these sites are enough, so that a site that is away need not be waited for;
            None requires all. In process no site is away.
    """
    messages: list[Message] = []
    converted: dict[
        int, RecordDict
    ] = {}  # sites that get the same request share its records: weights are converted once
    bytes_sent = 0
    site_of_node = {node: site for site, node in nodes.items()}
    for site in sorted(requests):
        request = requests[site]
        content = converted.get(id(request)) or converted.setdefault(id(request), to_records(request))
        bytes_sent += sum(record.count_bytes() for record in content.array_records.values())
        messages.append(
            Message(
                content=content,
                dst_node_id=nodes[site],
                message_type=phase.message_type,
                ttl=timeout_s,
                group_id=group or phase.value,
            )
        )
    replies: dict[str, Reply] = {}
    failures: dict[str, SiteFailure] = {}
    bytes_received = 0
    if isinstance(grid, PatientGrid):
        sites_enough = (lambda some: enough(frozenset(site_of_node[node] for node in some))) if enough else None
        answers = deque(grid.exchange(messages, timeout=timeout_s, enough=sites_enough))
    else:
        answers = deque(grid.send_and_receive(messages, timeout=timeout_s))
    # ids are assigned on sending; an error made by the SuperLink carries its own node id, which does not name the site
    site_of_message = {m.metadata.message_id: site_of_node[m.metadata.dst_node_id] for m in messages}
    while answers:
        message = answers.popleft()  # decode each once and release it: the weights of many sites are large
        site = site_of_message.get(message.metadata.reply_to_message_id, "")
        if not site or site in replies or site in failures:
            _log.warning("discarded an answer to a message that was not sent in this exchange")
            continue
        if message.has_error():
            failures[site] = SiteFailure.of_error(message.error.code, message.error.reason or "")
            continue
        bytes_received += sum(record.count_bytes() for record in message.content.array_records.values())
        try:
            replies[site] = reply_class.from_payload(from_records(message.content))
        except ProtocolError as error:
            failures[site] = SiteFailure(0, f"answer rejected: {error}")
    for site in requests:
        if site not in replies and site not in failures:
            failures[site] = SiteFailure(0, f"no answer within {timeout_s:.0f} s")
    return Answers(
        {site: replies[site] for site in sorted(replies)},
        {site: failures[site] for site in sorted(failures)},
        bytes_sent,
        bytes_received,
    )


def wait_for_return(grid: Grid, nodes: Collection[int], least: int) -> None:
    """Wait until enough sites are connected, at most two minutes: a request to an unconnected site fails at once.

    Args:
        grid: Flower's Grid.
        nodes: node ids of the sites that will be asked.
        least: number of connected sites that is enough.
    """
    clock = AwakeClock(read=time.monotonic)
    while len(set(nodes) & set(grid.get_node_ids())) < min(least, len(nodes)) and clock.now() < _RETURN_S:
        time.sleep(1.0)
