"""Molecular tables that stand on their side: genes in rows, patients in columns."""

import re

from memamba_core.data.tables.table import Table
from memamba_core.errors import DataError

__all__ = ["refuse_genes_in_rows"]

_KEY_NAMES = re.compile(r"(hugo|gene|ensembl|entrez|probe)?[ _.]?(hugo|symbol|gene|genes|gene_?name|attrib_name)", re.I)
_SYMBOL = re.compile(
    r"(ENS[A-Z]*G\d{11}(\.\d+)?|[A-Z][A-Z0-9]{1,14}(-[A-Z0-9]{1,8})?|C\d+orf\d+)([|].*|_(rnaseq|cnv|mut))?"
)
_CERTAIN = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_.*)?|.+_(rnaseq|cnv|mut)")
_MOST = 0.8


def refuse_genes_in_rows(table: Table) -> None:
    """Raise an error if the first column names genes, and the header does not.

    Args:
        table: a molecular table none of whose columns is named like a molecular column.

    Raises:
        DataError: genes stand in rows.
    """
    first, others = table.columns[0], table.columns[1:]
    names = table.text([first])[first]
    certain = names.map(lambda name: bool(_CERTAIN.fullmatch(name))).mean() >= _MOST
    likely = names.map(lambda name: bool(_SYMBOL.fullmatch(name))).mean() >= _MOST
    prefixes = names.str.extract(r"^([A-Za-z]+)", expand=False).nunique()  # P1, P2, ... are patients
    likely = likely and prefixes > max(1, len(names) / 10)
    in_header = sum(bool(_SYMBOL.fullmatch(name)) for name in others) >= _MOST / 2 * len(others)
    if others and (certain or (likely and (not in_header or _KEY_NAMES.fullmatch(first)))):
        raise DataError(
            f"{table.path}: genes stand in rows ({len(names)} in column {first!r}) and patients in columns; expected "
            "one row per patient and one column per gene. Transpose the table"
        )
