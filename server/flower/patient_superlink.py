"""Changes to Flower's SuperLink with which a pause of the coordinator, of the SuperLink or of a site loses no message.

Flower decides by the clock that a peer is dead: after a minute without heartbeats it ends the run of a
coordinator, and answers a request with an error in the name of a site. It also counts a request as delivered when the
response was written, whether or not the site received it. Here the SuperLink decides none of this:

* The coordinator's task does not expire. The SuperLink is a child of the coordinator and ends with it.
* A request to a site without heartbeats stays. The coordinator sees which sites are connected, and decides how long it
  waits (`patience.py`).
* A site pulls only when it has no work. A request that the site was given before and has not answered was therefore
  lost, and is given again; if its content is gone, the coordinator asks again. Of several requests to a site only the
  newest counts, because the coordinator asks a site one thing at a time. A request of a run that has ended counts no
  more: a run that was stopped in a round leaves one behind.

Written for flwr 1.42.0, whose private names it uses; `tests/coordinator/test_patient_superlink.py` checks them.
"""

from typing import Any

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, Status
from flwr.server.superlink.linkstate import SqlLinkState, sql_linkstate
from flwr.supercore.corestate import sql_corestate
from flwr.supercore.utils import int64_to_uint64, uint64_to_int64
from sqlalchemy import text

__all__ = ["make_patient"]

_TASK_S = 30 * 24 * 3600.0  # longer than a run; Flower multiplies it by its patience of two
_UNANSWERED = text(
    "SELECT message_id, run_id, delivered_at FROM message_ins WHERE dst_node_id = :node AND message_id NOT IN "
    "(SELECT reply_to_message_id FROM message_res) ORDER BY rowid DESC"
)
_GIVE_AGAIN = text("UPDATE message_ins SET delivered_at = '' WHERE message_id = :message")


def make_patient() -> None:
    """Change Flower's SuperLink in this process, before it starts."""
    vars(sql_corestate)["HEARTBEAT_DEFAULT_INTERVAL"] = _TASK_S
    vars(sql_linkstate)["check_node_availability_for_in_message"] = _count_all_as_available
    if SqlLinkState.get_message_ins is not _get_message_ins:
        SqlLinkState.get_message_ins = _get_message_ins  # type: ignore[method-assign]


def _count_all_as_available(*_arguments: Any, **_options: Any) -> dict[str, Message]:
    return {}


_claim_message_ins = SqlLinkState.get_message_ins


def _get_message_ins(
    self: SqlLinkState, node_id: int, limit: int | None, *, run_id: int | None = None
) -> list[Message]:
    """Claim the requests for a node that has no work: the newest one, although it may have been claimed before."""
    with self.session() as session:
        if node_id != SUPERLINK_NODE_ID:
            found = session.execute(_UNANSWERED, {"node": uint64_to_int64(node_id)}).all()
            status = self.get_run_status({int64_to_uint64(row.run_id) for row in found})
            ended = {run for run, state in status.items() if state.status == Status.FINISHED}
            rows = [row for row in found if int64_to_uint64(row.run_id) not in ended]
            self.delete_messages({row.message_id for row in found} - {row.message_id for row in rows[:1]})
            if rows and rows[0].delivered_at:
                session.execute(_GIVE_AGAIN, {"message": rows[0].message_id})
        return _claim_message_ins(self, node_id, limit, run_id=run_id)
