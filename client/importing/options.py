"""Options of an import; each format states which of them it uses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

__all__ = ["DecimalMark", "Duplicates", "ImportOptions", "Transform"]

DecimalMark = Literal["point", "comma"]
Transform = Literal["none", "log2p1"]
Duplicates = Literal["max", "mean", "sum"]


@dataclass(frozen=True)
class ImportOptions:
    """Answers that a person gives in advance; None or empty leaves the question to the import.

    Attributes:
        columns: role (`case_id`, `slides`, `time`, `event`) -> name of its column.
        decimal_mark: mark before the decimals of all tables; None finds it in each column.
        transform: change of the expression values.
        duplicates: how several rows of one gene become one.
        gene_map: table with the columns `id` and `symbol`.
        genes: list of gene symbols; exactly their mutations are written.
        min_patients: fewest patients with a mutation of a gene that is written.
        samples: table of all samples that were measured.
        sample_types: types of TCGA samples that are read, the preferred one first.
    """

    columns: dict[str, str] = field(default_factory=dict)
    decimal_mark: DecimalMark | None = None
    transform: Transform | None = None
    duplicates: Duplicates | None = None
    gene_map: Path | None = None
    genes: Path | None = None
    min_patients: int | None = None
    samples: Path | None = None
    sample_types: tuple[str, ...] | None = None
