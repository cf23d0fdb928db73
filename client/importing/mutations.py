"""Mutation annotation format (MAF): one row per mutation, turned into one column of 0 and 1 per gene."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from client.importing.barcodes import PRIMARY, Sample, choose_samples, parse_sample
from client.importing.options import ImportOptions
from client.importing.outcome import Imported
from client.importing.sources import open_source
from memamba_core.errors import DataError

__all__ = ["read_mutations", "read_sample_list"]

NON_SILENT = frozenset(
    {
        *("frame_shift_del", "frame_shift_ins", "in_frame_del", "in_frame_ins", "missense_mutation"),
        *("nonsense_mutation", "nonstop_mutation", "splice_site", "translation_start_site"),
    }
)
"""Classes of mutations that change a protein, in lower case, as maftools counts them."""
SILENT = frozenset(
    {
        *("silent", "intron", "3'utr", "5'utr", "3'flank", "5'flank", "igr", "rna", "lincrna", "splice_region"),
        *("targeted_region", "de_novo_start_outofframe", "de_novo_start_inframe", "synonymous_variant"),
    }
)
MIN_PATIENTS = 10
"""Fewest patients with a mutation of a gene that is written by default, the default of `disclosure.min_patients`."""


def read_mutations(
    imported: Imported,
    path: Path,
    options: ImportOptions,
    measured: Sequence[str] | None,
    sheet: Mapping[str, Sample] | None = None,
) -> pd.DataFrame:
    """Read a MAF into columns `SYMBOL_mut`: 1 if the patient's sample has a non-silent mutation of the gene, else 0.

    Args:
        imported: takes findings and questions.
        path: the MAF.
        options: `genes`, `min_patients`, `sample_types`.
        measured: all samples that were sequenced. None: only samples with a mutation are known to be, and other
            patients count as not measured, which is a question.
        sheet: sample -> patient and type.

    Returns:
        One row per sequenced patient (index: the identifiers), float32.

    Raises:
        DataError: a column is absent, no mutation is left, or a sample of the MAF is not among the sequenced ones.
    """
    table = open_source(path)
    gene, sample, kind = ("Hugo_Symbol", "Tumor_Sample_Barcode", "Variant_Classification")
    for column in (gene, sample, kind):
        table.require(column)
    rows = table.text([gene, sample, kind])
    table.refuse(
        sample, rows[sample] == "", "is empty", "A mutation belongs to a sample: correct the rows or take them out"
    )
    classes = rows[kind].str.lower()
    unknown = sorted(set(rows[kind][~classes.isin(NON_SILENT | SILENT)]))
    if unknown:
        imported.ask(
            "genomics.file",
            f"{path.name}: {int((~classes.isin(NON_SILENT | SILENT)).sum())} rows are of classes that are not known "
            f"to change a protein and are left out: {', '.join(map(repr, unknown[:8]))}.",
        )
    # Vials and portions of one sample are one sample here.
    forms = rows[sample].map(_same_form)
    listed = list(dict.fromkeys(forms if measured is None else map(_same_form, measured)))
    if not any(parse_sample(name).kind for name in listed):  # a list of patients
        forms = forms.map(lambda name: _patient_of(name, options.sample_types or PRIMARY))
    foreign = set(forms) - {"", *listed}
    if foreign:
        raise DataError(
            f"{path}: {len(foreign)} samples are not in the list of sequenced samples. Name the list of this file with "
            "--samples, or complete it"
        )
    chosen = choose_samples(imported, path.name, listed, sheet, options.sample_types)
    if measured is None:
        imported.ask(
            "genomics.file",
            f"{path.name} names {len(chosen)} patients with mutations. Patients without any are not in a MAF: they "
            "count as not measured, and not as 0. Give the list of all sequenced samples: --samples FILE.",
        )
    patient_of = {listed[place]: patient for patient, place in chosen.items()}
    kept = classes.isin(NON_SILENT) & forms.isin(patient_of) & (rows[gene] != "")
    pairs = pd.DataFrame({"gene": rows[gene][kept], "patient": forms[kept].map(patient_of)}).drop_duplicates()
    genes = _choose_genes(imported, path, pairs, options)
    imported.found.append(
        f"{path.name}: {len(rows)} mutations, {int(classes.isin(NON_SILENT).sum())} of them non-silent; {len(genes)} "
        f"genes are written for {len(chosen)} patients"
    )
    pairs = pairs[pairs["gene"].isin(genes)]
    values_PC = np.zeros((len(chosen), len(genes)), np.float32)
    rows_of, columns_of = pd.Index(list(chosen)), pd.Index(genes)
    values_PC[rows_of.get_indexer(pd.Index(pairs["patient"])), columns_of.get_indexer(pd.Index(pairs["gene"]))] = 1
    return pd.DataFrame(values_PC, index=rows_of, columns=columns_of).add_suffix("_mut")


def _choose_genes(imported: Imported, path: Path, pairs: pd.DataFrame, options: ImportOptions) -> list[str]:
    """Return the genes of the columns: those of the list, else those of enough patients, sorted."""
    if options.genes is not None:
        table = open_source(options.genes)
        genes = [table.columns[0], *table.text([table.columns[0]])[table.columns[0]]]
        named = {"gene", "symbol", "hugo_symbol", "gene_symbol", "genes", ""}
        return list(dict.fromkeys(gene for gene in genes if gene.lower() not in named))
    counts = pairs["gene"].value_counts()
    fewest = MIN_PATIENTS if options.min_patients is None else options.min_patients
    genes = sorted(counts.index[counts >= fewest])
    if not genes:
        raise DataError(
            f"{path}: no gene is mutated in {fewest} or more patients. Lower --min-patients, or name the genes with "
            "--genes"
        )
    imported.ask(
        "genomics",
        f"the genes of {path.name} are those mutated in {fewest} or more patients: the list depends on the patients, "
        "and it leaves the site. With `privacy`, give a public list instead: --genes FILE. All sites should use one "
        "list.",
    )
    return genes


def read_sample_list(path: Path) -> list[str]:
    """Read the samples that were measured: a table with a column of samples, or a case list of cBioPortal.

    Raises:
        DataError: no column is named as one of samples or patients.
    """
    if path.name.startswith("cases_"):
        lines = path.read_text(encoding="utf-8").splitlines()
        listed = [line.partition(":")[2] for line in lines if line.startswith("case_list_ids:")]
        return listed[0].split() if listed else []
    table = open_source(path)
    known = ("sample_id", "sample", "tumor_sample_barcode", "sample id", "case_id", "patient_id", "patient")
    columns = {column.lower(): column for column in reversed(table.columns)}
    column = next((columns[name] for name in known if name in columns), None)
    if column is None:
        raise DataError(
            f"{path}: has the columns {', '.join(table.columns[:8])}; expected one named sample_id. Rename it"
        )
    return [name for name in table.text([column])[column] if name]


def _patient_of(name: str, kinds: Sequence[str]) -> str:
    """Return the patient of a sample, '' if it is of another type."""
    sample = parse_sample(name)
    return sample.patient if not sample.kind or sample.kind in kinds else ""


def _same_form(name: str) -> str:
    """Return patient and type of a barcode, which a MAF writes with vial and portion; other names as they are."""
    sample = parse_sample(name)
    return f"{sample.patient}-{sample.kind}" if sample.is_barcode and sample.kind else sample.patient
