"""Contents of a cohort's registry, compared with the tables of today."""

from dataclasses import dataclass
from typing import Any

from memamba_core.data.reader_version import READER_VERSION
from memamba_core.data.records import PatientRecord

from .blocks import Block

__all__ = ["REFREEZE_COST", "CohortStatus", "FrozenCohort", "SetAside", "UsableBlock"]

REFREEZE_COST = (
    "Sums and weights that left before are over the old blocks. A coordinator that kept them can subtract them from "
    "those over the new blocks: patients of few blocks, down to one, can then be distinguished. Draw again only where "
    "the old blocks are of no use, for example because the unit of time or the coding of the event was wrong, or "
    "because a new release reads the files differently."
)


@dataclass(frozen=True)
class FrozenCohort:
    """Contents of the registry.

    Attributes:
        generation: 1 for the first draw; each refreeze adds one. 0 before the first draw.
        gene_columns: molecular columns of the table at the draw; a run uses no others.
        blocks: every block of this generation, also those that are set aside.
        withdrawn: pseudonyms of the patients who withdrew.
        history: what changed the registry, oldest first: `time`, `action`, `reason`, `patients`, `blocks`.
        reader_version: `READER_VERSION` of the release that read the tables at the last draw of a block.
    """

    generation: int = 0
    gene_columns: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    withdrawn: frozenset[str] = frozenset()
    history: tuple[dict[str, Any], ...] = ()
    reader_version: int = READER_VERSION


@dataclass(frozen=True)
class UsableBlock:
    """Block of which every patient is there, with the data of the draw.

    Attributes:
        fold: number of the test fold that holds the block; None for a block that always trains.
        case_ids: its patients.
        name: digest of the members and their data, by which sums over the block are kept.
    """

    fold: int | None
    case_ids: frozenset[str]
    name: str


@dataclass(frozen=True)
class SetAside:
    """Block that no run uses.

    Attributes:
        patients: at the draw.
        withdrawn: those of them who withdrew.
        missing, changed: those of the others who are not in the tables, or have other data than then.
        below: whether the patients who are there are below today's thresholds.
    """

    patients: int
    withdrawn: int
    missing: int
    changed: int
    below: bool


@dataclass(frozen=True)
class CohortStatus:
    """State of the cohort, for the site's operator.

    Attributes:
        frozen: contents of the registry.
        usable: blocks that a run uses.
        set_aside: all other blocks.
        waiting: patients in the tables who are in no block and did not withdraw.
    """

    frozen: FrozenCohort
    usable: tuple[UsableBlock, ...]
    set_aside: tuple[SetAside, ...]
    waiting: tuple[PatientRecord, ...]

    @property
    def reader_notice(self) -> str | None:
        """Sentence about blocks that may be set aside because this release reads the files in another way, or None."""
        drawn = self.frozen.reader_version
        others = sum(aside.missing + aside.changed for aside in self.set_aside)
        if drawn == READER_VERSION or not others:
            return None
        return (
            f"the blocks were drawn by a release with reader version {drawn}; this release has reader version "
            f"{READER_VERSION} and reads some files differently, which may be why {others} "
            f"{'patients are missing or have' if others > 1 else 'patient is missing or has'} other data"
        )
