"""Commands of the site's operator: `flower-client runs`, `approve` and `refuse`. They work while the client runs."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

from memamba_core.config.site import SiteConfig
from memamba_core.errors import ConfigError

from .describe import describe_run, list_runs, printable
from .policy import describe_policy
from .store import ApprovalStore, Verdict
from .terms import Proposal

__all__ = ["decide_run", "show_runs"]


def show_runs(config: SiteConfig, state: Path, run_id: str | None = None) -> Iterator[str]:
    """List the runs of the coordinator, or show one run in full.

    Args:
        config: of the site.
        state: its state folder.
        run_id: name of a run; None lists all.

    Raises:
        ConfigError: no such run.
        TamperedLogError: the decisions were edited or cut.
    """
    store = _open(state)
    if run_id is not None:
        proposal, verdict = _find(store, run_id)
        yield from describe_run(proposal, verdict, config, _last_approved(store, proposal), whole=True)
        return
    waiting, decisions = store.waiting(), store.decisions()
    yield describe_policy(config)
    yield from list_runs(waiting, decisions)
    if waiting is None:
        yield "no run waits for approval"


def decide_run(
    config: SiteConfig, state: Path, site_file: Path, run_id: str, verdict: Verdict, *, sure: bool = False
) -> Iterator[str]:
    """Show a run, ask, and write the decision.

    Args:
        config: of the site.
        state: its state folder.
        site_file: as typed, for the texts.
        run_id: name of the run.
        verdict: that the operator asks for.
        sure: write the decision without a question.

    Raises:
        ConfigError: no such run, no terminal for the question, or another user owns the state folder.
        TamperedLogError: the decisions were edited or cut.
        OSError: the decision could not be written, and does not hold.
    """
    store = _open(state)
    proposal, standing = _find(store, run_id)
    name = printable(run_id)
    if standing == verdict:
        yield f"{name} is {verdict} already"
        return
    yield from describe_run(proposal, standing, config, _last_approved(store, proposal))
    if not sure:
        question = f"{'approve' if verdict == 'approved' else 'refuse'} this run? [y/N] "
        try:
            answer = input(question)
        except EOFError:
            raise ConfigError("nothing was decided: there is no terminal to answer on. Add --yes") from None
        if answer.strip().lower() not in ("y", "yes"):
            yield "nothing was decided"
            return
    store.decide(proposal, verdict)
    if verdict == "refused":
        yield f"{name} is refused: the next request of the coordinator gets refusal 116"
        return
    yield f"{name} is approved: the coordinator is answered when it asks again, within half a minute"
    yield f"to withdraw: flower-client refuse {shlex.quote(str(site_file))} {name}"


def _open(state: Path) -> ApprovalStore:
    """Open the store as the user of the client: files of another user would lock the client out of its own state."""
    owner = state.stat().st_uid
    if os.geteuid() != owner:
        raise ConfigError(
            f"{state} belongs to user {owner}; this is user {os.geteuid()}. Run the command as user {owner}: "
            f"sudo -u '#{owner}' {' '.join(map(shlex.quote, ['flower-client', *sys.argv[1:]]))}"
        )
    return ApprovalStore(state)


def _find(store: ApprovalStore, run_id: str) -> tuple[Proposal, Verdict | None]:
    found = store.find(run_id)
    if found is None:
        waiting = store.waiting()
        known = f"{printable(waiting.terms.run_id)} waits" if waiting else "no run waits"
        raise ConfigError(f"no run {printable(run_id)!r} is known here; {known}. `flower-client runs` lists all runs")
    return found


def _last_approved(store: ApprovalStore, proposal: Proposal) -> Proposal | None:
    """Return the last approved proposal: of this run if it was approved before, else of any."""
    approved = [d.proposal for d in store.decisions() if d.verdict == "approved" and d.proposal != proposal]
    own = [p for p in approved if p.terms.run_id == proposal.terms.run_id]
    return own[-1] if own else approved[-1] if approved else None
