"""Read a column of events: 0/1, true/false, or the unambiguous words of registries (`1:DECEASED`, `Alive`).

A column that marks censoring becomes `event` here and nowhere else.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from memamba_core.config.site import ClinicalTable
from memamba_core.data.doubt import Doubt
from memamba_core.data.records import PatientRecord
from memamba_core.data.tables import Table

__all__ = ["find_reversed_events", "parse_events"]

MARKS = {
    **dict.fromkeys(("0", "0.0", "0,0", "false", "falsch", "faux"), False),
    **dict.fromkeys(("1", "1.0", "1,0", "true", "wahr", "vrai"), True),
}
"""Lower-case marks, truth values as Excel writes them in English, German and French."""
WORDS = {
    **dict.fromkeys(("living", "alive", "censored", "lebend", "lebt", "vivant"), False),
    **dict.fromkeys(("deceased", "dead", "died", "event", "tot", "verstorben", "gestorben", "décédé"), True),
}
"""Lower-case words that name the outcome itself, whatever `event_means` says of a 1."""
UNKNOWN = frozenset().union(
    ("", "na", "n/a", "#n/a", "nan", "null", "none", "'--", "--", "-", ".", "?", "unknown", "not reported"),
    ("not available", "not applicable", "not evaluated", "unbekannt", "inconnu"),
)
"""Lower-case cells without an answer; registries write some of them."""
_LABELLED = re.compile(r"([01]) ?[:=] ?(\S.*)")
"""cBioPortal's `1:DECEASED`: the number is 1 where the event happened, the word explains it."""
_NUMERAL = re.compile(r"[+-]?\d+([.,]0+)?")
_YES_AND_NO = frozenset(("yes", "no", "y", "n", "ja", "nein", "j", "oui", "non"))
_ONE_AND_TWO = frozenset(("1", "2", "1.0", "2.0", "1,0", "2,0"))

REVERSED_SHARE, REVERSED_RATE, REVERSED_ORDER, REVERSED_ERRORS, REVERSED_FEWEST = 0.5, 0.45, 0.54, 2.0, 30


def parse_events(table: Table, text: "pd.Series[str]", config: ClinicalTable) -> npt.NDArray[np.bool_]:
    """Return True where the event happened.

    Args:
        table: the table, for messages.
        text: cells of the column of events.
        config: settings of the table.

    Raises:
        DataError: a cell is empty, or the cells are neither 0/1 (true/false) nor the words of one coding.
    """
    cells = text.str.lower()
    unknown = cells.str.strip("[]").isin(UNKNOWN)  # TCGA writes [Not Available]
    table.refuse(config.event, unknown, "is empty or unknown", f"{_remedy(config)}, or take the row out")
    marked = cells.map(MARKS)
    if marked.notna().all():
        values = marked.to_numpy(np.bool_)
        return ~values if config.event_means == "censored" else values
    worded = _words(cells)
    if worded is None:
        what, remedy = _explain(set(cells), config)
        table.refuse(config.event, _odd_cells(cells), what, remedy)
    elif config.event_means == "censored":
        what = "says in words who had the event, against data.clinical.event_means: censored,"
        table.refuse(config.event, marked.isna(), what, "Set data.clinical.event_means to happened")
    assert worded is not None, "a column of neither numbers nor words has a row without a number"
    return worded


def find_reversed_events(records: Sequence[PatientRecord], table: ClinicalTable) -> Iterator[Doubt]:
    """Doubt the coding of events where the "events" look like last visits: many, late and at a low rate.

    Three things must hold: over half of the patients had the event; there were under 0.45 events per patient-year (a
    cancer that kills over half of its patients is faster, or was followed up for long); and patients with the event
    have the longer follow-up (a chance of 0.54 or more, two standard errors over a half), as the survivors of a cohort
    do. docs/reference/data.md says how many TCGA cohorts this rule finds when they are read the wrong way.
    """
    months = np.array([r.time_months for r in records])
    event = np.array([r.event for r in records], np.bool_)
    num, events = len(records), int(event.sum())
    if num < REVERSED_FEWEST or not REVERSED_SHARE * num < events < num or not months.any():
        return
    ranks = pd.Series(months).rank().to_numpy()
    longer = (ranks[event].sum() - events * (events + 1) / 2) / (events * (num - events))
    error = np.sqrt((num + 1) / (12 * events * (num - events)))
    rate = events / (months.sum() / 12)
    if rate < REVERSED_RATE and longer >= REVERSED_ORDER and longer > 0.5 + REVERSED_ERRORS * error:
        yield Doubt(
            "events",
            f"{events} of {num} patients had the event, at {rate:.2g} events per patient-year and after longer "
            f"follow-up (median {np.median(months[event]):.0f} months) than those without "
            f"({np.median(months[~event]):.0f}), as if column {table.event!r} of {table.file} marked the censored",
            f"compare the number of events with the registry; if it is that of the patients without the event, set "
            f"data.clinical.event_means to {'censored' if table.event_means == 'happened' else 'happened'}",
        )


def _words(cells: "pd.Series[str]") -> npt.NDArray[np.bool_] | None:
    """Return the events of a column in words; None if the cells are not of one such coding."""
    if cells.isin(WORDS).all():
        return cells.map(WORDS).to_numpy(np.bool_)
    words_of: dict[str, set[str]] = {"0": set(), "1": set()}
    for cell in cells.unique():
        match = _LABELLED.fullmatch(cell)
        if match is None or WORDS.get(match[2], match[1] == "1") != (match[1] == "1"):
            return None
        words_of[match[1]].add(match[2])
    if max(map(len, words_of.values())) > 1 or words_of["0"] & words_of["1"]:
        return None
    return cells.str.startswith("1").to_numpy(np.bool_)


def _odd_cells(cells: "pd.Series[str]") -> npt.NDArray[np.bool_]:
    """Return True for the cells that are not of the most frequent coding."""
    labelled = cells.map(lambda cell: _LABELLED.fullmatch(cell) is not None)
    of_coding = [cells.isin(MARKS), cells.isin(WORDS), labelled]
    most = max(of_coding, key=lambda rows: int(rows.sum()))
    return np.ones(len(cells), np.bool_) if most.all() else ~most.to_numpy(np.bool_)


def _explain(found: set[str], config: ClinicalTable) -> tuple[str, str]:
    """Return the fault of a column that is not read, and the remedy."""
    write = _remedy(config)
    if found <= _ONE_AND_TWO:
        what = "is neither 0 nor 1 but 2 (R's survival package codes an event as 2 and a censored patient as 1)"
        return what, f"{write}; the reader does not guess, because other programs code the reverse"
    if found <= _YES_AND_NO:
        return "is neither 0 nor 1 but yes or no (in some language)", write
    labels = [match for match in map(_LABELLED.fullmatch, found) if match]
    if any(WORDS.get(match[2], match[1] == "1") != (match[1] == "1") for match in labels):
        return "labels a living patient 1 or a deceased one 0", f"{write}, without the words"
    if found > MARKS.keys() & found and all(_NUMERAL.fullmatch(cell) for cell in found - MARKS.keys()):
        what = "is neither 0 nor 1 but another number, such as a code for unknown or for another cause of death,"
        return what, f"{write}, and take out rows with an unknown event"
    if all(cell in MARKS or cell in WORDS or _LABELLED.fullmatch(cell) for cell in found):
        return "mixes several codings of the event", f"{write}, in every row"
    return "is neither 0 nor 1 (nor true or false, nor words such as ALIVE, DECEASED, 1:DECEASED)", write


def _remedy(config: ClinicalTable) -> str:
    return f"Write 1 where the event {_MEANS[config.event_means]}, else 0"


_MEANS = {"happened": "happened", "censored": "did not happen (data.clinical.event_means is censored)"}
