"""Codings of the event: numbers, words of registries, and what is refused with the reason."""

import numpy as np
import pytest

from memamba_core.config.site import ClinicalTable
from memamba_core.data.clinical.event_codes import find_reversed_events
from memamba_core.data.clinical.table import read_clinical
from memamba_core.data.records import PatientRecord
from memamba_core.errors import DataError


def read(root, cells, **columns):
    rows = "".join(f"p{i},{i + 1},{cell}\n" for i, cell in enumerate(cells))
    (root / "clinical.csv").write_text(f"case_id,survival_months,event\n{rows}", encoding="utf-8")
    return [r.event for r in read_clinical(ClinicalTable(file="clinical.csv", **columns), root)]


@pytest.mark.parametrize(
    "cells",
    [
        ("1", "0", "1"),
        ("TRUE", "false", "1.0"),
        ("Dead", "Alive", "dead"),
        ("DECEASED", "LIVING", "DECEASED"),
        ("1:DECEASED", "0:LIVING", "1:DECEASED"),
        ("1: Dead with tumor", "0: Alive or dead tumor free", "1: Dead with tumor"),
        ("1:Recurred/Progressed", "0:DiseaseFree", "1:Recurred/Progressed"),
        ("1:PROGRESSION", "0:CENSORED", "1:PROGRESSION"),
        ("event", "censored", "event"),
        ("verstorben", "lebt", "tot"),
        ("WAHR", "FALSCH", "wahr"),
        ("VRAI", "FAUX", "1"),
    ],
)
def test_events_are_read_as_registries_write_them(tmp_path, cells):
    assert read(tmp_path, cells) == [True, False, True]


def test_a_censoring_column_is_inverted(tmp_path):
    assert read(tmp_path, ("1", "0", "true"), event_means="censored") == [False, True, False]


def test_one_word_alone_is_read(tmp_path):
    assert read(tmp_path, ("Alive", "alive")) == [False, False]
    assert read(tmp_path, ("1:DECEASED", "1:DECEASED")) == [True, True]


@pytest.mark.parametrize(
    ("cells", "columns", "words"),
    [
        (("1:DECEASED", "[Not Available]", "0:LIVING"), {}, ("is empty or unknown in row 2", "take the row out")),
        (("Dead", "Alive", "moved away"), {}, ("in row 3. Write 1",)),
        (("1", "0", "-1"), {}, ("another number", "in row 3", "take out rows with an unknown event")),
        (("1:LIVING", "0:DECEASED"), {}, ("labels a living patient 1 or a deceased one 0", "rows 1, 2")),
        (("1", "2", "1"), {}, ("neither 0 nor 1 but 2", "R's survival", "row 2", "Write 1 where the event happened")),
        (("2", "2"), {}, ("R's survival", "rows 1, 2")),
        (("yes", "no"), {}, ("yes or no", "rows 1, 2", "Write 1 where the event happened")),
        (("Ja", "Nein"), {}, ("yes or no",)),
        (("0", "", "1"), {}, ("is empty", "row 2", "take the row out")),
        (("0", "NA", "1"), {}, ("is empty", "row 2")),
        (("0", "9", "1"), {}, ("neither 0 nor 1 but another number", "row 2")),
        (("Alive", "Not Reported"), {}, ("is empty or unknown", "row 2", "take the row out")),
        (("Dead", "'--"), {}, ("is empty or unknown", "row 2")),
        (("Alive", "Moved"), {}, ("neither 0 nor 1", "in row 2", "DECEASED")),
        (("0", "Dead"), {}, ("mixes several codings", "row 2", "in every row")),
        (("1:DECEASED", "Alive"), {}, ("mixes several codings",)),
        (("1:a", "0:a"), {}, ("mixes several codings",)),
        (("1:a", "1:b", "0:c"), {}, ("mixes several codings",)),
        (("Dead", "Alive"), {"event_means": "censored"}, ("in words", "event_means to happened")),
        (("1:DECEASED", "0:LIVING"), {"event_means": "censored"}, ("in words", "event_means to happened")),
    ],
)
def test_other_codings_are_refused_with_the_reason(tmp_path, cells, columns, words):
    with pytest.raises(DataError) as raised:
        read(tmp_path, cells, **columns)
    for word in (str(tmp_path / "clinical.csv"), "'event'", *words):
        assert word in str(raised.value)
    assert "Moved" not in str(raised.value)


def registry(share, rate, late, num=200, seed=0):
    """Return patients with a share of events at a rate per year; `late`: events after longer follow-up."""
    rng = np.random.default_rng(seed)
    event = rng.random(num) < share
    months = rng.exponential(1.0, num) * np.where(event == late, 2.0, 1.0)
    months *= event.sum() / rate * 12 / months.sum()
    return [PatientRecord(f"secret{i}", float(m), bool(e)) for i, (m, e) in enumerate(zip(months, event, strict=True))]


@pytest.mark.parametrize(
    ("share", "rate", "late", "doubted"),
    [
        (0.7, 0.25, True, True),
        (0.7, 0.25, False, False),  # the sicker die sooner
        (0.3, 0.1, True, False),  # most survive: survivors' follow-up says nothing
        (0.85, 0.9, True, False),  # glioblastoma: most die, within a year
    ],
)
def test_events_that_look_like_last_visits_are_doubted(share, rate, late, doubted):
    table = ClinicalTable(file="clinical.csv")
    found = list(find_reversed_events(registry(share, rate, late), table))
    assert len(found) == doubted
    for doubt in found:
        assert "'event' of clinical.csv" in str(doubt)
        assert "set data.clinical.event_means to censored" in doubt.remedy
        assert "secret" not in str(doubt)
    assert not list(find_reversed_events(registry(share, rate, late, num=20), table)), "too few patients"
