"""Find follow-up times that stand for something else: codes for unknown, zeros, and one time of many events."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["find_repeated_times"]

FEWEST = 10
"""Fewest patients of a table in which repeated times are looked for."""
SHARE = 0.12
"""Share of patients (or of events) at one time, above which a time is looked at; in six TCGA cohorts at most 0.02."""
ZERO_SHARE = 0.08
"""Share of patients with a time of zero, above which zero likely stands for an unknown time."""
GAP = 1.5
"""Factor between the largest time and the next, above which a repeated largest time is a code and no last visit."""
SINGLE_GAP = 4.0
"""The same for a largest time that one patient has; in six TCGA cohorts at most 1.5, in a hospital of them 2.2."""
MONTHS_OF_A_YEAR, DAYS_OF_A_YEAR = 12.0, 365.25


def find_repeated_times(
    cells: npt.NDArray[np.float64], event: npt.NDArray[np.bool_]
) -> Iterator[tuple[str, str, npt.NDArray[np.bool_]]]:
    """Find times that are shared as no measured times are.

    Many censored patients at one last day are usual: the end of a study, or of five years of follow-up. Many events at
    one time are not, nor is a last day far beyond all others.

    Args:
        cells: follow-up of the patients in the unit of the table.
        event: True where the event happened.

    Yields:
        What was found, a phrase; the remedy; True for the patients it concerns.
    """
    if len(cells) < FEWEST:
        return
    times, index, counts = np.unique(cells, return_inverse=True, return_counts=True)
    events = np.bincount(index, weights=event, minlength=len(times)).astype(int)
    zeros = cells == 0
    if zeros.mean() >= ZERO_SHARE and zeros.sum() >= 5:
        text = f"{zeros.sum()} of {len(cells)} patients have a follow-up of 0"
        yield text, "if 0 stands for an unknown time, take these rows out", zeros
    for place in np.flatnonzero((counts >= 3) | (np.arange(len(times)) == len(times) - 1)).tolist():
        what = None if times[place] == 0 else _suspicion(place, times, counts, events)
        if what is not None:
            remedy = "if this time stands for an unknown one, take these rows out"
            yield f"{counts[place]} of {len(cells)} patients {what}", remedy, cells == times[place]
            return


def _suspicion(
    place: int,
    times: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    events: npt.NDArray[np.int64],
) -> str | None:
    """Say what is odd about a time, a phrase after `N patients`; None if nothing is."""
    time, count, total = times[place], int(counts[place]), int(counts.sum())
    most_elsewhere = _most_elsewhere(counts, place)
    largest = place == len(times) - 1
    below = times[place - 1] if place else 0.0
    if len(times) == 1:
        return "have the same follow-up" if events[place] else None
    if _is_code(time) and count >= 3 and count >= max(0.02 * total, 2 * most_elsewhere):
        return f"share the follow-up {time:.0f}, a usual code for unknown" + (", the largest" if largest else "")
    if largest and below and time > (GAP if count >= 3 or _is_code(time) else SINGLE_GAP) * below:
        return f"{'share' if count > 1 else 'with'} the largest follow-up, {time / below:.1f} times the next"
    if largest and count >= 5 and events[place] >= max(3, 0.25 * count):
        return f"share the largest follow-up, and {events[place]} of them had the event then"
    if events[place] >= max(5, SHARE * events.sum(), 3 * _most_elsewhere(events, place)):
        return f"share one follow-up time, and {events[place]} of them had the event then"
    crowded = count >= 5 and count >= SHARE * total and count >= 3 * most_elsewhere
    if crowded and not largest and not (events[place] == 0 and _is_anniversary(time)):
        return "share one follow-up time, which is not the largest"
    return None


def _most_elsewhere(counts: npt.NDArray[np.int64], place: int) -> int:
    """Return the largest count at any other place."""
    return int(max(counts[:place].max(initial=0), counts[place + 1 :].max(initial=0)))


def _is_code(time: float) -> bool:
    """Return True for numbers of nines or eights only, from 99 on: usual codes for unknown."""
    text = f"{time:.0f}"
    return time == float(text) and len(text) >= 2 and set(text) in ({"9"}, {"8"}) and time >= 88


def _is_anniversary(time: float) -> bool:
    """Return True for whole years in months or days: ends of planned follow-up."""
    years = (time / MONTHS_OF_A_YEAR, time / DAYS_OF_A_YEAR, time / 365, time / 360)
    return any(abs(value - round(value)) < 0.005 and round(value) >= 1 for value in years)
