"""Format `xena`: matrices and a survival table of UCSC Xena."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from client.importing.barcodes import choose_samples, parse_sample
from client.importing.clinical_columns import EVENT_WORDS
from client.importing.matrix import read_gene_matrix
from client.importing.options import ImportOptions
from client.importing.outcome import Imported
from client.importing.outcomes import add_clinical, add_genomics
from client.importing.sources import open_source
from memamba_core.data.tables import Table
from memamba_core.errors import DataError

__all__ = ["read"]

_GISTIC = ("gistic", "cnv", "copynumber", "copy_number")
"""Words in the names of files of copy numbers; other matrices are of expression."""


def read(sources: Sequence[Path], options: ImportOptions) -> Imported:
    """Read a survival table with `OS` and `OS.time` (days), a matrix of expression, and one of copy numbers.

    Args:
        sources: the files.
        options: `columns` names another endpoint (`PFI`, `PFI.time`); the others as for matrices.

    Raises:
        DataError: not exactly one file has the columns of survival, or several are matrices of one kind.
    """
    imported = Imported({})
    time, event = options.columns.get("time", "OS.time"), options.columns.get("event", "OS")
    tables = [open_source(path, options.decimal_mark) for path in sources]
    survival = [table for table in tables if time in table.columns and event in table.columns]
    matrices = [table.path for table in tables if table not in survival]
    if len(survival) != 1:
        raise DataError(
            f"{len(survival)} of the files {', '.join(path.name for path in sources)} have the columns {time} and "
            f"{event}; expected one, the survival table. Name it, or other columns: --column time=NAME --column "
            "event=NAME"
        )
    _read_survival(imported, survival[0], time, event, options)
    parts = []
    for kind in ("rnaseq", "cnv"):
        files = [path for path in matrices if any(word in path.name.lower() for word in _GISTIC) == (kind == "cnv")]
        if len(files) > 1:
            names = ", ".join(path.name for path in files)
            raise DataError(f"{names}: several matrices of {kind}. Name one of them")
        parts += [read_gene_matrix(imported, path, kind, options) for path in files]
    if not parts:
        raise DataError(f"{survival[0].path}: is the only file; there is nothing to learn from. Name a matrix too")
    add_genomics(imported, parts)
    return imported


def _read_survival(imported: Imported, table: Table, time: str, event: str, options: ImportOptions) -> None:
    """Read the rows of the chosen samples: a patient has one row for each sample, with one follow-up."""
    key = options.columns.get("case_id", "sample" if "sample" in table.columns else table.columns[0])
    text = table.text([key, time, event])
    times = table.times(time, "days")
    events = text[event].str.lower().map(EVENT_WORDS).astype(float)
    words = text[event].str.lower()
    table.refuse(
        event, events.isna() & ~words.isin(["", "na", "nan"]), "is no 0 and no 1", "Name the column of the event"
    )
    patients = text[key].map(lambda name: parse_sample(name).patient)
    first = patients.map(dict(zip(patients[::-1], range(len(patients))[::-1], strict=True))).to_numpy()
    differs = ~((times == times[first]) | (np.isnan(times) & np.isnan(times[first])))
    differs |= events.fillna(-1).to_numpy() != events.fillna(-1).to_numpy()[first]
    table.refuse(
        time, differs, "contradicts an earlier row of the same patient", "Correct it: a patient has one follow-up"
    )
    chosen = choose_samples(imported, table.path.name, list(text[key]), None, options.sample_types)
    places = list(chosen.values())
    cases = text[key].iloc[places].map(lambda name: parse_sample(name).patient).reset_index(drop=True)
    evidence = {
        "time": f"{time} of {table.path.name}, in days",
        "event": f"{event} of {table.path.name}",
    }
    add_clinical(
        imported, table.path.name, cases, times[places], events.iloc[places].reset_index(drop=True), "days", evidence
    )
