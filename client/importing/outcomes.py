"""Clinical tables that an import writes: patient, months, event and tissue source site."""

import numpy as np
import numpy.typing as npt
import pandas as pd

from client.importing.barcodes import tissue_source_site
from client.importing.outcome import Imported, Section
from memamba_core.errors import DataError

__all__ = ["CLINICAL_FILE", "GENOMICS_FILE", "add_clinical", "add_genomics"]

CLINICAL_FILE = "clinical.csv"
GENOMICS_FILE = "genomics.parquet"


def add_clinical(
    imported: Imported,
    file: str,
    cases: "pd.Series[str]",
    times: npt.NDArray[np.float64],
    events: "pd.Series[float]",
    unit: str,
    evidence: dict[str, str],
) -> None:
    """Add a clinical table of the patients whose follow-up is known, and count the others.

    Args:
        imported: takes the table, its section and the counts.
        file: name of the source, for messages.
        cases: the patient of each row.
        times: follow-up; NaN where unknown.
        events: 1 if the event happened, 0 if not, NaN where unknown.
        unit: `months` or `days`.
        evidence: setting -> why it has its value.

    Raises:
        DataError: a patient has two rows, or no patient is left.
    """
    twice = int(cases.duplicated().sum())
    if twice:
        raise DataError(f"{file}: {twice} rows repeat a patient. Keep one row per patient")
    known = np.isfinite(times) & (times >= 0) & events.notna().to_numpy() & (cases != "").to_numpy()
    if not known.any():
        raise DataError(f"{file}: no patient has a follow-up time of 0 or more and an event. Check its columns")
    lost = int((~known).sum())
    if lost:
        negative = int((times < 0).sum())
        imported.found.append(
            f"{file}: {lost} of {len(cases)} patients are left out, without a time of 0 or more ({negative} "
            "negative) or without a known status"
        )
    column = f"survival_{unit}"
    frame = pd.DataFrame(
        {"case_id": cases[known], column: times[known], "event": events[known].astype(int)}
    ).reset_index(drop=True)
    settings = {"file": CLINICAL_FILE, "case_id": "case_id", "time": column, "time_unit": unit, "event": "event"}
    settings["decimal_mark"] = "point"  # 137.0 and 1.903 days, as they are written here, would be ambiguous
    codes = frame["case_id"].map(tissue_source_site)
    if (codes != "").all():
        frame["tss"] = codes
        settings["tss"] = "tss"
    imported.tables[CLINICAL_FILE] = frame
    imported.sections = {"clinical": Section(settings, evidence), **imported.sections}


def add_genomics(imported: Imported, parts: list[pd.DataFrame]) -> None:
    """Add a molecular table: the parts side by side, empty where a part lacks a patient."""
    if not parts:
        return
    joined = pd.concat(parts, axis=1)
    joined.index.name = "case_id"
    imported.tables[GENOMICS_FILE] = joined.reset_index()
    kinds = {kind: sum(c.endswith(f"_{kind}") for c in joined.columns) for kind in ("rnaseq", "cnv", "mut")}
    evidence = {"file": ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)}
    imported.sections["genomics"] = Section({"file": GENOMICS_FILE, "case_id": "case_id"}, evidence)
