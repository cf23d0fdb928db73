"""Find the columns of a clinical table by their names and values, with the evidence."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from client.importing.column_names import EventName, TimeName, match_case_id, match_event, match_slides, match_time
from client.importing.outcome import Question
from memamba_core.data.genomics.names import molecular_name
from memamba_core.data.tables import Table
from memamba_core.errors import DataError

__all__ = ["EVENT_WORDS", "Clinical", "find_clinical"]

EVENT_WORDS = {
    **dict.fromkeys(
        ("0", "0.0", "false", "alive", "living", "0:living", "lebend", "lebt", "vivant", "no", "nein", "non"), False
    ),
    **dict.fromkeys(
        (
            "1",
            "1.0",
            "true",
            "dead",
            "deceased",
            "1:deceased",
            "died",
            "verstorben",
            "tot",
            "décédé",
            "yes",
            "ja",
            "oui",
        ),
        True,
    ),
    **dict.fromkeys(("0:censored", "0:diseasefree", "0:progressionfree", "0:alive or dead tumor free"), False),
    **dict.fromkeys(("1:progression", "1:recurred/progressed", "1:dead with tumor"), True),
}
"""Words of registries in lower case -> True if the event happened."""
_LONGEST_MONTHS = 1320
"""Months of the longest life; a longer follow-up is in days."""
_MOST_EMPTY = 0.05
"""Largest share of empty cells in a column that is proposed: `days_to_death` is empty for all survivors."""


@dataclass
class Clinical:
    """Proposed settings of a clinical table."""

    table: Table
    settings: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, str] = field(default_factory=dict)
    questions: list[Question] = field(default_factory=list)


def find_clinical(table: Table, named: Mapping[str, str]) -> Clinical | None:
    """Propose the settings that read a table as the clinical one.

    Args:
        table: any table.
        named: role -> column, by a person. A table without one of these columns is no clinical table.

    Returns:
        The settings; None if the table has no column for one of patient, time and event.
    """
    columns = [column for column in table.columns if molecular_name(column) is None]
    if any(name not in table.columns for name in named.values()):
        return None
    case_id = named.get("case_id") or _best(columns, match_case_id)
    faults: list[DataError] = []
    times = (
        _usable_times(table, columns, faults)
        if "time" not in named
        else {named["time"]: _time_of(table, named["time"])}
    )
    events = {named["event"]: match_event(named["event"])} if "event" in named else _usable_events(table, columns)
    if case_id is not None and events and not times and faults:
        raise faults[0]
    if case_id is None or not times or not events:
        return None
    found = Clinical(table)
    found.settings["case_id"] = case_id
    slides = named.get("slides") or _slides(table, columns, case_id)
    if slides is not None:
        found.settings["slides"] = slides
        rows, patients = len(table.text([case_id])), table.text([case_id])[case_id].nunique()
        found.evidence["slides"] = f"{rows} rows of {patients} patients"
    time, event = _pair(times, events)
    _set_time(found, time, times)
    _set_event(found, event, events)
    if "tss" in columns:
        found.settings["tss"] = "tss"
    if table.decimal_mark is not None:
        found.settings["decimal_mark"] = table.decimal_mark
        found.evidence["decimal_mark"] = "given by --decimal-mark"
    return found


def _best(columns: list[str], rank: Any) -> str | None:
    ranked = sorted((place, column) for column in columns if (place := rank(column)) is not None)
    return ranked[0][1] if ranked else None


def _slides(table: Table, columns: list[str], case_id: str) -> str | None:
    """Return the best column named like slides that differs from the identifier."""
    return _best([column for column in columns if column != case_id], match_slides)


def _usable_times(table: Table, columns: list[str], faults: list[DataError]) -> dict[str, TimeName]:
    """Return the columns that are named like a follow-up time and hold one. `faults` takes the errors of others."""
    return {
        column: name
        for column in columns
        if (name := match_time(column)) is not None and name.unit != "years" and _is_time(table, column, faults)
    }


def _time_of(table: Table, column: str) -> TimeName:
    name = match_time(column) or TimeName(None, None)
    if name.unit == "years":
        raise DataError(
            f"{table.path}: column {column!r} is in years by its name; expected months or days. Export it so"
        )
    return name


def _is_time(table: Table, column: str, faults: list[DataError]) -> bool:
    try:
        times = table.times(column, "days")
    except DataError as error:
        faults.append(error)
        return False
    return bool(np.isnan(times).mean() <= _MOST_EMPTY and np.nanmin(times, initial=np.inf) >= 0)


def _usable_events(table: Table, columns: list[str]) -> dict[str, EventName | None]:
    return {
        column: name
        for column in columns
        if (name := match_event(column)) is not None and _codes(table, column) is not None
    }


def _codes(table: Table, column: str) -> npt.NDArray[np.bool_] | None:
    """Return the column as truth values; None if it holds something else or too many empty cells."""
    text = table.text([column])[column].str.lower()
    known = text.map(EVENT_WORDS)
    if (text == "").mean() > _MOST_EMPTY or known[text != ""].isna().any() or known.nunique() < 2:
        return None
    return known[text != ""].to_numpy(np.bool_)


def _pair(times: Mapping[str, TimeName], events: Mapping[str, EventName | None]) -> tuple[str, str]:
    """Return a time and an event of one endpoint: overall survival, else the first that agree in their names."""

    def badness(time: str, event: str) -> tuple[bool, int, bool]:
        name = events[event]
        of_time, of_event = times[time].endpoint, None if name is None else name.endpoint
        overall = sum(endpoint not in ("os", None) for endpoint in (of_time, of_event))
        return (of_time or "os") != (of_event or "os"), overall, times[time].unit is None

    pairs = [
        (badness(time, event), i, j, time, event) for i, time in enumerate(times) for j, event in enumerate(events)
    ]
    best = min(pairs)
    return best[3], best[4]


def _set_time(found: Clinical, column: str, times: Mapping[str, TimeName]) -> None:
    """Set the column and the unit: by the name, else by the values; say where the two disagree."""
    values = found.table.times(column, "days")
    values = values[np.isfinite(values)]
    unit, name = times[column].unit, times[column].unit
    middle = f"median {np.median(values):.4g}, nine of ten at most {np.quantile(values, 0.9):.4g}"
    if values.max(initial=0) > _LONGEST_MONTHS:
        by_values: Literal["days", "months"] | None = "days"
        why = f"{middle}; some are longer than a life in months"
    elif np.median(values) > 240:
        by_values, why = "days", f"{middle}; half of the patients would be observed for more than 20 years in months"
    elif np.quantile(values, 0.9) < 30:
        by_values, why = "months", f"{middle}; nine of ten patients would be observed for less than a month in days"
    else:
        by_values, why = None, middle
    found.settings |= {"time": column, "time_unit": unit or by_values or "months"}
    found.evidence["time"] = why
    if name is not None:
        found.evidence["time_unit"] = "name of the column"
        if by_values not in (None, name):
            text = f"the name of {column!r} says {name}, and its values say {by_values}: {why}."
            found.questions.append(Question("clinical.time_unit", text))
    elif by_values is None:
        text = f"is {column!r} in months or days? Its name does not say it, and its values may be either: {middle}."
        found.questions.append(Question("clinical.time_unit", text))
    else:
        found.evidence["time_unit"] = "values"
    others = [other for other in times if other != column]
    if others:
        names = ", ".join(map(repr, others[:8]))
        text = f"{names} may be follow-up times too. Is {column!r} the endpoint of the federation?"
        found.questions.append(Question("clinical.time", text))


def _set_event(found: Clinical, column: str, events: Mapping[str, EventName | None]) -> None:
    name = events[column]
    text = found.table.text([column])[column].str.lower()
    codes = text.map(EVENT_WORDS)
    words = sorted(set(text[codes.notna()]) - {"0", "1", "0.0", "1.0", "true", "false"})
    unknown = int(codes.isna().sum())
    means = "happened" if name is None else name.means
    ones = int((codes == True).sum())  # noqa: E712  codes may be empty
    share = f"{ones} of {len(text)} rows are {'1' if not words else 'of the word for 1'}"
    found.settings |= {"event": column, "event_means": means}
    holds = ", ".join(words) if words else "0 and 1 (or true and false)"
    found.evidence["event"] = f"{share}; holds {holds}" + (f"; {unknown} cells are none of these" if unknown else "")
    found.evidence["event_means"] = "meaning of the name; the files cannot prove it"
    if name is None or (column.lower().endswith("status") and not words):
        asked = f"does a 1 in {column!r} say that the event happened, or that the patient is censored? {share}."
        found.questions.append(Question("clinical.event_means", asked))
    others = [other for other in events if other != column]
    if others:
        asked = f"{', '.join(map(repr, others[:8]))} may be the event too. Is {column!r} that of the time?"
        found.questions.append(Question("clinical.event", asked))
