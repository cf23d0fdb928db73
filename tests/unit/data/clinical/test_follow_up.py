"""Doubts about follow-up times: wrong units, other quantities, codes for unknown, and silence on healthy cohorts."""

from functools import cache

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.event_codes import find_reversed_events
from memamba_core.data.clinical.follow_up import FollowUp, find_follow_up_doubts
from memamba_core.data.clinical.table import DAYS_PER_MONTH, read_clinical
from memamba_core.data.records import PatientRecord
from memamba_core.data.synthetic.generate import generate_cohort
from memamba_core.errors import DataError

NUM = 120


def cohort(seed=0, num=NUM, median=20.0):
    """Days of follow-up and events as in a registry: deaths at a constant rate, last visits over ten years."""
    rng = np.random.default_rng(seed)
    death, visit = rng.exponential(median / np.log(2), num), rng.uniform(3, 120, num)
    return np.round(np.minimum(death, visit) * DAYS_PER_MONTH), death < visit


def doubts(cells, event, unit="days", time="os", **columns):
    """Return the texts of the doubts about a column."""
    months = np.asarray(cells, float) / (DAYS_PER_MONTH if unit == "days" else 1)
    records = [
        PatientRecord(f"P{i * 7 % 1009:04d}", t, bool(e)) for i, (t, e) in enumerate(zip(months, event, strict=True))
    ]
    table = ClinicalTable(file="clinical.csv", time=time, time_unit=unit, **columns)
    return [f"{doubt} [{doubt.check}]" for doubt in find_follow_up_doubts(records, table)]


def some(cells, value, every=6):
    """Write a value into every sixth cell."""
    return np.where(np.arange(len(cells)) % every == 0, value, cells)


def dates(cells, form):
    """Return the dates of last visits as whole numbers."""
    return (pd.Timestamp("2008-03-01") + pd.to_timedelta(cells, unit="D")).strftime(form).astype(int).to_numpy()


AGES = np.random.default_rng(3).normal(64, 11, NUM).clip(31, 89).round()

CORRUPTIONS = {
    "days as months": (lambda d: d, "months", ("median follow-up", "in months", "set data.clinical.time_unit to days")),
    "months as days": (lambda d: d / 30.4375, "days", ("in days", "set data.clinical.time_unit to months")),
    "whole months as days": (lambda d: d // 30, "days", ("set data.clinical.time_unit to months",)),
    "years as months": (lambda d: np.round(d / 365.25, 2), "months", ("shorter", "if it holds years")),
    "whole years as months": (lambda d: d // 365.25, "months", ("shorter", "if it holds years")),
    "years as days": (lambda d: d / 365.25, "days", ("shorter",)),
    "weeks as months": (lambda d: d * 2 // 7, "months", ("longer",)),
    "a calendar year": (lambda d: 2015 + d // 365, "days", ("holds calendar years", "120 of 120", "clinical.time")),
    "a calendar year in months": (lambda d: 2015 + d // 365, "months", ("holds calendar years",)),
    "a decimal year": (lambda d: 2015.2 + d / 365.25, "days", ("holds calendar years",)),
    "spreadsheet dates": (lambda d: 40_000 + d, "days", ("holds dates",)),
    "spreadsheet dates in months": (lambda d: 40_000 + d, "months", ("holds dates",)),
    "days since 1970": (lambda d: 15_000 + d, "days", ("holds dates",)),
    "seconds since 1970": (lambda d: 1.3e9 + 86_400 * d, "days", ("holds dates",)),
    "YYYYMMDD": (lambda d: dates(d, "%Y%m%d"), "days", ("YYYYMMDD",)),
    "YYYYMM": (lambda d: dates(d, "%Y%m"), "months", ("YYYYMM",)),
    "ages": (lambda _: AGES, "months", ("ages in years",)),
    "ages as days": (lambda _: AGES, "days", ("ages in years",)),
    "ages in days": (lambda _: AGES * 365, "days", ("or ages",)),
    "numbers of rows": (lambda d: np.arange(1, len(d) + 1), "months", ("counts the rows",)),
    "numbers of rows from 0": (lambda d: np.arange(len(d)), "days", ("counts the rows",)),
    "identifiers": (lambda d: np.arange(len(d)) * 7 % 1009, "days", ("repeats the number in column 'case_id'",)),
    "the event": (lambda d: (d > 500) * 1.0, "months", ("only 0 and 1",)),
    "9999 days": (lambda d: some(d, 9999), "days", ("20 of 120 patients share", "9999", "the largest", "unknown")),
    "9999 days, few": (lambda d: some(d, 9999, 30), "days", ("4 of 120 patients share", "9999")),
    "99999 days": (lambda d: some(d, 99999), "days", ("20 of 120", "99999")),
    "999 days": (lambda d: some(d, 999), "days", ("20 of 120 patients share the follow-up 999",)),
    "999 months": (lambda d: some(d // 30, 999), "months", ("999",)),
    "99 months": (lambda d: some(d // 30, 99), "months", ("share the follow-up 99",)),
    "8888 days": (lambda d: some(d, 8888), "days", ("8888",)),
    "one 9999": (lambda d: some(d, 9999, 1000), "days", ("1 of 120 patients with the largest follow-up",)),
    "one typing error": (lambda d: some(d, 54_321, 1000), "days", ("largest follow-up", "times the next")),
    "the largest of all": (lambda d: some(d, 5000), "days", ("20 of 120 patients share the largest",)),
    "one day of many": (lambda d: some(d, 400), "days", ("patients share one follow-up time", "had the event then")),
    "few zeros": (
        lambda d: np.where(np.arange(len(d)) % 12, d, 0),
        "days",
        ("10 of 120 patients have a follow-up of 0",),
    ),
    "zeros": (lambda d: some(d, 0), "days", ("20 of 120 patients have a follow-up of 0",)),
    "all the same": (lambda d: d * 0 + 12, "months", ("120 of 120 patients have the same",)),
    "days and months mixed": (
        lambda d: np.where(np.arange(len(d)) % 3, d / 30, d),
        "months",
        ("if only some cells do",),
    ),
    "a few days among months": (lambda d: np.where(np.arange(len(d)) % 6, d / 30, d), "months", ("over 60 years",)),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_follow_up_that_cannot_be_right_is_doubted(name):
    change, unit, words = CORRUPTIONS[name]
    days, event = cohort()
    found = doubts(change(days), event, unit)
    assert found
    assert len(found) <= 2
    for word in ("column 'os'", "[follow-up]", *words):
        assert word in " ".join(found)


HEALTHY = {
    "days": (lambda d, e: (d, e), "days"),
    "months": (lambda d, e: (np.round(d / DAYS_PER_MONTH, 2), e), "months"),
    "whole months": (lambda d, e: (np.round(d / DAYS_PER_MONTH), e), "months"),
    "five years, then closed": (lambda d, e: (np.minimum(d, 1826), e & (d < 1826)), "days"),
    "two years, then closed": (lambda d, e: (np.minimum(d // 30, 24), e & (d // 30 < 24)), "months"),
    "discharged after five years": (lambda d, e: (np.where(~e & (d > 1826), 1826, d), e), "days"),
}


@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize(("seed", "median"), [(0, 20.0), (1, 8.0), (2, 60.0), (3, 150.0)])
def test_healthy_follow_up_is_not_doubted(name, seed, median):
    change, unit = HEALTHY[name]
    cells, event = change(*cohort(seed, median=median))
    assert doubts(cells, event, unit) == []


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 200))
def test_generated_cohorts_are_not_doubted(seed, num):
    records = _generated().records
    chosen = np.random.default_rng(seed).choice(len(records), num, replace=False)
    subset = [records[place] for place in chosen]
    table = ClinicalTable(file="c.csv")
    assert [*find_follow_up_doubts(subset, table), *find_reversed_events(subset, table)] == []


@cache
def _generated():
    return generate_cohort(SyntheticConfig()).cohort


@pytest.mark.parametrize(
    ("time", "unit", "doubted"),
    [
        ("os_years", "months", "years"),
        ("OS.time.Jahre", "days", "years"),
        ("followUpDays", "months", "days"),
        ("days_to_death", "months", "days"),
        ("Monate", "days", "months"),
        ("OS (weeks)", "days", "weeks"),
        ("survival_months", "months", None),
        ("five_year_os_months", "months", None),
        ("OS.time", "days", None),
        ("Überlebenstage", "months", "days"),
        ("lebensjahre", "months", "years"),
        ("holidays", "months", None),
    ],
)
def test_a_name_that_contradicts_the_unit_is_doubted(time, unit, doubted):
    days, event = cohort()
    cells = days / DAYS_PER_MONTH if unit == "months" else days
    found = doubts(cells, event, unit, time)
    assert len(found) == (doubted is not None)
    assert all(f"its name says {doubted}" in text for text in found)


def test_small_tables_and_no_patient_raise_no_doubt():
    assert doubts([], [], "months") == []
    assert doubts([1, 2, 3], [1, 0, 1], "days") == []


def test_quartiles_and_rate_of_a_follow_up():
    records = [PatientRecord(f"p{i}", 12.0 * i, i < 2) for i in range(1, 6)]
    data = FollowUp(records, ClinicalTable(file="c.csv"))
    assert data.describe() == "median follow-up 36 months (quartiles 24 and 48), 0.067 events per patient-year"


def test_no_doubt_names_a_patient():
    for change, unit, _ in CORRUPTIONS.values():
        days, event = cohort()
        assert not any("P0" in text for text in doubts(change(days), event, unit))


# Real cohorts -------------------------------------------------------------------------------------

COHORTS = {"BLCA": ["BLCA"], "BRCA": ["BRCA"], "GBMLGG": ["GBM", "LGG"], "LUAD": ["LUAD"], "STAD": ["STAD"]}
COHORTS |= {"UCEC": ["UCEC"], "GBM": ["GBM"], "LGG": ["LGG"]}


def registry(data_root, tmp_path, cohort, endpoint, **columns):
    """Read one endpoint of a cohort of TCGA-CDR."""
    table = pd.read_csv(data_root / "reference" / "tcga_cdr_selected.csv.gz", dtype=str)
    known = table["type"].isin(COHORTS[cohort]) & table[endpoint].notna() & table[f"{endpoint}.time"].notna()
    table[known].to_csv(tmp_path / "cdr.csv", index=False)
    names = {"case_id": "bcr_patient_barcode", "time": f"{endpoint}.time", "event": endpoint}
    config = ClinicalTable(file="cdr.csv", time_unit="days", **names, **columns)
    return read_clinical(config, tmp_path), config


@pytest.mark.real_data
@pytest.mark.parametrize("endpoint", ["OS", "DSS", "PFI"])
@pytest.mark.parametrize("cohort", COHORTS)
def test_no_real_cohort_is_doubted(data_root, tmp_path, cohort, endpoint):
    read = registry(data_root, tmp_path, cohort, endpoint)
    assert [*find_follow_up_doubts(*read), *find_reversed_events(*read)] == []


@pytest.mark.real_data
def test_four_of_six_cohorts_read_the_wrong_way_are_doubted(data_root, tmp_path):
    found = [
        name
        for name in COHORTS
        if list(find_reversed_events(*registry(data_root, tmp_path, name, "OS", event_means="censored")))
    ]
    assert found == ["BLCA", "LUAD", "STAD", "UCEC"]


@pytest.mark.parametrize("cell", ["", "'--", "[Not Applicable]", "NA"])
def test_times_to_death_alone_are_refused_as_such(tmp_path, cell):
    rows = "".join(f"p{i},{100 + i if i % 2 else cell},{i % 2}\n" for i in range(6))
    (tmp_path / "c.csv").write_text(f"case_id,t,event\n{rows}")
    with pytest.raises(DataError, match=r"in any row without the event, as .* the time to death .* last visit"):
        read_clinical(ClinicalTable(file="c.csv", time="t", time_unit="days"), tmp_path)
