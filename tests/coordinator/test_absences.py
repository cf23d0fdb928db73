"""Sentences about sites that missed rounds, and why."""

from types import SimpleNamespace

import pytest

from server.attendance import describe_absences
from server.federation.exchange import SiteFailure
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained

LATE, GONE = Failed(failure="too late", code=0), SiteFailure(0, "not connected")
DONE = Trained(trained={"head": 3}, train_loss=1.0, incoming=SiteMetrics())


def absences(*rounds, **failures):
    records = [
        RoundRecord(server_round=number, sites=sites, seconds=1.0, bytes_sent=1, bytes_received=1)
        for number, sites in enumerate(rounds, 1)
    ]
    return describe_absences(SimpleNamespace(rounds=records, failures=failures))


@pytest.mark.parametrize(
    ("rounds", "failures", "sentences"),
    [
        ([{"a": DONE, "b": DONE}], {}, []),
        ([{"a": DONE, "b": LATE}, {"a": DONE, "b": DONE}], {}, ["1 site missed 1 of 2 rounds: too late (b)"]),
        ([{"a": LATE, "b": LATE}], {}, ["2 sites missed 1 of 1 rounds: too late (a, b)"]),
        (
            [{"a": LATE, "b": LATE}, {"a": DONE, "b": LATE}],
            {},
            ["2 sites missed up to 2 of 2 rounds: too late (a, b)"],
        ),
        ([{"a": DONE}, {"a": DONE}], {"b": GONE}, ["1 site missed 2 of 2 rounds: not connected (b)"]),
        # a run that was resumed without a site that had taken part before
        (
            [{"a": DONE, "b": DONE}, {"a": DONE}, {"a": DONE}],
            {"b": GONE},
            ["1 site missed 2 of 3 rounds: not connected (b)"],
        ),
    ],
)
def test_rounds_that_were_missed(rounds, failures, sentences):
    assert absences(*rounds, **failures) == sentences
