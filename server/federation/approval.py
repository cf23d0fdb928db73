"""Wait until the operators of the sites have approved a run: a site refuses with code 115 until then."""

import logging
import time
from collections.abc import Callable, Collection, Sequence

from memamba_core.wire.protocol import FactsReply, Refusal

from .exchange import Answers, SiteFailure

__all__ = ["OnApproval", "ask_until_approved"]

_log = logging.getLogger(__name__)
OnApproval = Callable[[tuple[str, ...]], None]
"""Called with the sites that wait for approval, whenever they change; with none at the end."""

_FIRST_S, _GROWTH, _LONGEST_S = 2.0, 1.5, 20.0
"""Waits between two requests, in seconds. A site writes a line to its egress log for each of its answers."""
_AWAY = {3, 4, 5, 8, Refusal.STOPPED.code, Refusal.ABSENT.code}
"""Failures of a site whose client is being restarted, by an operator who corrects `site.yaml` during the wait: codes of
Flower, and two refusals."""


def ask_until_approved(
    exchange: Callable[[Sequence[str]], Answers[FactsReply]],
    sites: Collection[str],
    wait_s: float,
    on_approval: OnApproval | None = None,
    *,
    first_s: float = _FIRST_S,
) -> tuple[dict[str, FactsReply], dict[str, SiteFailure]]:
    """Ask sites for their declarations, and ask those again that wait for approval. All wait at the same time.

    Args:
        exchange: sends the request to the named sites and returns their answers.
        sites: names.
        wait_s: longest wait for approval, in seconds, from the first answer on.
        on_approval: called with the sites that wait, whenever they change.
        first_s: first wait between two requests; it grows to twenty seconds.

    Returns:
        The declarations, and the failures of all other sites. A site that was not approved in time has code 115.
    """
    answers = exchange(sorted(sites))
    replies, failures = dict(answers.replies), dict(answers.failures)
    pending = _pending(failures)
    deadline, pause_s = time.monotonic() + wait_s, first_s
    shown: tuple[str, ...] = ()
    while pending and (left_s := deadline - time.monotonic()) > 0:
        if pending != shown:
            _log.info(
                "waiting for approval at %s, at most %s: the operator there types `flower-client approve`",
                ", ".join(pending),
                _duration(left_s),
            )
            if on_approval is not None:
                on_approval(pending)
            shown = pending
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * _GROWTH, max(first_s, _LONGEST_S))
        answers = exchange(pending)
        for site in pending:
            if site in answers.replies:
                replies[site] = answers.replies[site]
                del failures[site]
            elif answers.failures[site].code not in _AWAY:
                failures[site] = answers.failures[site]
        pending = _pending(failures)
    if shown and on_approval is not None:
        on_approval(())
    for site in pending:
        text = f"{failures[site].text} (waited {_duration(wait_s)}, approval_wait_s)"
        failures[site] = SiteFailure(Refusal.PENDING.code, text)
    return {site: replies[site] for site in sorted(replies)}, failures


def _pending(failures: dict[str, SiteFailure]) -> tuple[str, ...]:
    return tuple(sorted(site for site, failure in failures.items() if failure.code == Refusal.PENDING.code))


def _duration(seconds: float) -> str:
    """Return a duration in the unit that fits: `90 s`, `45 min`, `24 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
