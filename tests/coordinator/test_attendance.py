"""The first line of a result: sites and patients that missed nothing."""

from types import SimpleNamespace

import pytest

from server.attendance import Attendance
from server.federation.journal import RoundRecord
from server.federation.outcome import Failed, SiteMetrics, Trained

DONE = Trained(trained={"head": 30}, train_loss=1.0, incoming=SiteMetrics())
FIFTY = "50 of 50 patients (lower ends of size bands)"
LOST = Failed(failure="too late", code=0)


def attendance(rounds, sizes, lost=(), not_evaluated=()):
    records = [
        RoundRecord(server_round=number, sites=sites, seconds=1.0, bytes_sent=1, bytes_received=1)
        for number, sites in enumerate(rounds, 1)
    ]
    present = [site for site in sizes if site not in lost]
    closing = {site: LOST if site in not_evaluated else SiteMetrics() for site in present}
    result = SimpleNamespace(
        rounds=records, sizes=sizes, facts=dict.fromkeys(present), evaluation=SimpleNamespace(sites=closing)
    )
    return Attendance.of(result)


def test_all_of_them():
    whole = attendance([{"a": DONE, "b": DONE}], {"a": 50, "b": 25})
    assert whole.text == "2 of 2 sites, 75 of 75 patients (lower ends of size bands)"
    assert whole.is_complete
    assert whole.patient_shares == {"a": 0.5, "b": 0.5}


def test_a_site_without_training_patients_is_named():
    whole = attendance([{"a": DONE}], {"a": 50, "test-only": 0})
    assert whole.text == f"2 of 2 sites, {FIFTY}; without training patients in this fold: test-only"
    assert whole.is_complete


@pytest.mark.parametrize(
    ("case", "text"),
    [
        (
            attendance([{"a": DONE, "b": LOST}, {"a": DONE, "b": DONE}], {"a": 50, "b": 100}),
            "1 of 2 sites, 50 of 150 patients (lower ends of size bands) in every round; missing: b (1 of 2 rounds)",
        ),
        (
            attendance([{"a": DONE}], {"a": 50, "b": None}, lost=("b",)),
            f"1 of 2 sites, {FIFTY}, 1 site of unknown size in every round; missing: b (1 of 1 rounds)",
        ),
        (
            attendance([{"a": DONE, "b": DONE}], {"a": 50, "b": 25}, not_evaluated=("b",)),
            "2 of 2 sites, 75 of 75 patients (lower ends of size bands); no closing evaluation from b",
        ),
        (
            attendance([{"a": DONE}], {"a": 50, "test-only": 0}, not_evaluated=("test-only",)),
            f"1 of 2 sites, {FIFTY} in every round; missing: test-only; no closing evaluation from test-only",
        ),
        (  # resumed without a site that trained before, whose size the journal knows
            attendance([{"a": DONE, "b": DONE}, {"a": DONE}], {"a": 50, "b": 100}, lost=("b",)),
            "1 of 2 sites, 50 of 150 patients (lower ends of size bands) in every round; missing: b (1 of 2 rounds)",
        ),
    ],
)
def test_some_of_them(case, text):
    assert case.text == text
    assert not case.is_complete


def test_a_site_that_tests_only_is_complete_without_training():
    assert attendance([{"a": DONE}], {"a": 50, "test-only": 0}).is_complete
