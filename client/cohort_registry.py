"""Registry of a site's cohort: the blocks that its patients were drawn into, and the patients who withdrew.

`state/cohort.json` holds it, authenticated with `state/cohort.key`. It is written when the first approved run opens,
and again when newcomers fill a block, a patient withdraws, or the operator draws all blocks again. Patients appear as
keyed digests, never by name. A block is used while each of its patients is in the tables with the data of the draw;
otherwise the whole block is set aside, because a block less one patient would disclose this patient.
"""

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from memamba_core.data.reader_version import READER_VERSION, READER_VERSION_UNWRITTEN
from memamba_core.data.records import Cohort, PatientRecord
from memamba_core.errors import TamperedLogError
from memamba_core.io.atomic import write_secret
from memamba_core.privacy.state_key import load_or_make_key

from .blocks import MAX_BLOCKS, Block, Fingerprints, SmallestBlock, draw_blocks, pseudonym
from .cohort_status import CohortStatus, FrozenCohort, SetAside, UsableBlock

__all__ = ["CohortRegistry"]

_FORMAT: Final = "memamba-cohort-1"


@dataclass
class CohortRegistry:
    """Registry of one site.

    Args:
        folder: the site's state folder; None keeps the registry in memory, for a simulation.
        smallest: fewest patients of a block today.
        key: secret of the site; None reads it from the folder, or makes it there.
    """

    folder: Path | None
    smallest: SmallestBlock
    key: bytes | None = None
    _memory: FrozenCohort = field(default_factory=FrozenCohort)
    _known: tuple[FrozenCohort, Cohort, CohortStatus] | None = None
    _known_prints: Fingerprints | None = None

    def read(self) -> FrozenCohort:
        """Return the registry; an empty one before the first draw.

        Raises:
            TamperedLogError: the file was edited, or was removed while sums over its blocks have left.
        """
        if self.folder is None:
            return self._memory
        path = self.folder / "cohort.json"
        if not path.exists():
            if any((self.folder / "runs").glob("*/facts.json")):
                raise TamperedLogError(
                    f"{path} is missing, but runs of this site are in {self.folder / 'runs'}: their answers were sums "
                    "over other sets of patients. Restore the file from a backup. If there is none, or the runs are of "
                    "a version before 0.3.0, draw the blocks with `flower-client cohort refreeze`, which states the "
                    "cost"
                )
            return FrozenCohort()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            tag = content.pop("tag")
        except (ValueError, AttributeError, KeyError):
            raise TamperedLogError(f"{path} is not a registry of a cohort. Restore it from a backup") from None
        if not hmac.compare_digest(str(tag), self._tag(content)) or content.get("format") != _FORMAT:
            raise TamperedLogError(f"{path} was edited, or belongs to another key. Restore both from a backup")
        return FrozenCohort(
            content["generation"],
            tuple(content["gene_columns"]),
            tuple(Block(block["fold"], block["members"]) for block in content["blocks"]),
            frozenset(content["withdrawn"]),
            tuple(content["history"]),
            content.get("reader_version", READER_VERSION_UNWRITTEN),
        )

    def preview(self, cohort: Cohort) -> FrozenCohort:
        """Return the registry as the next approved run will have it: with a first draw, or with newcomers.

        Newcomers wait until they fill a block of their own over all thresholds, and while patients of any block, also
        of a retired one, are missing or changed without having withdrawn: the newcomers could be the same patients
        under new names, and the block less those who withdrew.
        """
        frozen = self.read()
        if not frozen.generation:
            return self._drawn(frozen, cohort, "first approved run")
        status = self.status(cohort, frozen)
        if any(aside.missing or aside.changed for aside in status.set_aside):
            return frozen
        if not frozen.blocks or not self.smallest.admits(status.waiting):
            return frozen if frozen.blocks else self._drawn(frozen, cohort, "first patients over the thresholds")
        fold = len(frozen.blocks) % MAX_BLOCKS
        block = Block(fold, dict(self._describe(cohort, frozen)(record) for record in status.waiting))
        history = (*frozen.history, _entry("newcomers", "", len(block.members), 1))
        # every older block is as today's reader reads it, or newcomers would wait
        return replace(frozen, blocks=(*frozen.blocks, block), history=history, reader_version=READER_VERSION)

    def plan(self, cohort: Cohort) -> CohortStatus:
        """Return the cohort as the next approved run will find it; write nothing, not even the site's key."""
        planned = self
        if self.key is None and self.folder is not None and not (self.folder / "cohort.key").exists():
            self.read()
            planned = CohortRegistry(None, self.smallest, os.urandom(32))  # another key gives blocks of the same sizes
        return planned.status(cohort, planned.preview(cohort))

    def freeze(self, cohort: Cohort) -> FrozenCohort:
        """Write what `preview` returns, and return it."""
        with self._locked():
            frozen = self.preview(cohort)
            if frozen != self.read():
                self._write(frozen)
        return frozen

    def begin(self) -> None:
        """Write a registry without blocks if there is none: that of a site under differential privacy."""
        with self._locked():
            frozen = self.read()
            if not self._exists():
                self._write(frozen)

    def knows(self, case_id: str) -> bool:
        """Return True if a patient is in a block or withdrew."""
        frozen, name = self.read(), pseudonym(self._secret(), case_id)
        return name in frozen.withdrawn or any(name in block.members for block in frozen.blocks)

    def blocks_of(self, case_ids: Collection[str]) -> tuple[tuple[int, int], ...]:
        """Return the size of each block in use that holds one of these patients, and how many of them it holds."""
        frozen, names = self.read(), {pseudonym(self._secret(), case_id) for case_id in case_ids}
        used = [block for block in frozen.blocks if not frozen.withdrawn & block.members.keys()]
        return tuple(
            (len(block.members), len(names & block.members.keys())) for block in used if names & block.members.keys()
        )

    def withdraw(self, case_ids: Collection[str]) -> int:
        """Record that patients withdrew, whose blocks are retired at once; return how many had not withdrawn before."""
        with self._locked():
            frozen = self.read()
            new = {pseudonym(self._secret(), case_id) for case_id in case_ids} - frozen.withdrawn
            if new:
                history = (*frozen.history, _entry("withdrawal", "", len(new), 0))
                self._write(replace(frozen, withdrawn=frozen.withdrawn | new, history=history))
        return len(new)

    def refreeze(self, cohort: Cohort, reason: str) -> FrozenCohort:
        """Draw all blocks again, from the patients in the tables who did not withdraw."""
        with self._locked():
            before = self.read() if self._exists() else FrozenCohort()
            frozen = self._drawn(before, cohort, reason)
            self._write(frozen)
        return frozen

    def status(self, cohort: Cohort, frozen: FrozenCohort | None = None) -> CohortStatus:
        """Compare the registry with the tables."""
        frozen = self.read() if frozen is None else frozen
        if self.folder is None and self._known is not None and self._known[0] is frozen and self._known[1] is cohort:
            return self._known[2]  # in a simulation the tables do not change, and it asks in each round
        status = self._compare(cohort, frozen)
        self._known = (frozen, cohort, status)
        return status

    def _compare(self, cohort: Cohort, frozen: FrozenCohort) -> CohortStatus:
        key = self._secret()
        record_of = {pseudonym(key, record.case_id): record for record in cohort.records}
        has_columns = cohort.genes is None or set(frozen.gene_columns) <= set(cohort.genes.columns)
        usable: list[UsableBlock] = []
        set_aside: list[SetAside] = []
        for block in frozen.blocks:
            there = {name: record_of[name] for name in block.members if name in record_of}
            left = frozen.withdrawn & block.members.keys()
            stay = block.members.keys() - left
            changed = len(there.keys() & stay) if not has_columns else 0
            if has_columns:
                fingerprints = self._fingerprints(cohort, frozen)
                now = {name: fingerprints.of(record) for name, record in there.items()}
                changed = sum(now[name] != block.members[name] for name in there.keys() & stay)
            missing, below = len(stay - there.keys()), not self.smallest.admits(there.values())
            if left or missing or changed or below:
                set_aside.append(SetAside(len(block.members), len(left), missing, changed, below))
            else:
                usable.append(UsableBlock(block.fold, frozenset(r.case_id for r in there.values()), _name(block)))
        in_a_block = frozenset().union(*(block.members for block in frozen.blocks))
        waiting = tuple(r for name, r in record_of.items() if name not in in_a_block and name not in frozen.withdrawn)
        return CohortStatus(frozen, tuple(usable), tuple(set_aside), waiting if frozen.generation else ())

    def present(self, cohort: Cohort) -> Cohort:
        """Return the cohort without the patients who withdrew."""
        withdrawn = self.read().withdrawn
        if not withdrawn:
            return cohort
        key = self._secret()
        return cohort.subset([r.case_id for r in cohort.records if pseudonym(key, r.case_id) not in withdrawn])

    def digest(self, cohort: Cohort) -> str:
        """Return the SHA-256 (hex) of the blocks that the next run will use, for its approval."""
        frozen = self.preview(cohort)
        usable = sorted(block.name for block in self.status(cohort, frozen).usable)
        text = json.dumps([frozen.generation, frozen.gene_columns, usable])
        return hashlib.sha256(text.encode()).hexdigest()

    def _drawn(self, before: FrozenCohort, cohort: Cohort, reason: str) -> FrozenCohort:
        """Draw a new generation."""
        key = self._secret()
        present = [r.case_id for r in cohort.records if pseudonym(key, r.case_id) not in before.withdrawn]
        columns = cohort.genes.columns if cohort.genes is not None else ()
        frozen = replace(before, generation=before.generation + 1, gene_columns=columns)
        draw_key = hmac.digest(key, f"generation {frozen.generation}".encode(), "sha256")
        blocks = draw_blocks(cohort.subset(present), self.smallest, draw_key, self._describe(cohort, frozen))
        action = "draw" if frozen.generation == 1 else "refreeze"
        history = (*before.history, _entry(action, reason, sum(len(b.members) for b in blocks), len(blocks)))
        return replace(frozen, blocks=blocks, history=history, reader_version=READER_VERSION)

    def _describe(self, cohort: Cohort, frozen: FrozenCohort) -> Callable[[PatientRecord], tuple[str, str]]:
        key, fingerprints = self._secret(), self._fingerprints(cohort, frozen)
        return lambda record: (pseudonym(key, record.case_id), fingerprints.of(record))

    def _fingerprints(self, cohort: Cohort, frozen: FrozenCohort) -> Fingerprints:
        known = self._known_prints
        if known is None or known.cohort is not cohort or known.gene_columns != frozen.gene_columns:
            known = self._known_prints = Fingerprints(self._secret(), cohort, frozen.gene_columns)
        return known

    def _exists(self) -> bool:
        return self.folder is None or (self.folder / "cohort.json").exists()

    def _secret(self) -> bytes:
        if self.key is None:
            assert self.folder is not None, "a registry in memory has its key"
            self.key = load_or_make_key(self.folder / "cohort.key", self.folder / "cohort.json")
        return self.key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self.folder is None:
            yield
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "cohort.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, frozen: FrozenCohort) -> None:
        if self.folder is None:
            self._memory = frozen
            return
        content = {
            "format": _FORMAT,
            "generation": frozen.generation,
            "gene_columns": list(frozen.gene_columns),
            "blocks": [{"fold": block.fold, "members": block.members} for block in frozen.blocks],
            "withdrawn": sorted(frozen.withdrawn),
            "history": list(frozen.history),
            "reader_version": frozen.reader_version,
        }
        text = json.dumps({**content, "tag": self._tag(content)}, indent=1)
        write_secret(self.folder / "cohort.json", text.encode())

    def _tag(self, content: dict[str, Any]) -> str:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hmac.new(self._secret(), text.encode(), hashlib.sha256).hexdigest()


def _name(block: Block) -> str:
    return hashlib.sha256(json.dumps(sorted(block.members.items())).encode()).hexdigest()[:32]


def _entry(action: str, reason: str, patients: int, blocks: int) -> dict[str, Any]:
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": time, "action": action, "reason": reason, "patients": patients, "blocks": blocks}
