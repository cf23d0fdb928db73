"""Matrices with genes in rows and samples in columns, turned into one row per patient."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from client.importing.barcodes import Sample, choose_samples
from client.importing.options import Duplicates, ImportOptions
from client.importing.outcome import Imported
from client.importing.scale import apply_transform, find_scale
from client.importing.sources import open_source
from memamba_core.data.tables import Table
from memamba_core.errors import DataError

__all__ = ["combine_genes", "read_gene_map", "read_gene_matrix", "symbols_of"]

_GENE_COLUMNS = (
    *("hugo_symbol", "gene_name", "gene_symbol", "symbol", "gene", "genes", "sample", "xena_sample", "gene_id"),
    *("ensembl_id", "id", "entrez_gene_id"),
)
"""Names of the column of genes in lower case, the preferred one first."""
_ANNOTATIONS = frozenset(_GENE_COLUMNS) | {
    "cytoband",
    "gene_type",
    "locus id",
    "chrom",
    "chromstart",
    "chromend",
    "strand",
}
_ENSEMBL = re.compile(r"(ENS[A-Z]*G\d{11})(\.\d+)?(_PAR_Y)?")


def read_gene_matrix(
    imported: Imported,
    path: Path,
    kind: str,
    options: ImportOptions,
    sheet: Mapping[str, Sample] | None = None,
) -> pd.DataFrame:
    """Read a matrix with genes in rows.

    Args:
        imported: takes findings and questions.
        path: table with a column of genes, further columns of annotations, and a column per sample.
        kind: `rnaseq` or `cnv`.
        options: `decimal_mark`, `gene_map`, `duplicates`, `sample_types`, and `transform` for expression.
        sheet: sample -> patient and type.

    Returns:
        One row per patient (index: the identifiers), one column `SYMBOL_kind` per gene, float32.

    Raises:
        DataError: the file is no such matrix; genes are ENSEMBL ids without a map, or stand in several rows without a
            rule; no sample is left.
    """
    table = open_source(path, options.decimal_mark)
    genes = _gene_column(table)
    names = [column for column in table.columns if column.lower() not in _ANNOTATIONS and column != genes]
    if not names:
        raise DataError(
            f"{path}: has no column of a sample; expected genes in rows and samples in columns. Check the file"
        )
    chosen = choose_samples(imported, path.name, names, sheet, options.sample_types)
    symbols = symbols_of(imported, path, table.text([genes])[genes], options.gene_map)
    values_GP = table.numbers([names[place] for place in chosen.values()])
    named = (symbols != "").to_numpy()
    frame = pd.DataFrame(values_GP[named].T, index=list(chosen), columns=symbols[named].tolist())
    return finish_matrix(imported, path, frame, kind, options)


def finish_matrix(
    imported: Imported, path: Path, frame: pd.DataFrame, kind: str, options: ImportOptions
) -> pd.DataFrame:
    """Combine the columns of one gene, transform expression, and name the columns `SYMBOL_kind`."""
    frame = combine_genes(imported, path, frame, options.duplicates, is_expression=kind == "rnaseq")
    if kind == "rnaseq":
        values_PC = apply_transform(imported, path.name, frame.to_numpy(np.float32), options.transform)
        frame = pd.DataFrame(values_PC, index=frame.index, columns=frame.columns)
    elif not bool((frame.isna() | frame.isin([-2, -1, 0, 1, 2])).to_numpy().all()):
        imported.ask(
            "genomics.file", f"{path.name}: copy numbers are not GISTIC levels from -2 to 2. Is this the right file?"
        )
    return frame.add_suffix(f"_{kind}").astype(np.float32)


def symbols_of(imported: Imported, path: Path, genes: "pd.Series[str]", gene_map: Path | None) -> "pd.Series[str]":
    """Return the gene symbol of each row; '' for rows that are left out, which are counted.

    `SYMBOL|ENTREZ` is cut to the symbol. ENSEMBL ids lose their version and are mapped.

    Raises:
        DataError: the genes are ENSEMBL ids, and there is no map, or the map has none of them.
    """
    symbols = genes.str.partition("|")[0].str.strip().replace("?", "")
    ids = symbols.str.extract(_ENSEMBL.pattern, expand=False)[0]
    is_id = symbols.map(lambda text: _ENSEMBL.fullmatch(text) is not None)
    if is_id.any():
        if gene_map is None:
            raise DataError(
                f"{path}: names {int(is_id.sum())} genes by ENSEMBL ids; sites use symbols. Give a table with the "
                "columns id and symbol: --gene-map genes.tsv"
            )
        known = read_gene_map(gene_map)
        symbols = symbols.mask(is_id, ids.map(known).fillna(""))
        if not (symbols[is_id] != "").any():
            raise DataError(f"{gene_map}: has none of the ENSEMBL ids of {path.name}. Name the map of this annotation")
    left_out = int((symbols == "").sum())
    if left_out:
        imported.found.append(f"{path.name}: {left_out} of {len(symbols)} rows have no gene symbol and are left out")
    return symbols


def read_gene_map(path: Path) -> dict[str, str]:
    """Read a table of gene ids and symbols, without versions of the ids.

    The columns are `id` and `symbol` (or `gene_id` and `gene_name`, or Xena's `id` and `gene`).

    Raises:
        DataError: a column is absent, or an id has two symbols.
    """
    table = open_source(path)
    columns = {column.lower(): column for column in table.columns}
    key = next((columns[name] for name in ("id", "gene_id", "ensembl_id", "#id") if name in columns), None)
    symbol = next((columns[name] for name in ("symbol", "gene_name", "gene", "hugo_symbol") if name in columns), None)
    if key is None or symbol is None:
        raise DataError(f"{path}: has the columns {', '.join(table.columns[:8])}; expected id and symbol. Rename them")
    text = table.text([key, symbol])
    pairs = pd.DataFrame({"id": text[key].str.replace(r"\.\d+(_PAR_Y)?$", "", regex=True), "symbol": text[symbol]})
    pairs = pairs[pairs["symbol"] != ""].drop_duplicates()
    twice = int(pairs["id"].duplicated().sum())
    if twice:
        raise DataError(f"{path}: {twice} ids have several symbols. Keep one row per id")
    return dict(zip(pairs["id"], pairs["symbol"], strict=True))


def combine_genes(
    imported: Imported, path: Path, frame: pd.DataFrame, rule: Duplicates | None, *, is_expression: bool
) -> pd.DataFrame:
    """Return one column per gene.

    Raises:
        DataError: a gene has several columns, and there is no rule, or the rule adds logarithms.
    """
    repeated = frame.columns[frame.columns.duplicated()].unique()
    if not len(repeated):
        return frame
    what = f"{path.name}: {len(repeated)} genes stand in several rows (first {', '.join(map(repr, repeated[:3]))})"
    if rule is None:
        raise DataError(
            f"{path}: {what.partition(': ')[2]}. Say how they become one: --duplicates max, mean, or sum (sum for "
            "TPM or counts whose rows are parts of a gene)"
        )
    if rule == "sum" and (
        not is_expression or find_scale(frame.to_numpy(np.float32))[0] in ("logarithms", "z-scores or ratios")
    ):
        raise DataError(
            f"{path}: sums of logarithms, z-scores or copy numbers mean nothing. Use --duplicates max or mean"
        )
    grouped = frame.T.groupby(level=0, sort=False)
    combined: pd.DataFrame = {
        "max": lambda: grouped.max(),
        "mean": lambda: grouped.mean(),
        "sum": lambda: grouped.sum(min_count=1),
    }[rule]()
    imported.found.append(f"{what}; the {rule} of each is written")
    return combined.T


def _gene_column(table: Table) -> str:
    """Return the column of genes: the best known name that is not empty throughout, else the first column."""
    lower = {column.lower(): column for column in reversed(table.columns)}
    return next((lower[name] for name in _GENE_COLUMNS if name in lower), table.columns[0])
