"""Read molecular columns, and groups of genes that become tokens of the model."""

import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from memamba_core.config.site import GenomicsTable
from memamba_core.data.key_columns import parse_keys
from memamba_core.data.records import GeneTable
from memamba_core.data.tables import open_table, refuse_genes_in_rows
from memamba_core.errors import ConfigError, DataError

__all__ = ["CLINICAL_COLUMNS", "KINDS", "build_gene_groups", "continuous_columns", "read_genes", "read_signatures"]

KINDS = ("rnaseq", "cnv", "mut")
"""Suffixes of molecular columns: expression, copy number, mutation."""
MOLECULAR = re.compile(rf"(?P<symbol>.+)_(?P<kind>{'|'.join(KINDS)})")

CLINICAL_COLUMNS = frozenset().union(
    {"case_id", "patient_id", "sample_id", "slide_id", "slide_ids", "slide_ref", "n_slides"},
    {"tss", "site", "region", "country", "cohort", "oncotree_code", "subtype", "stage", "grade"},
    {"age", "sex", "gender", "is_female", "is_male", "female", "male", "race", "ethnicity", "smoker"},
    {"treatment", "radiation", "chemotherapy", "recurrence", "relapse", "progression"},
    {"survival_months", "survival_days", "time", "event", "censorship", "censored", "status", "vital_status"},
    {"dead", "death", "deceased", "os", "dss", "pfi", "dfi", "dfs", "pfs"},
    {"train", "val", "test", "fold", "split"},
)
"""Lower-case names that are never read as a bare gene symbol: an outcome among the genes would leak the answer."""


def read_genes(
    config: GenomicsTable,
    root: Path,
    *,
    clinical_columns: Collection[str] = (),
) -> tuple[tuple[str, ...], GeneTable]:
    """Read a site's molecular table.

    Columns are `SYMBOL_rnaseq` (as normalised by the source, usually z-scores), `SYMBOL_cnv` (GISTIC -2...2)
    and `SYMBOL_mut` (0/1). With `bare_columns: mut`, a column `X` without suffix that holds only 0 and 1 is
    read as `X_mut`, unless it is a clinical column. All other columns are ignored. Cells may be empty (not
    measured).

    Args:
        config: the file and how to read it.
        root: folder that `config.file` is relative to.
        clinical_columns: further names that are no bare gene symbols, in addition to `CLINICAL_COLUMNS`.

    Returns:
        The case ids, one per row, and the unscaled values in the table's order of rows and columns.

    Raises:
        DataError: a cell is neither empty nor a finite number; two rows belong to one patient; the table has no
            molecular column.
    """
    table = open_table(root / config.file, config)
    if not any(MOLECULAR.fullmatch(column) for column in table.columns):
        refuse_genes_in_rows(table)
    table.require(config.case_id, "data.genomics.case_id")
    case_ids = parse_keys(table, config.case_id, table.text([config.case_id])[config.case_id])
    remedy = "Write the patient's identifier, or take the row out"
    table.refuse(config.case_id, case_ids == "", "is empty", remedy)
    remedy = "Keep one row per patient, for example the primary tumour"
    table.refuse(config.case_id, case_ids.duplicated(), "repeats a patient", remedy)
    names = {column: column for column in table.columns if MOLECULAR.fullmatch(column)}
    if config.bare_columns == "mut":
        known = CLINICAL_COLUMNS.union(name.lower() for name in clinical_columns)
        bare = [c for c in table.columns if c and c not in names and c.lower() not in known and c != config.case_id]
        for column in table.binary_columns(bare):
            if f"{column}_mut" in names:
                raise DataError(
                    f"{table.path}: columns {column!r} and '{column}_mut' both hold the mutations of one "
                    "gene. Keep one, or set data.genomics.bare_columns to ignore"
                )
            names[column] = f"{column}_mut"
    if not names:
        raise DataError(
            f"{table.path}: none of the {len(table.columns)} columns is named SYMBOL_rnaseq, SYMBOL_cnv or "
            "SYMBOL_mut. Rename them, or set data.genomics.bare_columns to mut if the columns are mutations "
            "under bare symbols"
        )
    wanted = [column for column in table.columns if column in names]
    return tuple(case_ids), GeneTable(tuple(names[c] for c in wanted), table.numbers(wanted))


def read_signatures(path: Path) -> dict[str, tuple[str, ...]]:
    """Read groups of genes.

    Args:
        path: CSV, one column per group: its name in the header, gene symbols below. Columns may be of
            different length and may share symbols.

    Returns:
        Group name -> symbols, each once, in the file's order.

    Raises:
        DataError: no such file, no group, a group without a name or without a symbol, or two groups of one
            name.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a CSV with one column of gene symbols per group")
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as CSV in UTF-8 ({type(error).__name__}). Export it again") from None
    header = rows[0] if rows else []
    groups: dict[str, tuple[str, ...]] = {}
    for index in range(max(map(len, rows), default=0)):
        name = header[index] if index < len(header) else ""
        symbols = tuple(dict.fromkeys(row[index] for row in rows[1:] if index < len(row) and row[index]))
        if name in groups:
            raise DataError(f"{path}: two columns are named {name!r}. Give each group its own name")
        if name and symbols:
            groups[name] = symbols
        elif name or symbols:
            what = f"group {name!r} has no gene symbol" if name else f"column {index + 1} has symbols but no name"
            raise DataError(f"{path}: {what}. Write the name of the group into the header and its symbols below")
    if not groups:
        raise DataError(f"{path}: is empty; expected a CSV with one column of gene symbols per group")
    return groups


def continuous_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a continuous measurement, expression, in their order.

    Copy number and mutations take few values: the mean of such a column over some patients is a count of patients.
    """
    return [column for column in columns if column.endswith("_rnaseq")]


def build_gene_groups(
    columns: Sequence[str], signatures: Mapping[str, Sequence[str]] | None, by: Literal["signatures", "kind"]
) -> dict[str, tuple[int, ...]]:
    """Assign columns to groups.

    Args:
        columns: `SYMBOL_rnaseq`, `SYMBOL_cnv` or `SYMBOL_mut`.
        signatures: group name -> gene symbols; needed for `by="signatures"` only.
        by: `signatures`: a group catches all kinds of measurement of its symbols, and a column may be in
            several groups or in none; `kind`: one group per kind of measurement.

    Returns:
        Group name -> ascending indices into `columns`, in the order of the signatures (or of `KINDS`). Groups
        without a column are left out.

    Raises:
        ConfigError: `by="signatures"` without signatures.
        DataError: a column is not molecular, or no group catches one.
    """
    parts = []
    for column in columns:
        match = MOLECULAR.fullmatch(column)
        if match is None:
            raise DataError(f"column {column!r} is not molecular; expected SYMBOL_rnaseq, SYMBOL_cnv or SYMBOL_mut")
        parts.append((match["symbol"], match["kind"]))
    if by == "kind":
        caught = {kind: [i for i, (_, k) in enumerate(parts) if k == kind] for kind in KINDS}
    elif signatures is None:
        raise ConfigError(
            "agreement.gene_groups is signatures, but there is no table of them; name one in data.signatures, or set "
            "agreement.gene_groups=kind"
        )
    else:
        members = {name: frozenset(symbols) for name, symbols in signatures.items()}
        caught = {name: [i for i, (s, _) in enumerate(parts) if s in symbols] for name, symbols in members.items()}
    groups = {name: tuple(indices) for name, indices in caught.items() if indices}
    if not groups:
        raise DataError(
            f"none of the {len(caught)} gene groups catches any of the {len(parts)} molecular columns. Check "
            "that the signatures table and the columns use the same gene symbols, or set agreement.gene_groups=kind"
        )
    return groups
