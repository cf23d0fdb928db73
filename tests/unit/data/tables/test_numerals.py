"""Numbers in other notations: read where they can mean one thing only, refused with the reason elsewhere."""

import datetime as dt
import decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.config.site import TableFile
from memamba_core.data.tables import open_table
from memamba_core.data.tables.numerals import choose_mark, gather_evidence
from memamba_core.errors import DataError


def table_of(tmp_path, cells, separator=",", **settings):
    lines = [f'p{row}{separator}"{cell}"' for row, cell in enumerate(cells)]
    (tmp_path / "t.csv").write_text(f"case_id{separator}x\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return open_table(tmp_path / "t.csv", TableFile(**settings))


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("?", "marks of a value that is not known"),
        ("[Not Available]", "marks of a value that is not known"),
        ("NP", "marks of a value that is not known"),
        ("'12.5", "quotation marks or formulas"),
        ('=""3""', "quotation marks or formulas"),
        ("WT", "text that is no number"),
    ],
)
def test_what_is_no_number_is_named(tmp_path, cell, words):
    with pytest.raises(DataError, match=f"{words} in row 2"):
        table_of(tmp_path, ["1.5", cell, "2"]).numbers(["x"])


@pytest.mark.parametrize("cells", [["137.0", "1.903", "2.005"], ["137", "1.45", "2.005", "1.321"]])
def test_thousands_that_a_program_has_read_as_decimals_are_refused_in_text(tmp_path, cells):
    with pytest.raises(DataError, match="may be decimals or thousands"):
        table_of(tmp_path, cells).times("x", "days")
    assert len(table_of(tmp_path, cells, decimal_mark="point").times("x", "days")) == len(cells)
    assert len(table_of(tmp_path, [*cells, "60.123"]).times("x", "days")) == len(cells) + 1  # no 60,123 days


READ = [
    (["12.5", "3"], [12.5, 3]),
    (["12,5", "3"], [12.5, 3]),
    (["1.903,5", "137"], [1903.5, 137]),
    (["1,903.5", "137"], [1903.5, 137]),
    (["1.234.567", "1.903", "137"], [1234567, 1903, 137]),
    (["1,234,567", "1,903", "137"], [1234567, 1903, 137]),
    (["1,903", "12.5"], [1903, 12.5]),
    (["1.903", "12,5"], [1903, 12.5]),
    (["1.903", "0.137", "2"], [1.903, 0.137, 2]),  # no number of thousands begins with 0
    (["1.903", "1903", "2"], [1.903, 1903, 2]),  # thousands stand without a mark
    (["1.903", "1.4567"], [1.903, 1.4567]),
    (["1e3", "+5", "-2", ".5", "1."], [1000, 5, -2, 0.5, 1]),
    (["\u22123", "\u22120,5"], [-3, -0.5]),
    (["1 903", "1\u00a0904", "1\u202f905", "1'906", "12"], [1903, 1904, 1905, 1906, 12]),
    (["\u00a012.5 ", " 3"], [12.5, 3]),
    (["NA", "nan", "", "2,5"], [np.nan, np.nan, np.nan, 2.5]),
    (["12.345", "3.100", "101.001"], [12.345, 3.1, 101.001]),  # three decimals throughout
]


@pytest.mark.parametrize(("cells", "expected"), READ)
def test_one_meaning_is_read(tmp_path, cells, expected):
    table = table_of(tmp_path, cells)
    np.testing.assert_array_equal(table.numbers(["x"])[:, 0], np.float32(expected))
    np.testing.assert_allclose(table.times("x", "months"), expected, rtol=1e-15)


def test_three_decimals_throughout_are_decimals_in_the_usual_notation(tmp_path):
    np.testing.assert_allclose(table_of(tmp_path, ["12,345", "3,100"], ";").numbers(["x"])[:, 0], [12.345, 3.1])
    for cells, separator in ((["12,345", "3,100"], ","), (["12.345", "3.100"], ";")):
        with pytest.raises(DataError, match="may be decimals or thousands"):
            table_of(tmp_path, cells, separator).numbers(["x"])


@pytest.mark.parametrize(
    "cells",
    [
        ["137", "1.903"],
        ["137", "1,903"],
        ["0", "1.903"],
        ["1.903", "1,903"],
        ["-1.903", "5"],
        ["+1.903", "5", ""],
    ],
)
def test_two_meanings_are_refused_and_settled_by_the_setting(tmp_path, cells):
    for read in (lambda table: table.numbers(["x"]), lambda table: table.times("x", "days")):
        with pytest.raises(DataError, match=r"'x' holds numbers with three digits .* in rows? [12].*decimal_mark"):
            read(table_of(tmp_path, cells))
    points = table_of(tmp_path, cells, decimal_mark="point").numbers(["x"])[:, 0]
    commas = table_of(tmp_path, cells, decimal_mark="comma").numbers(["x"])[:, 0]
    changed = (points != commas) & ~np.isnan(points)
    assert 1 <= changed.sum() <= 2
    np.testing.assert_allclose(np.maximum(abs(points), abs(commas))[changed] % 1000, 903)


def test_days_have_no_three_decimals(tmp_path):
    with pytest.raises(DataError, match="may be decimals or thousands"):
        table_of(tmp_path, ["1.903", "2.137"]).times("x", "days")
    # 156,172 days are 428 years: the mark stands before decimals.
    np.testing.assert_allclose(table_of(tmp_path, ["156.172", "45"]).times("x", "days"), [156.172, 45])


def test_a_column_is_read_in_the_notation_of_the_others(tmp_path):
    (tmp_path / "t.csv").write_text("case_id;a;b;c\np;1,5;1.903;7\nq;2,25;137;8\n")
    values = open_table(tmp_path / "t.csv").numbers(["a", "b", "c"])
    np.testing.assert_array_equal(values, np.float32([[1.5, 1903, 7], [2.25, 137, 8]]))
    (tmp_path / "t.csv").write_text("case_id,a,b\np,1.5,1.903\nq,2.25,137\n")
    np.testing.assert_array_equal(open_table(tmp_path / "t.csv").numbers(["b", "a"])[:, 0], np.float32([1.903, 137]))


def test_a_table_with_both_notations_has_no_notation_for_others(tmp_path):
    (tmp_path / "t.csv").write_text('case_id,a,b,c\np,"1,5",1.903,1.5\nq,"2,25",137,2.5\n')
    table = open_table(tmp_path / "t.csv")
    np.testing.assert_array_equal(table.numbers(["a", "c"])[:, 0], np.float32([1.5, 2.25]))
    for columns in (["a", "b", "c"], ["c", "b", "a"]):
        with pytest.raises(DataError, match="'b' holds numbers with three digits"):
            table.numbers(columns)


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        ("45 %", "percent signs"),
        (">60", "bounds"),
        ("\u2265 60", "bounds"),
        ("2021-03-01", "dates"),
        ("01.03.2021", "dates"),
        ("1.3.21", "dates"),
        ("03/01/2021", "dates"),
        ("1-Mar", "dates"),
        ("01. Mrz", "dates"),
        ("12:30", "dates"),
        ("5 days 00:00:00", "lengths of time"),
        ("TRUE", "words such as true"),
        ("nein", "words such as true"),
        ("#REF!", "error values"),
        ("12 months", "a unit"),
        ("12mo", "a unit"),
        ("ca. 12", "a unit"),
        ("3-5", "two numbers"),
        ("3;5", "two numbers"),
        ("1,5.2", "no number"),
        ("secret", "no number"),
        ("1_000", "no number"),
    ],
)
def test_what_is_no_number_is_named_without_the_cell(tmp_path, cell, words):
    table = table_of(tmp_path, ["1", cell, "2.5", cell])
    with pytest.raises(DataError, match=rf"'x' (holds|mixes) .*{words}.* in rows 2, 4\. [A-Z]") as raised:
        table.numbers(["x"])
    assert cell not in str(raised.value)
    if words != "no number":
        with pytest.raises(DataError, match=words):
            table.times("x", "days")
    else:
        assert np.isnan(table.times("x", "days")).tolist() == [False, True, False, True]


def test_two_notations_in_one_column_are_refused(tmp_path):
    with pytest.raises(DataError, match="'x' holds numbers with a decimal point and numbers with a decimal comma"):
        table_of(tmp_path, ["1.5", "2,25"]).numbers(["x"])
    with pytest.raises(DataError, match="mixes decimal points and decimal commas in row 2"):
        table_of(tmp_path, ["1.5", "2,25"], decimal_mark="point").numbers(["x"])


DAY = pd.Timedelta(days=1)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([pd.Timestamp("2021-03-01"), None], "timestamp"),
        ([dt.date(2021, 3, 1), None], "date32"),
        ([dt.time(1), None], "time64"),
        ([True, False], "bool"),
        ([["a"], ["b"]], "list"),
    ],
)
def test_types_that_are_no_numbers_are_named(tmp_path, values, kind):
    pd.DataFrame({"case_id": ["p", "q"], "x": values}).to_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=rf"'x' is of type {kind}.*, not of numbers, in row"):
        table.times("x", "days")
    if kind != "bool":  # a mutation may be a truth value
        with pytest.raises(DataError, match=rf"'x' is of type {kind}.*, not of numbers, in row"):
            table.numbers(["x"])


def test_differences_of_dates_are_days(tmp_path):
    frame = pd.DataFrame({"case_id": ["p", "q", "r"], "x": [137 * DAY, 1.5 * DAY, None]})
    frame.to_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.times("x", "days"), [137, 1.5, np.nan])
    assert table.text(["x"])["x"].tolist() == ["137 days 00:00:00", "1 days 12:00:00", ""]
    with pytest.raises(DataError, match=r"'x' is of type duration.* a length of time, in rows 1, 2\. Set time_unit"):
        table.times("x", "months")
    with pytest.raises(DataError, match=r"'x' is of type duration"):
        table.numbers(["x"])


@pytest.mark.parametrize(
    "values", [[1, 2], [1.25, 2.0], pd.Categorical(["1,5", "2,5"]), [decimal.Decimal("1.25"), decimal.Decimal(2)]]
)
def test_typed_numbers_of_parquet_are_read(tmp_path, values):
    pd.DataFrame({"case_id": ["p", "q"], "x": values}).to_parquet(tmp_path / "t.parquet")
    expected = [1.5, 2.5] if isinstance(values, pd.Categorical) else [float(value) for value in values]
    table = open_table(tmp_path / "t.parquet")
    np.testing.assert_array_equal(table.numbers(["x"])[:, 0], expected)
    np.testing.assert_array_equal(table.times("x", "months"), expected)


def test_days_that_another_program_read_with_a_wrong_mark_are_refused(tmp_path):
    """pandas read 137, 1.450 and 1.903 from a table with marks between thousands, and wrote parquet."""
    pd.DataFrame({"case_id": list("pqr"), "x": [137.0, 1.45, 1.903]}).to_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="may be decimals or thousands"):
        table.times("x", "days")
    np.testing.assert_array_equal(table.times("x", "months"), [137, 1.45, 1.903])
    settled = open_table(tmp_path / "t.parquet", TableFile(decimal_mark="point"))
    np.testing.assert_array_equal(settled.times("x", "days"), [137, 1.45, 1.903])


NUMBERS = st.lists(st.floats(0, 10_000), min_size=1, max_size=30)


@given(NUMBERS, st.integers(0, 6))
def test_healthy_numbers_are_never_read_in_another_notation(values, digits):
    """Whatever a program writes with a decimal point is read with a decimal point, or is an ambiguous error."""
    for cells in ([f"{value:.{digits}f}" for value in values], [repr(round(value, digits)) for value in values]):
        evidence = gather_evidence(cells)
        assert choose_mark(evidence, evidence, ",") in ("point", "ambiguous")
        if digits != 3:
            assert (
                choose_mark(evidence, evidence, ",") == "point"
                or not any(float(cell) % 1 * 100 % 1 for cell in cells if float(cell) < 1000)
                or max(map(float, cells)) < 1000
            )


@given(st.lists(st.floats(0, 10_000), min_size=20, max_size=40))
def test_tables_of_many_numbers_raise_no_doubt(values):
    cells = [f"{value:.3f}" for value in [*values, 0.5]]
    evidence = gather_evidence(cells)
    assert choose_mark(evidence, evidence, ",") == "point"


def test_text_behind_a_nul_is_no_number_and_no_traceback(tmp_path):
    cells = ["1.5", "\0a", "\0b", ""]
    pd.DataFrame({"case_id": list("abcd"), "x": cells}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="in rows 2, 3"):
        open_table(tmp_path / "t.parquet").numbers(["x"])
