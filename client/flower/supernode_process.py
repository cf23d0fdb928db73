"""Process of the SuperNode: `python -P -m client.flower.supernode_process ARGUMENT...`, for `flower-supernode`.

Run Flower's stock SuperNode with two changes.

* While a coordinator stands still, its system accepts connections and no TLS handshake succeeds. Flower takes such a
  time-out for a wrong certificate: it drops the finished reply and stops trying. Here a time-out is retried.
* Flower pulls a request, and then sends whatever replies there are. After a run that was stopped in a round, the reply
  to the old request is sent in place of the reply to the new one, and from then on each reply arrives after the
  coordinator has given up its request: the site is lost for every later run. Here only the reply to the request that
  was pulled last is sent, and others are dropped.

Only `client/connection.py` starts this process. It uses private names of flwr 1.42.0;
`tests/site/test_flower_contract.py` checks them.
"""

from collections.abc import Sequence
from typing import Any

import httpx
from flwr.app import Message
from flwr.supercore.retry import RetryInvoker
from flwr.supernode import fleet_http_connection
from flwr.supernode.nodestate.in_memory_nodestate import InMemoryNodeState

__all__ = ["retry_timeouts", "send_only_the_awaited_reply"]


def retry_timeouts() -> None:
    """Make the SuperNode of this process retry every request that timed out."""
    make_stock = vars(fleet_http_connection)["make_simple_http_retry_invoker"]
    vars(fleet_http_connection)["make_simple_http_retry_invoker"] = lambda: _patient(make_stock())


def _patient(invoker: RetryInvoker) -> RetryInvoker:
    should_give_up = invoker.should_giveup
    assert should_give_up is not None
    invoker.should_giveup = lambda error: not isinstance(error, httpx.TimeoutException) and should_give_up(error)
    return invoker


def send_only_the_awaited_reply() -> None:
    """Make the SuperNode of this process send the reply to the request that it pulled last, and no other."""
    if InMemoryNodeState.store_message is not _store_message:
        InMemoryNodeState.store_message = _store_message  # type: ignore[method-assign]
        InMemoryNodeState.get_messages_legacy = _get_messages_legacy  # type: ignore[method-assign]


_stock_store_message = InMemoryNodeState.store_message
_stock_get_messages_legacy = InMemoryNodeState.get_messages_legacy


def _store_message(self: InMemoryNodeState, message: Message) -> str | None:
    if not message.metadata.reply_to_message_id:
        vars(self)["_awaited"] = message.metadata.message_id
    return _stock_store_message(self, message)


def _get_messages_legacy(self: InMemoryNodeState, *, is_reply: bool | None = None, **options: Any) -> Sequence[Message]:
    messages = _stock_get_messages_legacy(self, is_reply=is_reply, **options)
    if not is_reply:
        return messages
    awaited = vars(self).get("_awaited")
    for message in messages:
        about = message.metadata
        if about.reply_to_message_id != awaited:
            self.delete_messages(message_ids=[about.message_id, about.reply_to_message_id])
            self.object_store.delete(about.message_id)
    return [message for message in messages if message.metadata.reply_to_message_id == awaited]


def main() -> None:
    """Run the SuperNode with the arguments of this process."""
    from flwr.supernode.cli.flower_supernode import flower_supernode

    retry_timeouts()
    send_only_the_awaited_reply()
    flower_supernode()


if __name__ == "__main__":
    main()
