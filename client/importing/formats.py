"""List of the formats that can be imported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from client.importing.options import ImportOptions
from client.importing.outcome import Imported

__all__ = ["FORMATS", "Format"]


@dataclass(frozen=True)
class Format:
    """Format of the sources of an import.

    Attributes:
        module: module of this folder with a function `read(sources, options)`.
        meaning: what the sources are, a phrase.
        options: fields of `ImportOptions` that it uses.
    """

    module: str
    meaning: str
    options: frozenset[str]

    def read(self, sources: Sequence[Path], options: ImportOptions) -> Imported:
        """Read the sources. Pandas and the readers are imported here: the command line starts without them."""
        function: Callable[[Sequence[Path], ImportOptions], Imported]
        function = import_module(f"client.importing.{self.module}").read
        return function(sources, options)


_TABLES = frozenset({"columns", "decimal_mark"})
_MATRIX = frozenset({"decimal_mark", "transform", "duplicates", "gene_map", "sample_types"})
_MAF = frozenset({"genes", "min_patients", "samples", "sample_types"})

FORMATS = {
    "tables": Format("tables", "clinical and molecular tables, and folders of features, left where they are", _TABLES),
    "cbioportal": Format("cbioportal", "the folder of a study of cBioPortal", _MATRIX | _MAF | {"columns"}),
    "xena": Format("xena", "a survival table and matrices of UCSC Xena", _MATRIX | {"columns"}),
    "gdc": Format("gdc", "clinical.tsv, sample sheet and STAR counts of the GDC, or a merged matrix", _MATRIX),
    "maf": Format("maf", "mutations (MAF) and a clinical table", _MAF | _TABLES),
    "splits": Format("splits", "published splits, then the site.yaml or the tables of a site", _TABLES),
}
