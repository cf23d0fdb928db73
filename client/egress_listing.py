"""Listing of the egress log, for `flower-client egress`."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from memamba_core.privacy.egress import EgressRecord

__all__ = ["egress_listing"]

_INDENT = "    "


def egress_listing(records: Sequence[EgressRecord], columns: int | None) -> Iterator[str]:
    """Yield a heading and a line for each answer that left the site.

    Equal refusals in a row, as those of a run that waits for approval, have one line and their number.

    Args:
        records: of the egress log, in order.
        columns: width of the terminal; the content of an answer then stands below its line, wrapped between words.
            None where the output is a file or a pipe: the content follows on the same line.
    """
    width = max((len(record.run_id) for record in records), default=3)
    heading = f"{'time (UTC)':19}  {'phase':10} {'round':>5}  {'bytes':>12}  {'sha256':12}  {'run':{width}}"
    yield heading if columns else f"{heading}  content"
    for _, equal in groupby(enumerate(records), key=lambda item: _refusal(*item)):
        (_, record), *more = equal
        where = f"{record.phase:10} {record.server_round or '':>5}"
        content = record.text or f"{record.kind}: {', '.join(record.fields)}"
        if more:
            content += f" ({len(more) + 1} times, last {more[-1][1].time[:19]})"
        line = f"{record.time[:19]}  {where}  {record.num_bytes:12,d}  {record.sha256[:12]}  {record.run_id:{width}}"
        if columns is None:
            yield f"{line}  {content}"
        else:
            yield line
            yield from textwrap.wrap(
                content, columns, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False
            )


def _refusal(number: int, record: EgressRecord) -> tuple[object, ...]:
    """Return what equal refusals share; an answer that is no refusal is like no other."""
    if not record.text:
        return (number,)
    return record.run_id, record.phase, record.server_round, record.sha256, record.text
