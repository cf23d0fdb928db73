"""Failures of sites, as the coordinator reports them: the code of an error, and of its text only the version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.wire.protocol import PROTOCOL_VERSION, Refusal, package_version
from server.federation.exchange import SiteFailure, quote


def test_a_refusal_is_told_in_our_own_words():
    for refusal in Refusal:
        if refusal is not Refusal.VERSION:
            assert SiteFailure.of_error(refusal.code, "Jane Doe\x1b[2J") == SiteFailure(refusal.code, refusal.text)


def test_two_versions_are_both_named():
    text = SiteFailure.of_error(101, "the site runs version 0.0.9 of this software, protocol 1").text
    assert text == (
        "the site runs version 0.0.9 of this software, protocol 1; this coordinator runs version "
        f"{package_version()}, protocol {PROTOCOL_VERSION}. Install the same version on both sides"
    )
    text = SiteFailure.of_error(101, "version Jane Doe").text
    assert text.startswith("the site runs another version of this software; this coordinator runs")


@pytest.mark.parametrize("code", [0, 2, 5, 8, 77, -1])
def test_words_of_an_error_are_not_repeated(code):
    assert "Jane" not in SiteFailure.of_error(code, "Jane Doe").text


@given(st.text())
def test_nothing_that_is_shown_moves_a_cursor_or_has_no_end(words):
    for shown in (quote(words), SiteFailure(0, words).text):
        assert shown.isprintable()
        assert len(shown) <= 700
    assert len(SiteFailure(0, words * 50).text) <= 303
