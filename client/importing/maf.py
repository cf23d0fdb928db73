"""Format `maf`: mutations with a clinical table that stays where it is."""

from collections.abc import Sequence
from pathlib import Path

from client.importing.clinical_columns import find_clinical
from client.importing.mutations import read_mutations, read_sample_list
from client.importing.options import ImportOptions
from client.importing.outcome import Imported, Section
from client.importing.outcomes import add_genomics
from client.importing.sources import open_source
from memamba_core.errors import DataError

__all__ = ["read"]


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Read a MAF and a clinical table.

    Args:
        sources: one file `*.maf` (with or without gzip; or a table with MAF's columns), and the clinical table.
        options: `columns` of the clinical table; `samples`, `genes`, `min_patients`, `sample_types`.

    Raises:
        DataError: not one of the files is a MAF and one a clinical table.
    """
    tables = [open_source(path, options.decimal_mark) for path in sources]
    mafs = [table for table in tables if "Variant_Classification" in table.columns]
    others = [table for table in tables if table not in mafs]
    clinical = [found for table in others if (found := find_clinical(table, options.columns)) is not None]
    if len(mafs) != 1 or len(clinical) != 1:
        raise DataError(
            f"{len(mafs)} of the files are MAF (column Variant_Classification), and {len(clinical)} have columns of "
            "patient, time and event; expected one of each. Name columns that are not recognised: --column time=NAME"
        )
    imported = Imported(
        {
            "clinical": Section(
                {"file": str(clinical[0].table.path.resolve()), **clinical[0].settings}, clinical[0].evidence
            )
        }
    )
    imported.questions += clinical[0].questions
    measured = read_sample_list(options.samples) if options.samples else None
    add_genomics(imported, [read_mutations(imported, mafs[0].path, options, measured)])
    return imported
