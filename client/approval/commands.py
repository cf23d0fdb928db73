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
    config: SiteConfig,
    state: Path,
    site_file: Path,
    run_id: str,
    verdict: Verdict,
    *,
    digest: str | None = None,
    sure: bool = False,
) -> Iterator[str]:
    """Show a run, ask, and write the decision on the terms that were shown.

    A coordinator may send other terms under the same name at any moment. Therefore an approval without a question
    names its terms by their digest; a refusal needs none, because it ends every approval of the run.

    Args:
        config: of the site.
        state: its state folder.
        site_file: as typed, for the texts.
        run_id: name of the run.
        verdict: that the operator asks for.
        digest: first digits of the digest of the terms: approve these without a question, and no others; None asks.
        sure: refuse without a question.

    Raises:
        ConfigError: no such run, its terms have another digest, no terminal for the question, or another user owns the
            state folder.
        TamperedLogError: the decisions were edited or cut.
        OSError: the decision could not be written, and does not hold.
    """
    store = _open(state)
    proposal, standing = _find(store, run_id)
    name = printable(run_id)
    shown = proposal.terms.short_digest()
    if digest is not None and not proposal.terms.digest().startswith(digest):
        raise ConfigError(
            f"the terms of {name} have digest {shown}; expected {digest}, as --digest says. Nothing was decided. Read "
            f"the terms with `{_command('runs', site_file, name)}` before you approve them"
        )
    if standing == verdict:
        yield f"{name} is {verdict} already"
        return
    yield from describe_run(proposal, standing, config, _last_approved(store, proposal))
    if digest is None and not sure:
        action = "approve" if verdict == "approved" else "refuse"
        option = f"--digest {shown}" if verdict == "approved" else "--yes"
        if not sys.stdin.isatty():
            raise ConfigError(
                f"nothing was decided: there is no terminal to answer on. To {action} the run on this screen: "
                f"{_command(action, site_file, name)} {option}"
            )
        if not _says_yes(f"{action} this run? [y/N] "):
            yield "nothing was decided"
            return
    store.decide(proposal, verdict)
    if verdict == "refused":
        yield f"{name} is refused: the next request of the coordinator gets refusal 116"
        return
    yield f"{name} is approved: the coordinator is answered when it asks again, within half a minute"
    yield f"to withdraw: {_command('refuse', site_file, name)}"
    if (other := store.waiting()) is not None and other.terms.run_id == run_id:
        yield f"{name} now waits with other terms, {other.terms.short_digest()}; this approval does not cover them"


def _says_yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # Ctrl-D
        return False


def _command(action: str, site_file: Path, name: str) -> str:
    return f"flower-client {action} {shlex.quote(str(site_file))} {name}"


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
