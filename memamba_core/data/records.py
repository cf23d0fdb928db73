"""Patients of a site before they become tensors: records, the gene table, and the store of their bags."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from memamba_core.data.doubt import Doubt
from memamba_core.errors import DataError
from memamba_core.patient import Bag

__all__ = ["Cohort", "FeatureStore", "GeneTable", "PatientRecord"]


@dataclass(frozen=True)
class PatientRecord:
    """One patient as the tables of a site describe them. Features are not part of the record; they are read on request.

    Attributes:
        case_id: identifier, unique within the site. It never leaves the site.
        time_months: follow-up in months, positive or zero.
        event: True if the event happened at `time_months`.
        slides: names of the patient's slides without folder and extension, in the table's order.
        gene_row: row of the site's `GeneTable`, or None without molecular data.
        fold: test fold that holds the patient, or None (see `Cohort.has_folds`).
        tss: TCGA tissue source site code, where known. Text: `05` and `NA` are codes.
    """

    case_id: str
    time_months: float
    event: bool
    slides: tuple[str, ...] = ()
    gene_row: int | None = None
    fold: int | None = None
    tss: str | None = None


@dataclass(frozen=True)
class GeneTable:
    """Molecular values of the source, unscaled.

    Attributes:
        columns: `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        values_NC: float32, one row per patient with molecular data; NaN where not measured.
        ignored: columns of the file that are not read, as the file names them.
    """

    columns: tuple[str, ...]
    values_NC: npt.NDArray[np.float32]
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values_NC.ndim != 2 or self.values_NC.shape[1] != len(self.columns):
            raise DataError(
                f"gene table has values of shape {self.values_NC.shape}; expected {len(self.columns)} columns"
            )


@runtime_checkable
class FeatureStore(Protocol):
    """Store of the bags of one site, which reads them on request.

    Attributes:
        encoder: declared encoder, with the magnification where one is declared (`uni_v1@20x`).
        width: width F of a row, the same for all slides.
        columns: names of the F columns of a slide-level table; empty for patch features.
        families: family of each of those columns; empty where a row is one token.
    """

    encoder: str
    width: int
    columns: tuple[str, ...]
    families: tuple[str, ...]

    def has(self, record: PatientRecord) -> bool:
        """Return True if any slide of the patient has features, without reading them."""
        ...

    def fingerprint(self, record: PatientRecord) -> bytes:
        """Return bytes that change if the patient's features are replaced; no patch is read.

        A patch file counts by its name and size, a row of a slide-level table by its values.
        """
        ...

    def load(
        self, record: PatientRecord, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Bag | None:
        """Return the bag of the patient, or None if no slide has a patch.

        Args:
            record: the patient.
            max_patches: most rows to return over all slides; None for all. No other rows stay in memory.
            rng: samples rows at random without replacement (kept in slide order); None takes them evenly spaced.

        Raises:
            DataError: a file is truncated, of another width, or holds values that are not finite.
        """
        ...


@dataclass(frozen=True)
class Cohort:
    """Patients with what is needed to read them. A site of a simulation is a subset (a view, nothing is copied).

    Attributes:
        records: the patients.
        genes: molecular values, None without a molecular table.
        features: bags of patches or slide vectors, None without features.
        has_folds: True if a fold table, split files or the simulation assigned the test folds. A patient whose `fold`
            is None is then neither trained on nor tested. False: a site draws the folds by a hash (`client.site`).
        doubts: what the files hold that may be a mistake; a subset keeps the doubts of the whole.
    """

    records: tuple[PatientRecord, ...]
    genes: GeneTable | None = None
    features: FeatureStore | None = None
    has_folds: bool = False
    doubts: tuple[Doubt, ...] = ()

    def subset(self, case_ids: Collection[str]) -> Self:
        """Return the patients with these case ids, in the order of this cohort."""
        wanted = frozenset(case_ids)
        return replace(self, records=tuple(r for r in self.records if r.case_id in wanted))

    @property
    def num_events(self) -> int:
        """Number of patients with the event."""
        return sum(r.event for r in self.records)

    def has_genes(self, record: PatientRecord) -> bool:
        """Return True if the patient has molecular data."""
        return self.genes is not None and record.gene_row is not None

    def has_slides(self, record: PatientRecord) -> bool:
        """Return True if the patient has features of at least one slide."""
        return self.features is not None and self.features.has(record)
