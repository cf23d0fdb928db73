"""Store of approvals in the state folder: the run that waits, and the operator's decisions.

Two files, both authenticated with a key of the site, so that an approval cannot be written by hand or copied from
another site. Requests of a coordinator change the first only, at most once a minute and to at most `MAX_BYTES`:
`pending.json`, one run. The second, `decisions.jsonl`, grows by the operator's own decisions. `flower-client approve`
writes to it while the client runs, and the client reads it at every request.
"""

import hmac
import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from memamba_core.io.atomic import write_secret
from memamba_core.privacy.chained_log import ChainedLog
from memamba_core.privacy.state_key import load_or_make_key

from .terms import Proposal, Terms

__all__ = ["MAX_BYTES", "REPLACE_AFTER_S", "ApprovalStore", "Decided", "Verdict"]

Verdict = Literal["approved", "refused"]
REPLACE_AFTER_S: Final = 60.0
"""A waiting run is replaced by another one after this time, in seconds: a coordinator that stopped a run and began
another is shown soon, and one that sends a new run with every request writes one file a minute."""
MAX_BYTES: Final = 300_000
"""Largest file of a waiting run."""


class Decided(pydantic.BaseModel):
    """One decision of the operator.

    Attributes:
        verdict: of the operator.
        proposal: run and terms that were shown.
        time: seconds since 1970 by this machine's clock; for people only.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")
    verdict: Verdict
    proposal: Proposal
    time: float


class ApprovalStore:
    """Approvals of one site.

    Args:
        state: folder of the state volume of the site; the store has a folder in it.

    Raises:
        TamperedLogError: the key is missing next to decisions that it authenticates.
    """

    def __init__(self, state: Path) -> None:
        self._folder = state / "approvals"
        self._pending = self._folder / "pending.json"
        decisions = self._folder / "decisions.jsonl"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = load_or_make_key(self._folder / "approvals.key", decisions)
        self._log = ChainedLog(decisions, self._key)

    def standing(self, terms: Terms) -> Verdict | None:
        """Return the verdict that stands for these terms; None if the operator has not decided.

        An approval that was given before the blocks were drawn covers the blocks that are drawn next, and is bound to
        them here, at the first request with blocks.

        Raises:
            TamperedLogError: the decisions were edited or cut.
        """
        records = self._log.read()
        verdicts, bound = _verdicts(records), _bound(records)
        if (verdict := verdicts.get(terms.digest())) is not None or not terms.cohort:
            return verdict
        early = terms.before_blocks().digest()
        if early not in verdicts:
            return None
        if verdicts[early] == "approved" and early not in bound:
            self._append({"kind": "bound", "terms": early, "cohort": terms.cohort})
            bound[early] = terms.cohort
        return verdicts[early] if verdicts[early] == "refused" or bound[early] == terms.cohort else None

    def propose(self, proposal: Proposal) -> bool:
        """Let a run wait for the operator.

        Returns:
            True if this run is the one that waits; False if another one has waited for less than `REPLACE_AFTER_S`.
        """
        waiting = self.waiting()
        if waiting is not None and waiting.terms == proposal.terms:
            return True
        if waiting is not None and 0 <= time.time() - waiting.asked < REPLACE_AFTER_S:
            return False
        content = {"proposal": proposal.model_dump(mode="json")}
        text = json.dumps({**content, "tag": self._tag(content)}, allow_nan=False).encode()
        if len(text) > MAX_BYTES:
            return False
        write_secret(self._pending, text)
        return True

    def waiting(self) -> Proposal | None:
        """Return the run that waits; None if none does, if it was decided, or if the file was not written by the site.

        Raises:
            TamperedLogError: as `standing`.
        """
        try:
            content = json.loads(self._pending.read_bytes())
            tag = content.pop("tag")
            if not hmac.compare_digest(str(tag), self._tag(content)):
                return None
            proposal = Proposal.model_validate_json(json.dumps(content["proposal"]))
        except FileNotFoundError:
            return None
        except (ValueError, AttributeError, KeyError, TypeError):  # written by another version, or by hand
            return None
        return None if self.standing(proposal.terms) else proposal

    def decisions(self) -> tuple[Decided, ...]:
        """Return all decisions, oldest first.

        Raises:
            TamperedLogError: the decisions were edited or cut.
        """
        return tuple(_decisions(self._log.read()))

    def find(self, run_id: str) -> tuple[Proposal, Verdict | None] | None:
        """Return a run by its name, with the verdict that stands: the one that waits, or the one decided last."""
        waiting = self.waiting()
        if waiting is not None and waiting.terms.run_id == run_id:
            return waiting, None
        decided = [d for d in self.decisions() if d.proposal.terms.run_id == run_id]
        return (decided[-1].proposal, decided[-1].verdict) if decided else None

    def decide(self, proposal: Proposal, verdict: Verdict) -> None:
        """Write the operator's decision on what was shown. A refusal also withdraws earlier approvals of the run.

        Raises:
            TamperedLogError: the decisions were edited or cut.
            OSError: the decision could not be written, and does not hold.
        """
        run_id, decided = proposal.terms.run_id, [proposal]
        if verdict == "refused":
            before = {d.proposal.terms.digest(): d for d in self.decisions() if d.proposal.terms.run_id == run_id}
            decided += [d.proposal for d in before.values() if d.verdict == "approved"]
        for one in {p.terms.digest(): p for p in decided}.values():
            self._append({"kind": "decision", "verdict": verdict, "proposal": one.model_dump(mode="json")})

    def _append(self, record: dict[str, Any]) -> None:
        with self._log.open() as log:
            log.append({**record, "time": time.time()})

    def _tag(self, content: dict[str, Any]) -> str:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hmac.new(self._key, b"pending" + text.encode(), "sha256").hexdigest()


def _decisions(records: list[dict[str, Any]]) -> Iterator[Decided]:
    """Yield the decisions. One that another version wrote is left out: it covers no run of this version."""
    for record in records:
        if record["kind"] == "decision":
            with suppress(pydantic.ValidationError):
                yield Decided.model_validate_json(json.dumps({k: v for k, v in record.items() if k != "kind"}))


def _verdicts(records: list[dict[str, Any]]) -> dict[str, Verdict]:
    """Return the last verdict by digest of the terms."""
    return {decided.proposal.terms.digest(): decided.verdict for decided in _decisions(records)}


def _bound(records: list[dict[str, Any]]) -> dict[str, str]:
    """Return the blocks to which early approvals are bound, by digest of the terms; a new decision is unbound."""
    bound: dict[str, str] = {}
    for record in records:
        if record["kind"] == "bound":
            bound[record["terms"]] = record["cohort"]
        for decided in _decisions([record]):
            bound.pop(decided.proposal.terms.digest(), None)
    return bound
