"""Identifiers that nearly match are counted under the rule that explains them, and different patients never are."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.identifiers.near_misses import (
    advise,
    count_twins,
    describe_near_misses,
    describe_shapes,
    find_near_misses,
)

LETTERS = "without letters before the number"
ZEROS, CASE, NUMBERS = "without leading zeros", "ignoring case", "as numbers"
SEPARATORS, BARCODE, SUFFIX = "ignoring separators", "as the first 12 characters", "without a suffix such as `-01`"
PREFIX, ACCENTS, ENCODING = "without a prefix", "ignoring accents", "in another character encoding"
QUOTES, ALL = "without quotation marks", "ignoring case, separators and leading zeros"


@pytest.mark.parametrize(
    ("unknown", "missing", "how"),
    [
        ("1 2 3", "001 002 003", ZEROS),
        ("P1 P2", "P001 P002", ZEROS),
        ("A-1-07", "A-01-7", ZEROS),
        ("p1 syn-ab-2", "P1 SYN-AB-2", CASE),
        ("STRASSE-1", "Straße-1", CASE),
        ("12.0 13.0", "12 13", NUMBERS),
        ("12,00", "0012", NUMBERS),
        ("'0012", "0012", QUOTES),
        ('="0012"', "0012", QUOTES),
        ("A_1 B.2", "A-1 B-2", SEPARATORS),
        ("A\u20131", "A-1", SEPARATORS),
        ("SYNAB0001", "SYN-AB-0001", SEPARATORS),
        ("TCGA-2F-A9KO-01", "TCGA-2F-A9KO", BARCODE),
        ("TCGA-2F-A9KO", "TCGA-2F-A9KO-01A-11D-A38G-08", BARCODE),
        ("P1-01 P2-06", "P1 P2", SUFFIX),
        ("P1", "P1_T1", SUFFIX),
        ("S1-DX1.AAAA-BBBB", "S1-DX1", SUFFIX),
        ("Patient_12 Patient_13", "12 13", PREFIX),
        ("12", "Fall 12", PREFIX),
        ("X1001 X1002", "1001 1002", LETTERS),
        ("12 13", "Pat012 Pat013", LETTERS),
        ("Muller Mueller2", "Müller Müller2", ACCENTS),
        ("MÃ¼ller", "Müller", ENCODING),
        ("M├╝ller", "Müller", ENCODING),
        ("M\udcfcller", "Müller", ENCODING),
        ("Fall%201", "Fall 1", ENCODING),
        ("p_001", "P1", ALL),
    ],
)
def test_one_rule_explains(unknown, missing, how):
    unknown, missing = (text.split(" ") if not text.startswith("Fall ") else [text] for text in (unknown, missing))
    (near,) = find_near_misses(unknown, missing)
    assert (near.how, near.unknown, near.missing) == (how, len(unknown), len(missing))


@pytest.mark.parametrize(
    ("unknown", "missing"),
    [
        (["A12", "A13"], ["B12", "B13"]),  # patients of two hospitals
        (["12"], ["A12", "B12"]),
        (["1"], ["01", "001"]),  # two patients may be meant
        (["01", "001"], ["1"]),
        (["p1", "P1"], ["pₐ"]),
        (["TCGA-2F-A9KO-01Z-00-DX1"], ["TCGA-2F-A9KO-01Z-00-DX2"]),  # two slides of a patient
        (["P1-01"], ["P1-02"]),
        (["12"], ["21"]),
        ([], ["1"]),
        (["1"], []),
    ],
)
def test_where_there_is_a_choice_or_a_difference_nothing_is_counted(unknown, missing):
    assert find_near_misses(unknown, missing) == ()


def test_several_rules_are_counted_apart_and_samples_by_patient():
    near = find_near_misses(["1", "2", "3", "ab", "zz"], ["01", "02", "03", "AB", "YY"])
    assert describe_near_misses(near) == "3 would without leading zeros and 1 ignoring case"
    assert "as text" in advise(near)
    samples = find_near_misses(["TCGA-2F-A9KO-01A", "TCGA-2F-A9KO-11A"], ["TCGA-2F-A9KO"])
    assert describe_near_misses(samples) == "2 would as the first 12 characters (1 patient)"
    assert describe_near_misses(()) == ""


def test_how_identifiers_look_is_shown_without_one():
    shapes = describe_shapes(["SYN-AB-0001", "SYN-CD-0002"], "a.csv", ["7", "8", "19"], "b.csv")
    assert shapes == "identifiers look like `AAA-AA-0000` in a.csv and like `0` in b.csv"
    assert describe_shapes(["a", "b1", "c-2"], "a.csv", ["7"], "b.csv") == ""
    assert describe_shapes(["P1"], "a.csv", ["Q2"], "b.csv") == ""
    assert describe_shapes([], "a.csv", ["7"], "b.csv") == ""


@given(st.sets(st.integers(0, 10**6), max_size=40), st.integers(0, 40))
def test_identifiers_of_one_width_are_never_near_misses(numbers, cut):
    names = [f"SYN-{number:07d}" for number in sorted(numbers)]
    assert find_near_misses(names[:cut], names[cut:]) == ()


@given(st.sets(st.text(max_size=8), max_size=12), st.sets(st.text(max_size=8), max_size=12))
def test_any_text_is_compared_and_nothing_counts_twice(unknown, missing):
    near = find_near_misses(unknown, missing)
    assert sum(miss.unknown for miss in near) <= len(unknown)
    assert sum(miss.missing for miss in near) <= len(missing)
    assert all(miss.unknown >= miss.missing > 0 for miss in near)
    describe_near_misses(near)
    count_twins(unknown)
    describe_shapes(unknown, "a", missing, "b")


def test_random_names_are_never_near_misses():
    names = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(i))) for i in range(300)]
    assert find_near_misses(names[::2], names[1::2]) == ()


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_real_patients_and_slides_are_never_near_misses(data_root):
    for file in sorted((data_root / "cohorts").glob("*.csv.gz")):
        records = read_clinical(ClinicalTable(file=f"cohorts/{file.name}", slides="slide_ids"), data_root)
        for names in ([r.case_id for r in records], [slide for r in records for slide in r.slides]):
            assert find_near_misses(names[::2], names[1::2]) == ()
        assert count_twins([r.case_id for r in records]) == ()
