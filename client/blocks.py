"""Blocks: disjoint sets of a site's patients that every answer without differential privacy is constant on.

An answer over a set of patients, less an answer over the same set without one patient, is that patient. Two answers of
a site therefore never differ by fewer patients than a block holds: training and test sets are unions of blocks, and a
block, once drawn, never changes. `client.cohort_registry` keeps the blocks; this module draws them.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from memamba_core.config.site import DisclosureConfig
from memamba_core.data.records import Cohort, PatientRecord

__all__ = ["MAX_BLOCKS", "Block", "Fingerprints", "SmallestBlock", "draw_blocks", "pseudonym"]

MAX_BLOCKS = 5
"""Most blocks that a cohort is drawn into: the usual number of folds of a cross-validation."""


@dataclass(frozen=True)
class SmallestBlock:
    """Fewest patients of a block.

    Attributes:
        patients: patients, and patients of each modality that the blocks are drawn for.
        events: patients with the event, and patients without it.
    """

    patients: int
    events: int

    @classmethod
    def of(cls, thresholds: DisclosureConfig) -> "SmallestBlock":
        """Return the smallest block of a site that answers alone: a block can be the whole difference of two rounds."""
        return cls(max(thresholds.min_patients, thresholds.min_round_patients), thresholds.min_events)

    def admits(self, records: Collection[PatientRecord]) -> bool:
        """Return True if these patients are enough for a block."""
        events = sum(record.event for record in records)
        return len(records) >= self.patients and min(events, len(records) - events) >= self.events


@dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        fold: number of the test fold that holds the block; None for a block that always trains.
        members: pseudonym of each patient -> fingerprint of the patient's data when the block was drawn.
    """

    fold: int | None
    members: dict[str, str]


def pseudonym(key: bytes, case_id: str) -> str:
    """Return the name of a patient in the registry: 16 hex digits, which cannot be reversed without the site's key."""
    return _mac(key, b"patient", case_id.encode())[:16]


class Fingerprints:
    """Digests of all data of a patient that an answer can depend on; no patch feature is read.

    Args:
        key: secret of the site.
        cohort: gene table and features.
        gene_columns: columns of the table that are part of a digest, all of them in the table.
    """

    def __init__(self, key: bytes, cohort: Cohort, gene_columns: Sequence[str]) -> None:
        self._key, self.cohort, self.gene_columns = key, cohort, tuple(gene_columns)
        self._genes_NC = None
        if cohort.genes is not None:
            position = {column: index for index, column in enumerate(cohort.genes.columns)}
            self._genes_NC = cohort.genes.values_NC[:, [position[column] for column in gene_columns]]
        self._tables: dict[str, str] = {}

    def of(self, record: PatientRecord) -> str:
        """Return the digest of a patient: 32 hex digits."""
        if record.case_id not in self._tables:  # tables are read once per process, files can change meanwhile
            genes = b""
            if self._genes_NC is not None and record.gene_row is not None:
                genes = self._genes_NC[record.gene_row].tobytes()
            outcome = f"{record.time_months!r} {record.event}".encode()
            self._tables[record.case_id] = _mac(self._key, b"tables", outcome, genes)
        features = self.cohort.features.fingerprint(record) if self.cohort.features is not None else b""
        return _mac(self._key, b"data", self._tables[record.case_id].encode(), features)[:32]


def draw_blocks(
    cohort: Cohort, smallest: SmallestBlock, key: bytes, describe: Callable[[PatientRecord], tuple[str, str]]
) -> tuple[Block, ...]:
    """Draw the patients of a cohort into blocks of equal size, stratified by event and modality.

    The number of blocks is the largest, up to `MAX_BLOCKS`, with which each block is over the thresholds. A modality
    that reaches the threshold in the whole cohort reaches it in each block, too. Where that gives fewer than two
    blocks, there is one, which always trains. The site's own fold table takes the place of the draw if each of its
    folds is over the thresholds; patients without a fold are then in no block.

    Args:
        cohort: the patients.
        smallest: fewest patients of a block.
        key: secret of the site, which decides who is in which block.
        describe: returns pseudonym and fingerprint of a patient.

    Returns:
        The blocks; none if the whole cohort is below the thresholds.
    """
    if cohort.has_folds:
        by_fold: dict[int, list[PatientRecord]] = {}
        for record in cohort.records:
            if record.fold is not None:
                by_fold.setdefault(record.fold, []).append(record)
        if len(by_fold) > 1 and all(smallest.admits(records) for records in by_fold.values()):
            return tuple(Block(fold, dict(map(describe, by_fold[fold]))) for fold in sorted(by_fold))
    if not smallest.admits(cohort.records):
        return ()
    strata = sorted(
        cohort.records,
        key=lambda r: (r.event, cohort.has_slides(r), cohort.has_genes(r), _mac(key, b"draw", r.case_id.encode())),
    )
    for number in range(MAX_BLOCKS, 1, -1):
        parts = [strata[index::number] for index in range(number)]  # dealt in turn: each gets its share of each stratum
        if all(_is_over(part, cohort, smallest) for part in parts):
            return tuple(Block(fold, dict(map(describe, part))) for fold, part in enumerate(parts))
    return (Block(None, dict(map(describe, strata))),)


def _is_over(part: Sequence[PatientRecord], cohort: Cohort, smallest: SmallestBlock) -> bool:
    """Return True if a part is over the thresholds, in each modality that the whole cohort is over the threshold in."""
    return smallest.admits(part) and all(
        sum(map(has, part)) >= smallest.patients
        for has in (cohort.has_slides, cohort.has_genes)
        if sum(map(has, cohort.records)) >= smallest.patients
    )


def _mac(key: bytes, *parts: bytes) -> str:
    mac = hmac.new(key, digestmod=hashlib.sha256)
    for part in parts:
        mac.update(len(part).to_bytes(8, "little"))
        mac.update(part)
    return mac.hexdigest()
