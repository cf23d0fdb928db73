"""Read the clinical table: patients, follow-up times, events and slides."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.event_codes import parse_events
from memamba_core.data.clinical.slide_lists import is_ambiguous_list, split_slides
from memamba_core.data.identifiers.canonical import canonical_column
from memamba_core.data.identifiers.key_columns import parse_keys
from memamba_core.data.identifiers.slide_names import listed_slide
from memamba_core.data.records import PatientRecord
from memamba_core.data.tables import Table, open_table

__all__ = ["DAYS_PER_MONTH", "read_clinical"]

DAYS_PER_MONTH = 30.4375
"""Days of a month: a twelfth of 365.25 days."""


def read_clinical(config: ClinicalTable, root: Path) -> list[PatientRecord]:
    """Read a site's patients, without molecular data and fold.

    The table has one row per patient, or one row per slide with the patient's row
    repeated. Columns are named by `config`: the patient's identifier; the follow-up time in months or days,
    zero or more; the event or its censoring as `parse_events` reads it; optionally slide names (with or without
    folder and extension, a list as `split_slides` reads it) and the tissue source site. All other columns are ignored.

    Args:
        config: the file and its columns.
        root: folder that `config.file` is relative to.

    Returns:
        One record per patient, in the order of the table.

    Raises:
        DataError: a column is missing; an identifier is empty; a time is empty, no number or negative; an event is of
            no known coding; a list of slides is ambiguous; a patient has several rows that name no further slide, or
            that differ in time, event or tissue source site; a slide is listed twice.
    """
    table = open_table(root / config.file, config)
    columns = {"case_id": config.case_id, "time": config.time, "event": config.event}
    columns |= {} if config.slides is None else {"slides": config.slides}
    columns |= {} if config.tss is None else {"tss": config.tss}
    for setting, column in columns.items():
        table.require(column, f"data.clinical.{setting}")
    text = table.text(list(dict.fromkeys(columns.values())))
    case_ids = parse_keys(table, config.case_id, text[config.case_id])
    table.refuse(config.case_id, case_ids == "", "is empty", "Write the patient's identifier, or take the row out")
    events = parse_events(table, text[config.event], config)
    months = _parse_months(table, text[config.time], config, events)
    codes = None if config.tss is None else canonical_column(text[config.tss]).to_numpy(object)
    repeated = case_ids.duplicated().to_numpy()
    if config.slides is None:
        remedy = "Keep one row per patient, or name the column of slides in data.clinical.slides"
        table.refuse(config.case_id, repeated, "repeats a patient", remedy)
    constant: dict[str, npt.NDArray[Any]] = {config.time: months, config.event: events}
    first = _first_rows(case_ids)
    for column, values in (constant if config.tss is None else constant | {config.tss: np.asarray(codes)}).items():
        what = "contradicts an earlier row of the same patient"
        remedy = "Correct it: the rows of one patient differ in the slide only"
        table.refuse(column, values != values[first], what, remedy)
    slides = {} if config.slides is None else _parse_slides(table, case_ids, config.slides, text[config.slides])
    return [
        PatientRecord(
            case_id=case_ids[row],
            time_months=float(months[row]),
            event=bool(events[row]),
            slides=slides.get(case_ids[row], ()),
            tss=None if codes is None else codes[row] or None,
        )
        for row in np.flatnonzero(~repeated).tolist()
    ]


def _parse_months(
    table: Table, text: "pd.Series[str]", config: ClinicalTable, events: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Return the follow-up of each row in months."""
    remedy = f"Write the time to the event or the last visit in {config.time_unit}, or take the row out"
    times = table.times(config.time, config.time_unit)
    if np.array_equal(np.isfinite(times), events) and not events.all() and events.any():
        what = "has no number in any row without the event, as a column of the time to death has, and so"
        table.refuse(config.time, ~events, what, f"Write the time to the last visit there, in {config.time_unit}")
    table.refuse(config.time, text == "", "is empty", remedy)
    table.refuse(config.time, ~np.isfinite(times), "is not a finite number", remedy)
    table.refuse(config.time, times < 0, "is negative", remedy)
    return times / DAYS_PER_MONTH if config.time_unit == "days" else times


def _first_rows(case_ids: "pd.Series[str]") -> npt.NDArray[np.int64]:
    """Return for each row the first row of the same patient."""
    codes, unique = pd.factorize(case_ids)
    first = np.full(len(unique), len(codes), np.int64)
    np.minimum.at(first, codes, np.arange(len(codes)))
    return first[codes]


def _parse_slides(
    table: Table, case_ids: "pd.Series[str]", column: str, text: "pd.Series[str]"
) -> dict[str, tuple[str, ...]]:
    """Return case id -> names of the slides in the order of the table; a patient without a slide has no entry."""
    what = "holds a comma that may separate slides or belong to a name"
    remedy = "Write ; between slides, and behind a single name that holds a comma"
    table.refuse(column, text.map(is_ambiguous_list), what, remedy)
    listed = pd.DataFrame({"case": case_ids, "slide": text.map(split_slides), "row": np.arange(len(text))})
    listed = listed.explode("slide", ignore_index=True)
    listed["slide"] = listed["slide"].map(listed_slide)
    named = listed[listed["slide"] != ""]

    silent = ~np.isin(np.arange(len(text)), named["row"])
    what = "repeats a patient without naming another slide"
    remedy = "Keep one row per patient, or one per slide"
    table.refuse(str(case_ids.name), silent & case_ids.duplicated(keep=False).to_numpy(), what, remedy)

    again = named[named["slide"].duplicated()]
    owner = named.drop_duplicates("slide").set_index("slide")["case"]
    foreign = again["case"].to_numpy() != again["slide"].map(owner).to_numpy()
    for bad, what in (
        (again[foreign], "lists a slide of another patient"),
        (again, "lists a slide a second time"),
    ):
        rows = np.isin(np.arange(len(text)), bad["row"])
        table.refuse(column, rows, what, "A slide belongs to one patient and is listed once")
    return {str(case): tuple(slides) for case, slides in named.groupby("case", sort=False)["slide"]}
