"""Format `gdc`: clinical TSV, sample sheet and STAR counts of the Genomic Data Commons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.importing.barcodes import Sample, choose_samples, parse_sample, sample_kind
from client.importing.matrix import finish_matrix, read_gene_matrix, symbols_of
from client.importing.options import ImportOptions
from client.importing.outcome import Imported
from client.importing.outcomes import add_clinical, add_genomics
from client.importing.sources import open_source
from memamba_core.data.tables import Table, is_table
from memamba_core.errors import DataError

__all__ = ["read"]

_ABSENT = frozenset({"", "'--", "--", "not reported", "unknown", "not applicable"})
_VALUES = "tpm_unstranded"
"""Column of a file of STAR counts that is read."""


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Read `clinical.tsv`, and expression: one file per sample with the sample sheet, or a merged matrix.

    Args:
        sources: files, and folders whose tables are read with those of their folders (`gdc-client download`).
        options: as for matrices. `decimal_mark` is not that of STAR counts, which a program wrote.

    Raises:
        DataError: a file is absent, rows of a patient contradict each other, or a file of counts is not in the sheet.
    """
    imported = Imported({})
    clinical: list[Table] = []
    sheets: list[Table] = []
    counts: list[Path] = []
    matrices: list[Path] = []
    for path in _files(sources):
        if "star_gene_counts" in path.name.lower():
            counts.append(path)
            continue
        table = open_source(path, options.decimal_mark)
        names = {column.rpartition(".")[2].lower() for column in table.columns}
        if {"vital_status", "days_to_death"} <= names:
            clinical.append(table)
        elif "File Name" in table.columns:
            sheets.append(table)
        elif path != options.gene_map and len(table.columns) > 2 and len(_numeric_names(table)) > 1:
            matrices.append(path)
    if len(clinical) != 1:
        raise DataError(
            f"{len(clinical)} of the files have the columns vital_status and days_to_death; expected one, "
            "clinical.tsv of GDC's export. Name it as a source"
        )
    _read_clinical(imported, clinical[0])
    if counts:
        add_genomics(imported, [_read_counts(imported, counts, sheets, options)])
    elif len(matrices) == 1:
        add_genomics(imported, [read_gene_matrix(imported, matrices[0], "rnaseq", options)])
    else:
        listed = ", ".join(path.name for path in matrices) or "none"
        raise DataError(
            f"{sources[0]}: expected files *star_gene_counts.tsv or one merged matrix; matrices are {listed}"
        )
    return imported


def _files(sources: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for source in sources:
        below = sorted([*source.glob("*"), *source.glob("*/*")]) if source.is_dir() else [source]
        if source.is_dir():
            below = [
                path for path in below if path.is_file() and is_table(path.name) and "annotations" not in path.name
            ]
        found += below
    return list(dict.fromkeys(found))


def _numeric_names(table: Table) -> list[str]:
    """Return the columns that are named by barcodes."""
    return [column for column in table.columns if parse_sample(column).is_barcode]


def _read_clinical(imported: Imported, table: Table) -> None:
    """Read follow-up: days to death of the dead, else the latest last follow-up; a case has several rows."""
    columns = {column.rpartition(".")[2].lower(): column for column in reversed(table.columns)}
    # In GDC's newer exports `cases.case_id` is a UUID, `cases.submitter_id` the barcode, and other parts have ids too.
    columns |= {"submitter_id": "cases.submitter_id"} if "cases.submitter_id" in table.columns else {}
    case = next((columns[name] for name in ("case_submitter_id", "submitter_id", "case_id") if name in columns), None)
    last = columns.get("days_to_last_follow_up")
    if case is None or last is None:
        raise DataError(
            f"{table.path}: lacks a column case_submitter_id or days_to_last_follow_up. Export the clinical TSV again"
        )
    text = table.text([case, columns["vital_status"], columns["days_to_death"], last])
    days = {"death": table.times(columns["days_to_death"], "days"), "last": table.times(last, "days")}
    text.columns = pd.Index(["case", "status", "death", "last"])
    text = text.mask(text.apply(lambda column: column.str.lower().isin(_ABSENT)), "")
    for name in ("death", "last"):
        number = pd.Series(days[name])
        shown = columns["days_to_death"] if name == "death" else last
        table.refuse(shown, number.isna() & (text[name] != ""), "is no number", "Correct it, or leave it empty")
        text[name] = number
    text["status"] = text["status"].str.lower()
    bad = ~text["status"].isin(["alive", "dead", ""])
    table.refuse(columns["vital_status"], bad, "is neither Alive nor Dead", "Correct it, or leave it empty")
    text["dead"] = text["status"].map({"dead": 1.0, "alive": 0.0})
    grouped = text.groupby("case", sort=False)
    for name, shown in (("dead", columns["vital_status"]), ("death", columns["days_to_death"])):
        several = int((grouped[name].nunique() > 1).sum())
        if several:
            raise DataError(f"{table.path}: column {shown!r} differs between the rows of {several} cases. Correct it")
    frame = grouped.agg(dead=("dead", "first"), death=("death", "first"), last=("last", "max")).reset_index()
    times: npt.NDArray[np.float64] = frame["death"].where(frame["dead"] == 1, frame["last"]).to_numpy(np.float64)
    undated = int(((frame["dead"] == 1) & frame["death"].isna()).sum())
    imported.found.append(
        f"{table.path.name}: {len(text)} rows of {len(frame)} cases; {undated} are dead without a day of death"
    )
    evidence = {
        "time": "days_to_death of the dead, else the latest days_to_last_follow_up",
        "event": "vital_status is Dead",
    }
    add_clinical(imported, table.path.name, frame["case"], times, frame["dead"], "days", evidence)


def _read_counts(
    imported: Imported, counts: Sequence[Path], sheets: Sequence[Table], options: ImportOptions
) -> pd.DataFrame:
    """Read one file of STAR counts per sample; the sample sheet names the patient of each file."""
    if len(sheets) != 1:
        raise DataError(
            f"{len(sheets)} sample sheets with a column File Name; expected one, which names the case of each file"
        )
    sheet = sheets[0]
    for column in ("Case ID", "Sample ID", "Sample Type"):
        sheet.require(column)
    text = sheet.text(["File Name", "Case ID", "Sample ID", "Sample Type"])
    of_file = {}
    for file, case, sample, kind in text.itertuples(index=False, name=None):
        barcode = parse_sample(sample)
        of_file[file] = (sample, Sample(case, barcode.kind or sample_kind(kind), is_barcode=barcode.is_barcode))
    unknown = sum(path.name not in of_file for path in counts)
    if unknown:
        raise DataError(
            f"{sheet.path}: lacks {unknown} of {len(counts)} files of counts. Download the sheet of these files"
        )
    samples = [of_file[path.name][0] for path in counts]
    known = {of_file[path.name][0]: of_file[path.name][1] for path in counts}
    chosen = choose_samples(imported, f"{len(counts)} files of STAR counts", samples, known, options.sample_types)
    columns: dict[str, npt.NDArray[np.float32]] = {}
    first, names = pd.Series(dtype=str), pd.Series(dtype=str)
    for patient, place in chosen.items():
        table = open_source(counts[place])
        for column in ("gene_id", "gene_name", _VALUES):
            table.require(column)
        genes = table.text(["gene_id", "gene_name"])
        is_gene = ~genes["gene_id"].str.startswith("N_")
        ids = genes["gene_id"][is_gene].reset_index(drop=True)
        if not columns:
            first, names = ids, genes["gene_name"][is_gene].reset_index(drop=True)
        elif not ids.equals(first):
            raise DataError(f"{counts[place]}: lists other genes than {counts[0].name}. Read files of one annotation")
        columns[patient] = table.numbers([_VALUES])[is_gene.to_numpy(), 0]
    imported.found.append(f"expression is column {_VALUES}: transcripts per million, not logarithms")
    path = counts[0].with_name("STAR counts")
    symbols = symbols_of(imported, path, first if options.gene_map else names, options.gene_map)
    named = (symbols != "").to_numpy()
    frame = pd.DataFrame(
        np.stack(list(columns.values()))[:, named], index=list(columns), columns=symbols[named].tolist()
    )
    return finish_matrix(imported, path, frame, "rnaseq", options)
