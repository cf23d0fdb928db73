"""Doubts about follow-up times: a wrong unit, or a column that holds something else (dates, ages, numbers of rows).

The bounds come from what a cancer cohort can look like; docs/reference/data.md gives them with their source.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.repeated_times import find_repeated_times
from memamba_core.data.clinical.table import DAYS_PER_MONTH
from memamba_core.data.doubt import Doubt
from memamba_core.data.records import PatientRecord

__all__ = ["FollowUp", "find_follow_up_doubts"]

FEWEST = 10
"""Fewest patients whose quartiles are compared with the bounds."""
LONGEST_QUARTILE = 240.0
"""Upper quartile of follow-up, in months, above which days (or weeks) were likely read as months."""
LONGEST = 720.0
"""Follow-up in months, 60 years, that no patient has; 24 years in the six TCGA cohorts."""
SHORTEST_MEDIAN, SHORTEST_QUARTILE = 4.0, 6.0
"""Median and upper quartile, in months, below which years were likely read as months, or months as days."""
HIGHEST_RATE = 2.5
"""Events per patient-year, above which follow-up is likely too short: half of the patients within 3.3 months."""
MOST = 0.95
"""Share of the patients that must fit another reading of the column."""

_UNIT_IN_NAME = {
    "days": re.compile(r"((?<![a-z])(days?|jours?)|tage?n?)(?![a-z])"),
    "months": re.compile(r"((?<![a-z])(months?|mths?|mos?|mois)|monate?n?)(?![a-z])"),
    "years": re.compile(r"((?<![a-z])(years?|yrs?|ann?[eé]es?|ans)|jahre?n?)(?![a-z])"),
    "weeks": re.compile(r"((?<![a-z])(weeks?|wks?|semaines?)|wochen?)(?![a-z])"),
}


class FollowUp:
    """Follow-up of the patients of a table, in the order of the table.

    Attributes:
        table: the settings it was read by.
        months: months to the event or the last visit.
        cells: the same in the unit of the table, as its cells hold it.
        event: True where the event happened.
        case_ids: identifiers.
    """

    def __init__(self, records: Sequence[PatientRecord], table: ClinicalTable) -> None:
        self.table = table
        self.case_ids = [r.case_id for r in records]
        self.months: npt.NDArray[np.float64] = np.array([r.time_months for r in records], np.float64)
        self.event: npt.NDArray[np.bool_] = np.array([r.event for r in records], np.bool_)
        # Rounded, because a division and a multiplication do not give the cell back to the last digit.
        self.cells = self.months if table.time_unit == "months" else np.round(self.months * DAYS_PER_MONTH, 6)

    @property
    def events_per_year(self) -> float:
        """Events per patient-year; 0 without any follow-up."""
        years = self.months.sum() / 12
        return float(self.event.sum() / years) if years else 0.0

    def describe(self) -> str:
        """Describe median, quartiles and events per patient-year."""
        low, median, high = np.quantile(self.months, (0.25, 0.5, 0.75))
        return (
            f"median follow-up {_months(median)} months (quartiles {_months(low)} and {_months(high)}), "
            f"{self.events_per_year:.2g} events per patient-year"
        )


def find_follow_up_doubts(records: Sequence[PatientRecord], table: ClinicalTable) -> Iterator[Doubt]:
    """Doubt follow-up times that no cancer cohort has.

    Args:
        records: all patients of the clinical table, in its order.
        table: the settings that they were read by.
    """
    if not records:
        return
    data = FollowUp(records, table)
    where = f"column {table.time!r} of {table.file}"
    other = _other_quantity(data)
    if other is not None:
        yield Doubt("follow-up", f"{where} {other}", "name the column of the follow-up time in data.clinical.time")
        return
    repeated = list(find_repeated_times(data.cells, data.event))
    for what, remedy, _ in repeated:
        yield Doubt("follow-up", f"{where}: {what}", remedy)
    plausible = np.logical_not(np.logical_or.reduce([rows for _, _, rows in repeated] or [np.zeros(1, np.bool_)]))
    months = data.months[np.broadcast_to(plausible, data.months.shape)]
    named = _unit_of_the_name(data)
    if named is not None:
        yield named
    elif months.size:
        yield from _unit(months, data)


def _unit_of_the_name(data: FollowUp) -> Doubt | None:
    """Doubt a unit that the name of the column contradicts."""
    table = data.table
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", table.time).lower().replace("_", " ")
    units = [unit for unit, pattern in _UNIT_IN_NAME.items() if pattern.search(name)]
    if not units or table.time_unit in units:
        return None
    return Doubt(
        "follow-up",
        f"column {table.time!r} of {table.file} is read in {table.time_unit}, and its name says {units[0]}: "
        f"{data.describe()}",
        _change_unit(table, units[0]),
    )


def _other_quantity(data: FollowUp) -> str | None:
    """Describe what the column holds instead of follow-up times; None if it may hold follow-up times."""
    cells, num = data.cells, len(data.cells)
    if num < FEWEST:
        return None
    whole = cells == np.round(cells)
    low, high = np.quantile(cells, (0.25, 0.75))
    if np.isin(cells, (0, 1)).all() and len(np.unique(cells)) == 2:
        return "holds only 0 and 1, as a column of events does"
    if _share((cells >= 1900) & (cells < 2101)) >= MOST:
        return f"holds calendar years: {_count((cells >= 1900) & (cells < 2101))} lie between 1900 and 2100"
    if _share(_dates_as_numbers(cells) & whole) >= MOST:
        return f"holds dates written as YYYYMMDD or YYYYMM: {_count(_dates_as_numbers(cells) & whole)} are such numbers"
    if np.median(cells) > 10_000 and low > 0.5 * high and np.quantile(data.months, 0.75) > LONGEST_QUARTILE:
        return "holds dates (as spreadsheets and programs count them, in days since a fixed day) or ages, not durations"
    if whole.all() and np.unique(np.diff(cells)).tolist() in ([1.0], [-1.0]):
        return "counts the rows: each row differs by 1 from the row above"
    if _share(cells == _numbers_in(data.case_ids)) >= MOST:
        return f"repeats the number in column {data.table.case_id!r}"
    if num >= 2 * FEWEST and _share(cells == np.median(cells)) < 0.2:
        limits = (14, 0.5) if whole.all() else (18, 0.65)  # follow-up that starts at 14 and spreads little
        if cells.min() >= limits[0] and cells.max() <= 105 and low >= limits[1] * high:
            return "holds ages in years, it seems: no value is below a youth's or above a long life, and few are low"
    return None


def _unit(months: npt.NDArray[np.float64], data: FollowUp) -> Iterator[Doubt]:
    """Doubt a unit that gives a follow-up too long or too short for a cancer cohort."""
    table = data.table
    read = f"{data.describe()}, read from column {table.time!r} in {table.time_unit}"
    if len(months) >= FEWEST:
        median, high = np.quantile(months, (0.5, 0.75))
        rate = data.event.sum() / (data.months.sum() / 12) if data.months.any() else 0.0
        if high > LONGEST_QUARTILE:
            text = f"{read}: longer than in a cancer cohort, where most patients have under 20 years"
            remedy = _change_unit(table, "days" if table.time_unit == "months" else "hours")
            yield Doubt("follow-up", text, f"{remedy}; if only some cells do, write all in one unit")
            return
        busy = rate > HIGHEST_RATE and data.event.sum() >= FEWEST
        if median < SHORTEST_MEDIAN or high < SHORTEST_QUARTILE or busy:
            text = f"{read}: shorter than a cancer cohort is followed up"
            yield Doubt("follow-up", text, _change_unit(table, "months" if table.time_unit == "days" else "years"))
            return
    if (months > LONGEST).any():
        what = f"{_count(months > LONGEST)} would have a follow-up of over 60 years"
        remedy = "correct the cells (another unit, or a code for unknown), or take these rows out"
        yield Doubt("follow-up", f"column {table.time!r} of {table.file}: {what}", remedy)


def _change_unit(table: ClinicalTable, unit: str) -> str:
    """Return the remedy if the column holds `unit`."""
    if unit in ("days", "months"):
        return f"if it holds {unit}, set data.clinical.time_unit to {unit}"
    return f"if it holds {unit}, write the column in months or days, and set data.clinical.time_unit"


def _dates_as_numbers(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return True for numbers that read as YYYYMMDD or YYYYMM of the years 1900 to 2100."""
    whole = np.where(np.abs(cells) < 1e9, cells, 0).astype(np.int64)
    days = np.where(whole >= 10**7, whole, whole * 100 + 1)
    year, month, day = days // 10_000, days // 100 % 100, days % 100
    dated: npt.NDArray[np.bool_] = (
        (year >= 1900) & (year <= 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    )
    return dated


def _numbers_in(case_ids: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the last number in each identifier; NaN without one."""
    found = (re.findall(r"\d+", case_id) for case_id in case_ids)
    return np.array([float(numbers[-1]) if numbers else np.nan for numbers in found])


def _share(rows: npt.NDArray[np.bool_]) -> float:
    return float(rows.mean())


def _count(rows: npt.NDArray[np.bool_]) -> str:
    return f"{int(rows.sum())} of {len(rows)} patients"


def _months(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
