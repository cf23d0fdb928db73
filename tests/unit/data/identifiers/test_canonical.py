"""An identifier has one form: what no screen shows is no difference, and what one shows is."""

import unicodedata

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.data.identifiers.canonical import canonical, canonical_column

HIDDEN = "\ufeff\u200b\u200c\u200d\u2060\u00ad\u200e\u202c"
BLANKS = " \t\u00a0\u202f\u2007\u3000"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Müller-1", "Müller-1"),
        (unicodedata.normalize("NFD", "Müller-Süd-1"), "Müller-Süd-1"),
        ("A\u030angstro\u0308m", "Ångström"),
        ("\u212bngstr\u00f6m", "Ångström"),
        ("\ufeffP1", "P1"),
        ("P1\u00a0", "P1"),
        ("P\u00a01", "P 1"),
        ("\u3000P1\u200b", "P1"),
        ("P\u00ad1", "P1"),
        ("e\u200d\u0301", "é"),
        ("\tP1 \r", "P1"),
        ("", ""),
        ("\u200b \ufeff", ""),
    ],
)
def test_differences_that_no_screen_shows_are_none(text, form):
    assert canonical(text) == form


@pytest.mark.parametrize("other", ["p1", "P01", "P-1", "P1.0", "P 1", "P1-01", "Ｐ1", "P¹", "'P1"])
def test_differences_that_a_screen_shows_stay(other):
    assert canonical(other) != canonical("P1")


@given(st.text())
def test_the_form_of_a_form_is_itself(text):
    form = canonical(text)
    assert canonical(form) == form


@given(st.text(), st.sampled_from([*HIDDEN, *BLANKS]), st.sampled_from([*HIDDEN, *BLANKS]))
def test_composition_and_what_stands_around_play_no_part(text, before, after):
    assert canonical(before + text + after) == canonical(text)
    assert canonical(unicodedata.normalize("NFD", text)) == canonical(unicodedata.normalize("NFC", text))


def test_a_column_is_brought_into_its_form():
    column = canonical_column(pd.Series(["a\u0308", " b\u00a0", "05", "NA"]))
    assert column.tolist() == ["ä", "b", "05", "NA"]
