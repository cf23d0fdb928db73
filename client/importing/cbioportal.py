"""Format `cbioportal`: the folder of a study, or its files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.importing.barcodes import Sample, parse_sample, sample_kind
from client.importing.clinical_columns import EVENT_WORDS
from client.importing.matrix import read_gene_matrix
from client.importing.mutations import read_mutations, read_sample_list
from client.importing.options import ImportOptions
from client.importing.outcome import Imported
from client.importing.outcomes import add_clinical, add_genomics
from client.importing.sources import open_source
from memamba_core.errors import DataError

__all__ = ["read"]

_ABSENT = frozenset({"", "[not available]", "[not applicable]", "[unknown]", "[discrepancy]", "[completed]", "na"})


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Read a study: `data_clinical_patient.txt`, and what there is of expression, copy number and mutations.

    Args:
        sources: the folder, or single files.
        options: `columns` names another endpoint than OS_MONTHS and OS_STATUS; the others as for matrices and MAF.

    Raises:
        DataError: a file is absent or differs from cBioPortal's format.
    """
    files = _files(sources)
    imported = Imported({})
    sheet = _read_sheet(files["data_clinical_sample"][0]) if files["data_clinical_sample"] else None
    _read_patients(imported, _only(imported, files, "data_clinical_patient"), options)
    parts = []
    if files["data_mrna"]:
        path = _only(imported, files, "data_mrna")
        parts.append(read_gene_matrix(imported, path, "rnaseq", options, sheet))
    if files["data_cna"]:
        parts.append(read_gene_matrix(imported, _only(imported, files, "data_cna"), "cnv", options, sheet))
    if files["data_mutations"]:
        lists = [options.samples] if options.samples else files["cases_sequenced"]
        measured = read_sample_list(lists[0]) if lists else None
        path = _only(imported, files, "data_mutations")
        parts.append(read_mutations(imported, path, options, measured, sheet))
    add_genomics(imported, parts)
    if not parts:
        raise DataError(f"{sources[0]}: has no data_mrna*, data_cna or data_mutations file. Name the study's folder")
    return imported


def _files(sources: Sequence[Path]) -> dict[str, list[Path]]:
    """Return the files of each kind; the best one first where there are several."""
    found: list[Path] = []
    for source in sources:
        found += sorted([*source.glob("*"), *source.glob("case_lists/*")]) if source.is_dir() else [source]
    kinds = {
        kind: [path for path in found if path.name.lower().startswith(kind)]
        for kind in ("data_clinical_patient", "data_clinical_sample", "data_mrna", "data_mutations", "cases_sequenced")
    }
    kinds["data_cna"] = [path for path in found if path.name.lower().partition(".")[0] == "data_cna"]
    kinds["data_mrna"].sort(
        key=lambda path: ("zscores" in path.name.lower(), "rsem" not in path.name.lower(), path.name)
    )
    if not kinds["data_clinical_patient"]:
        raise DataError(
            f"{sources[0]}: has no data_clinical_patient.txt. Name the folder of the study, or this file too"
        )
    return kinds


def _only(imported: Imported, files: dict[str, list[Path]], kind: str) -> Path:
    """Return the best file of a kind; others are a question."""
    first, *others = files[kind]
    if others:
        names = ", ".join(path.name for path in others[:8])
        imported.ask("genomics.file", f"{first.name} was read, and not {names}. Name single files to read another one.")
    return first


def _read_sheet(path: Path) -> dict[str, Sample]:
    """Return sample -> patient and type, from `data_clinical_sample.txt`."""
    table = open_source(path)
    for column in ("PATIENT_ID", "SAMPLE_ID"):
        table.require(column)
    has_type = "SAMPLE_TYPE" in table.columns
    text = table.text(["PATIENT_ID", "SAMPLE_ID", *(["SAMPLE_TYPE"] if has_type else [])])
    table.refuse("SAMPLE_ID", text["SAMPLE_ID"].duplicated(), "repeats a sample", "Keep one row per sample")
    kinds = text["SAMPLE_TYPE"].map(sample_kind) if has_type else [""] * len(text)
    samples = {}
    for name, patient, kind in zip(text["SAMPLE_ID"], text["PATIENT_ID"], kinds, strict=True):
        barcode = parse_sample(name)  # its code says more than the words: `Primary` is 01 and 03
        samples[name] = Sample(patient, barcode.kind or kind, is_barcode=barcode.is_barcode)
    return samples


def _read_patients(imported: Imported, path: Path, options: ImportOptions) -> None:
    table = open_source(path, options.decimal_mark)
    time = options.columns.get("time", "OS_MONTHS")
    status = options.columns.get("event", "OS_STATUS")
    case_id = options.columns.get("case_id", "PATIENT_ID")
    for column in (case_id, time, status):
        table.require(column)
    text = table.text([case_id, time, status])
    words = text[status].str.lower()
    events = words.map(EVENT_WORDS).astype(float)
    bad = events.isna() & ~words.isin(_ABSENT)
    table.refuse(
        status, bad, "holds unknown words", "Expected 1:DECEASED and 0:LIVING, or the like. Name another column"
    )
    unit = "days" if "days" in time.lower() else "months"
    times = table.times(time, "days" if unit == "days" else "months")
    table.refuse(
        time, np.isnan(times) & ~text[time].str.lower().isin(_ABSENT), "is no number", "Correct it, or leave it empty"
    )
    evidence = {
        "time": f"{time} of {path.name}",
        "time_unit": "name of the column",
        "event": f"{status} of {path.name}",
    }
    add_clinical(imported, path.name, text[case_id], times, events, unit, evidence)
