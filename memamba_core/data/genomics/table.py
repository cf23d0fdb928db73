"""Read the molecular table of a site: expression, copy number and mutations, one row per patient."""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from memamba_core.config.site import GenomicsTable
from memamba_core.data.doubt import Doubt
from memamba_core.data.genomics.bare_columns import bare_mutations
from memamba_core.data.genomics.mixed_scales import find_mixed_scales
from memamba_core.data.genomics.name_doubts import find_name_doubts
from memamba_core.data.genomics.names import list_columns, molecular_name
from memamba_core.data.genomics.values import USUAL_CODES, find_codes, find_value_doubts
from memamba_core.data.identifiers.key_columns import parse_keys
from memamba_core.data.records import GeneTable
from memamba_core.data.tables import Table, describe_rows, open_table, refuse_genes_in_rows
from memamba_core.errors import DataError

__all__ = ["continuous_columns", "find_gene_doubts", "read_genes"]

log = logging.getLogger(__name__)


def read_genes(
    config: GenomicsTable,
    root: Path,
    *,
    clinical_columns: Collection[str] = (),
) -> tuple[tuple[str, ...], GeneTable]:
    """Read a site's molecular table.

    Columns are `SYMBOL_rnaseq` (as normalised by the source, usually z-scores), `SYMBOL_cnv` (GISTIC -2...2) and
    `SYMBOL_mut` (0/1); the suffix may be in upper case and separated by `.`, `-` or a blank. With `bare_columns: mut`,
    a column `X` without suffix that holds only 0 and 1 is read as `X_mut`, unless its name is clinical. All other
    columns are ignored. Cells may be empty (not measured).

    A table may have one row per slide: rows of one patient that hold the same molecular values are one.

    Args:
        config: the file and how to read it.
        root: folder that `config.file` is relative to.
        clinical_columns: further names that are no bare gene symbols (`memamba_core.data.genomics.names.is_clinical`).

    Returns:
        The case ids, one per row, and the unscaled values in the table's order of patients and columns.

    Raises:
        DataError: a cell is neither empty nor a finite number, or holds a code for "not measured"; two rows of one
            patient differ; two columns have one name; the table has no molecular column.
    """
    table = open_table(root / config.file, config)
    if not any(map(molecular_name, table.columns)):
        refuse_genes_in_rows(table)
    table.require(config.case_id, "data.genomics.case_id")
    case_ids = parse_keys(table, config.case_id, table.text([config.case_id])[config.case_id])
    remedy = "Write the patient's identifier, or take the row out"
    table.refuse(config.case_id, case_ids == "", "is empty", remedy)
    names = _name_columns(table, config)
    counts = frozenset[str]()
    if config.bare_columns != "ignore":
        counts = _add_bare_columns(names, table, config, clinical_columns)
    if not names:
        raise DataError(
            f"{table.path}: none of the {len(table.columns)} columns is named SYMBOL_rnaseq, SYMBOL_cnv or "
            "SYMBOL_mut. Rename them, or set data.genomics.bare_columns to mut if the columns are mutations "
            "under bare symbols" + _nearest(table.columns)
        )
    wanted = {column: names[column] for column in table.columns if column in names}
    values_NC = table.numbers(list(wanted))
    _empty_codes(table, config, wanted, values_NC)
    if counts:
        counted = [i for i, column in enumerate(wanted) if column in counts]
        part = values_NC[:, counted]
        values_NC[:, counted] = np.where(np.isnan(part), part, part > 0)
    ignored = tuple(c for c in table.columns if c not in names and c != config.case_id)
    repeated = case_ids.duplicated().to_numpy(np.bool_)
    if repeated.any():
        _check_repeated(table, case_ids, repeated, values_NC)
        case_ids, values_NC = case_ids[~repeated], values_NC[~repeated]
    return tuple(case_ids), GeneTable(tuple(wanted.values()), values_NC, ignored)


def find_gene_doubts(file: str, table: GeneTable) -> Iterator[Doubt]:
    """Doubt the names and values of a molecular table.

    Args:
        file: name of the table.
        table: its columns, and the values of the site's patients.
    """
    yield from find_name_doubts(file, table.columns, table.ignored)
    yield from find_value_doubts(file, table)
    yield from find_mixed_scales(file, table)


def continuous_columns(columns: Sequence[str]) -> list[str]:
    """Return the columns of a continuous measurement, expression, in their order.

    Copy number and mutations take few values: the mean of such a column over some patients is a count of patients.
    """
    return [column for column in columns if column.endswith("_rnaseq")]


def _name_columns(table: Table, config: GenomicsTable) -> dict[str, str]:
    """Return column of the file -> `SYMBOL_KIND`."""
    for column in config.not_genes:
        table.require(column, "data.genomics.not_genes")
    names: dict[str, str] = {}
    column_of: dict[str, str] = {}
    for column in table.columns:
        name = None if column in config.not_genes else molecular_name(column)
        if name is None or column == config.case_id:
            continue
        if name in column_of:
            raise DataError(
                f"{table.path}: columns {column_of[name]!r} and {column!r} are both read as {name!r}. Keep one, or "
                "list the other in data.genomics.not_genes"
            )
        names[column], column_of[name] = name, column
    return names


def _add_bare_columns(
    names: dict[str, str], table: Table, config: GenomicsTable, clinical: Collection[str]
) -> frozenset[str]:
    """Add the columns of mutations without suffix to `names`; return those that hold counts."""
    columns, counts = bare_mutations(table, config, known=names, clinical=clinical)
    named = set(names.values())
    for column in columns:
        if f"{column}_mut" in named:
            raise DataError(
                f"{table.path}: columns {column!r} and '{column}_mut' both hold the mutations of one gene. Keep one, "
                "or set data.genomics.bare_columns to ignore"
            )
        names[column] = f"{column}_mut"
    return counts


def _nearest(columns: Sequence[str]) -> str:
    """Return the evidence of columns that are nearly molecular, for an error."""
    return "".join(f". {doubt.text}" for doubt in find_name_doubts("the table", (), columns))


def _empty_codes(
    table: Table, config: GenomicsTable, names: Mapping[str, str], values_NC: npt.NDArray[np.float32]
) -> None:
    """Empty the cells that hold a number of `not_measured`; refuse codes that the setting does not name."""
    for code in config.not_measured or ():
        values_NC[values_NC == np.float32(code)] = np.nan
    if config.not_measured == ():
        return
    columns, found = list(names), find_codes(list(names.values()), values_NC)
    usual = [code for code in found if code in USUAL_CODES]
    codes = ", ".join(f"{code:g}" for code in (*(config.not_measured or ()), *usual))
    for code, cells in found.items():
        at = [columns[i] for i in np.flatnonzero(cells.any(axis=0)).tolist()]
        rows = np.asarray(cells.any(axis=1))
        if code in USUAL_CODES:
            raise DataError(
                f"{table.path}: {list_columns(at)} {code:g} in {describe_rows(rows)}, which is no measurement of that "
                "kind. Empty the cells if it says that nothing was measured, or set data.genomics.not_measured to "
                f"[{codes}] to read it as empty, or to [] to take all numbers as measurements"
            )
        # A number that is no usual code is the value of a patient, which no message shows.
        raise DataError(
            f"{table.path}: {list_columns(at)} a negative number in {describe_rows(rows)}; expected 0 and 1. Write 0 "
            "where the gene is not mutated, and empty the cells if nothing was measured; or list the number in "
            "data.genomics.not_measured to read it as empty, or set that to [] to take all numbers as measurements"
        )


def _check_repeated(
    table: Table, case_ids: "pd.Series[str]", repeated: npt.NDArray[np.bool_], values_NC: npt.NDArray[np.float32]
) -> None:
    """Refuse a further row of a patient that holds other values than the first."""
    codes, _ = pd.factorize(case_ids)
    first = np.flatnonzero(~repeated)[codes]
    differs = np.zeros(len(case_ids), np.bool_)
    for row in np.flatnonzero(repeated).tolist():
        differs[row] = not np.array_equal(values_NC[row], values_NC[first[row]], equal_nan=True)
    remedy = "Keep one row per patient, for example the primary tumour; only equal rows are taken as one"
    table.refuse(str(case_ids.name), differs, "repeats a patient with other molecular values", remedy)
    log.info("molecular data: %d rows repeat the values of their patient", int(repeated.sum()))
