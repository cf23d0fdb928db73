"""Limits on reading the answer of a site, whose bytes can be anything and can be endless."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError

__all__ = ["Allowance", "TooLargeError", "array_bytes"]


def array_bytes(message: Message) -> int:
    """Return the size of the arrays in a message, in bytes."""
    return sum(record.count_bytes() for record in message.content.array_records.values())


class TooLargeError(Exception):
    """An answer of this size was not asked for."""


@dataclass
class Allowance:
    """Limits on reading an answer.

    Attributes:
        most: bytes of one answer.
        deadline: of the whole exchange, by the monotonic clock; moved as long as waiting does not count.
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
                    raise TooLargeError
            return content

        return pull_counted
