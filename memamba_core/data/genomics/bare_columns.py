"""Choose the columns under bare gene symbols that hold mutations."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import pandas as pd

from memamba_core.config.site import GenomicsTable
from memamba_core.data.genomics.names import is_clinical, list_columns, looks_like_gene
from memamba_core.data.tables import Table
from memamba_core.errors import DataError

__all__ = ["bare_mutations"]

_MOST_CELLS: Final = 5_000_000
"""Most cells to look at in columns that are not 0/1. A table has few of them, unless it holds no mutations at all."""
_MOSTLY: Final = 0.8
_WORDS: Final = r"true|false|wt|wild.?type|mut|mutated|mutant|(p\.)?[A-Z*]\d+([A-Z*]|fs.*|del.*|ins.*|_splice)?"
"""Words for a mutation or its absence, as `bare_columns` does not read them: `WT`, `p.R175H`."""
_EMPTY: Final = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none"})


def bare_mutations(
    table: Table, config: GenomicsTable, *, known: Mapping[str, str], clinical: Collection[str]
) -> tuple[list[str], frozenset[str]]:
    """Return the columns without suffix that hold mutations, and those of them that hold counts of mutations.

    A column is one if it holds only 0, 1 and empty cells, and its name is not clinical. A column that is named like a
    gene and holds counts (`bare_columns: mut_counts`) is one too.

    Args:
        table: the molecular table.
        config: how to read it.
        known: the columns that have a suffix.
        clinical: names that are clinical in this table.

    Raises:
        DataError: a column that is named like a gene holds counts, which `bare_columns: mut` does not read, words for
            mutations, or 0 and 1 with few other values. Without an error the most mutated genes would be lost.
    """
    closed = {config.case_id, *known, *config.not_genes}
    bare = [c for c in table.columns if c and c not in closed and not is_clinical(c, clinical)]
    binary = set(table.binary_columns(bare))
    coded, counts, other = _look_at([c for c in bare if c not in binary and looks_like_gene(c)], table, config)
    remedy = "list columns that are no genes in data.genomics.not_genes"
    if counts and config.bare_columns == "mut":
        raise DataError(
            f"{table.path}: {list_columns(counts, 8)} whole numbers beyond 1, as counts of mutations are; "
            "data.genomics.bare_columns=mut reads 0 and 1. Set it to mut_counts, which reads every number above 0 as "
            f"mutated, or {remedy}"
        )
    if other:
        raise DataError(
            f"{table.path}: {list_columns(other, 8)} words for mutations, or few values besides 0 and 1; expected 0, 1 "
            "and empty cells. Write 1 where the gene is mutated (data.genomics.not_measured names codes that are read "
            f"as empty), or {remedy}"
        )
    binary.update(coded, counts)
    return [c for c in bare if c in binary], frozenset(counts)


def _look_at(columns: Sequence[str], table: Table, config: GenomicsTable) -> tuple[list[str], list[str], list[str]]:
    """Return the columns that hold 0/1 and declared codes, those that hold counts, and the others of mutations."""
    coded, counts, other = list[str](), list[str](), list[str]()
    for column, cells in _texts(columns, table):
        measured = cells[~cells.str.lower().isin(_EMPTY)]
        numbers = pd.to_numeric(measured, errors="coerce")
        numbers = numbers[~numbers.isin(config.not_measured or ())]
        if not len(numbers):
            continue
        if bool(numbers.isin((0, 1)).all()):
            coded.append(column)
        elif bool((numbers.notna() & (numbers >= 0) & (numbers % 1 == 0)).all()) and bool((numbers == 0).any()):
            counts.append(column)
        elif float(np.mean(numbers.isin((0, 1)))) >= _MOSTLY or bool(measured.str.fullmatch(_WORDS, case=False).all()):
            other.append(column)
    return coded, counts, other


def _texts(columns: Sequence[str], table: Table) -> "list[tuple[str, pd.Series[str]]]":
    """Return the cells of columns that can be read as text."""
    if not columns:
        return []
    rows = len(table.text(columns[:1]))
    try:
        frame = table.text(columns[: max(1, _MOST_CELLS // max(rows, 1))])
    except DataError:  # lists or bytes, in a parquet file: no mutations
        return []
    return [(column, frame[column]) for column in frame.columns]
