"""Contents of a cohort's registry, compared with the tables of today."""

from dataclasses import dataclass
from typing import Any

from memamba_core.data.records import PatientRecord

from .blocks import Block

__all__ = ["CohortStatus", "FrozenCohort", "SetAside", "UsableBlock"]


@dataclass(frozen=True)
class FrozenCohort:
    """Contents of the registry.

    Attributes:
        generation: 1 for the first draw; each refreeze adds one. 0 before the first draw.
        gene_columns: molecular columns of the table at the draw; a run uses no others.
        blocks: every block of this generation, also those that are set aside.
        withdrawn: pseudonyms of the patients who withdrew.
        history: what changed the registry, oldest first: `time`, `action`, `reason`, `patients`, `blocks`.
    """

    generation: int = 0
    gene_columns: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    withdrawn: frozenset[str] = frozenset()
    history: tuple[dict[str, Any], ...] = ()


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
        withdrawn, missing, changed: those of them who withdrew, are not in the tables, have other data than then.
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
