"""Time bins of the model, and the coarse grid on which sites count events.

A site never cuts time by its own patients. Sites count events on a public grid, the counts are summed, and
the edges of the bins come from the sum. So the edges are the same at every site and describe no single patient.
"""

import bisect
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Int64

__all__ = ["assign_time_bin", "assign_time_bins", "edges_from_event_counts", "grid_cell", "grid_cells"]


def edges_from_event_counts(
    event_counts: Int[np.ndarray, " T"], grid_step_months: float, num_bins: int
) -> tuple[float, ...] | None:
    """Choose the interior edges of the time bins at quantiles of the federation's event times.

    Every edge is a line of the grid: for each j = 1...K-1 the line that has closest to j/K of all events
    before it (the earlier one of two equally close). Quantiles of *event* times follow Zadeh & Schmid (2020),
    so that each bin has events to learn its hazard from; each resulting bin holds at least one event.

    Args:
        event_counts: events (`event=True` only, censored patients do not count) per grid cell, summed over
            sites. Cell c is [c, c + 1) steps from diagnosis, the last is open.
        grid_step_months: width of a cell in months.
        num_bins: number K of bins wanted.

    Returns:
        K-1 ascending edges in months, or None if fewer than K-1 of them are distinct (few or no events, or
        all events close together). The caller then applies the public edges of the config and says so.

    Raises:
        ValueError: a negative count, a step that is not positive, or fewer than two bins.
    """
    if num_bins < 2:
        raise ValueError(f"num_bins is {num_bins}; expected 2 or more")
    if not (math.isfinite(grid_step_months) and grid_step_months > 0):
        raise ValueError(f"grid_step_months is {grid_step_months}; expected a positive number of months")
    counts = [int(count) for count in event_counts]
    if any(count < 0 for count in counts):
        raise ValueError(f"event_counts holds {min(counts)}; expected counts of patients, which are zero or more")
    total = sum(counts)

    # Line i lies i steps from diagnosis. A line with all events on one side would leave an empty bin. Of several
    # lines with the same events before them the first is kept: then there is an event between any two edges.
    lines: list[int] = []
    events_before: list[int] = []
    seen = 0
    for line, count in enumerate(counts[:-1], start=1):
        seen += count
        if count and 0 < seen < total:
            lines.append(line)
            events_before.append(seen)
    if not lines:
        return None

    chosen = {
        # Integers throughout, so that rounding never decides between two equally close lines.
        lines[min(range(len(lines)), key=lambda i: abs(num_bins * events_before[i] - j * total))]
        for j in range(1, num_bins)
    }
    if len(chosen) < num_bins - 1:
        return None
    return tuple(line * grid_step_months for line in sorted(chosen))


def assign_time_bin(time_months: float, edges: Sequence[float]) -> int:
    """Return the index of the bin that holds a time.

    Args:
        time_months: months from diagnosis to the event or to the last visit; both are binned in the same way.
        edges: the K-1 agreed interior edges in months, ascending.

    Returns:
        0...K-1. Bins are [a, b): a time on an edge belongs to the later bin. The last bin is open.

    Raises:
        ValueError: a time that is negative or not finite.
    """
    _check_time(time_months)
    return bisect.bisect_right(edges, time_months)


def assign_time_bins(times_months: Float[np.ndarray, " n"], edges: Sequence[float]) -> Int64[np.ndarray, " n"]:
    """Apply `assign_time_bin` to many patients at once."""
    _check_times(times_months)
    return np.searchsorted(np.asarray(edges, dtype=np.float64), times_months, side="right").astype(np.int64)


def grid_cell(time_months: float, step: float, num_cells: int) -> int:
    """Return the index of the cell of the coarse grid that holds a time.

    Args:
        time_months: months from diagnosis to the event or to the last visit.
        step: width of a cell in months.
        num_cells: number of cells; the last is open.

    Returns:
        0...num_cells-1. Cell c is [c * step, (c + 1) * step).

    Raises:
        ValueError: a time that is negative or not finite, a step that is not positive, or no cell.
    """
    _check_time(time_months)
    _check_grid(step, num_cells)
    # Not `time // step`: 0.3 // 0.1 is 2. The lines are computed as in the agreed edges.
    return bisect.bisect_right(range(1, num_cells), time_months, key=lambda line: line * step)


def grid_cells(times_months: Float[np.ndarray, " n"], step: float, num_cells: int) -> Int64[np.ndarray, " n"]:
    """Apply `grid_cell` to many patients at once."""
    _check_times(times_months)
    _check_grid(step, num_cells)
    lines = np.arange(1, num_cells, dtype=np.float64) * step
    return np.searchsorted(lines, times_months, side="right").astype(np.int64)


def _check_time(time_months: float) -> None:
    if not (math.isfinite(time_months) and time_months >= 0):
        raise ValueError(f"time_months is {time_months}; expected zero or more months, and finite")


def _check_times(times_months: Float[np.ndarray, " n"]) -> None:
    bad = ~(np.isfinite(times_months) & (times_months >= 0))
    if bad.any():
        raise ValueError(
            f"times_months holds {int(bad.sum())} values that are negative or not finite; expected zero or more months"
        )


def _check_grid(step: float, num_cells: int) -> None:
    if not (math.isfinite(step) and step > 0):
        raise ValueError(f"step is {step}; expected a positive number of months")
    if num_cells < 1:
        raise ValueError(f"num_cells is {num_cells}; expected at least one cell")
