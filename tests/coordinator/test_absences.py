"""Who was not there, and why, in sentences."""

from types import SimpleNamespace

import pytest

from server.federation.exchange import SiteFailure
from server.federation.journal import RoundRecord
from server.results import describe_absences

LATE, GONE = {"failure": "too late", "code": 0}, SiteFailure(0, "not connected")


def told(*rounds, **failures):
    records = [RoundRecord(number, sites, 1.0, 1, 1) for number, sites in enumerate(rounds, 1)]
    return describe_absences(SimpleNamespace(rounds=records, failures=failures))


@pytest.mark.parametrize(
    ("rounds", "failures", "sentences"),
    [
        ([{"a": {}, "b": {}}], {}, []),
        ([{"a": {}, "b": LATE}, {"a": {}, "b": {}}], {}, ["1 hospital missed 1 of 2 rounds: too late (b)"]),
        ([{"a": LATE, "b": LATE}], {}, ["2 hospitals missed 1 of 1 rounds: too late (a, b)"]),
        (
            [{"a": LATE, "b": LATE}, {"a": {}, "b": LATE}],
            {},
            ["2 hospitals missed up to 2 of 2 rounds: too late (a, b)"],
        ),
        ([{"a": {}}, {"a": {}}], {"b": GONE}, ["1 hospital missed 2 of 2 rounds: not connected (b)"]),
        # a run that was resumed without a hospital that had taken part before
        (
            [{"a": {}, "b": {}}, {"a": {}}, {"a": {}}],
            {"b": GONE},
            ["1 hospital missed 2 of 3 rounds: not connected (b)"],
        ),
    ],
)
def test_rounds_that_were_missed(rounds, failures, sentences):
    assert told(*rounds, **failures) == sentences
