"""Time bins: one patient and many patients are cut in the same way."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.survival import assign_time_bin, assign_time_bins, edges_from_event_counts, grid_cell, grid_cells

EVENT_COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=40)
TIMES = st.lists(st.floats(0, 500), max_size=30)


def _counts(*counts: int) -> np.ndarray:
    return np.array(counts, dtype=np.int64)


def test_edges_are_quantiles_of_the_event_times():
    assert edges_from_event_counts(_counts(10, 10, 10, 10), 6.0, 4) == (6.0, 12.0, 18.0)
    assert edges_from_event_counts(_counts(1, 9, 10, 5, 10, 4, 1), 6.0, 4) == (12.0, 18.0, 24.0)
    assert edges_from_event_counts(_counts(0, 3, 0, 3, 0), 2.5, 2) == (5.0,)


@pytest.mark.parametrize(
    "counts",
    [
        pytest.param([0, 0, 0, 0, 0], id="no event"),
        pytest.param([0, 0, 40, 0, 0], id="all in one cell"),
        pytest.param([40, 1, 1, 1, 0], id="most in the first cell"),
        pytest.param([1, 1, 0, 0, 60], id="most in the open cell"),
        pytest.param([1, 1, 1, 0, 0], id="fewer events than bins"),
        pytest.param([7], id="a grid of one cell"),
    ],
)
def test_too_few_distinct_edges_give_none(counts):
    assert edges_from_event_counts(_counts(*counts), 6.0, 4) is None


@given(EVENT_COUNTS, st.integers(2, 6))
def test_edges_are_distinct_lines_of_the_grid_with_an_event_in_every_bin(counts, num_bins):
    edges = edges_from_event_counts(_counts(*counts), 6.0, num_bins)
    if edges is None:
        return
    assert len(edges) == num_bins - 1
    assert list(edges) == sorted(set(edges))
    cuts = [0, *(round(edge / 6.0) for edge in edges), len(counts)]
    assert cuts[1] > 0
    assert cuts[-2] < len(counts)
    assert all(sum(counts[a:b]) > 0 for a, b in itertools.pairwise(cuts))


@given(EVENT_COUNTS, st.integers(2, 6), st.integers(1, 5))
def test_edges_do_not_depend_on_how_many_patients_stand_for_one(counts, num_bins, factor):
    once = edges_from_event_counts(_counts(*counts), 6.0, num_bins)
    assert edges_from_event_counts(factor * _counts(*counts), 6.0, num_bins) == once


def test_edges_refuse_what_is_not_a_count():
    with pytest.raises(ValueError, match="which are zero or more"):
        edges_from_event_counts(_counts(3, -1, 4), 6.0, 2)
    with pytest.raises(ValueError, match="expected a positive number of months"):
        edges_from_event_counts(_counts(3, 1, 4), 0.0, 2)
    with pytest.raises(ValueError, match="num_bins is 1; expected 2 or more"):
        edges_from_event_counts(_counts(3, 1, 4), 6.0, 1)


def test_a_time_on_an_edge_belongs_to_the_later_bin():
    edges = (12.0, 24.0, 48.0)
    assert [assign_time_bin(t, edges) for t in (0.0, 11.99, 12.0, 47.9, 48.0, 1e6)] == [0, 0, 1, 2, 3, 3]
    assert assign_time_bin(3.0, ()) == 0


@given(TIMES, st.lists(st.floats(0.1, 400), max_size=6, unique=True).map(sorted))
def test_many_bins_at_once_are_one_by_one(times, edges):
    together = assign_time_bins(np.array(times, dtype=np.float64), edges)
    assert together.tolist() == [assign_time_bin(t, edges) for t in times]


@given(TIMES, st.floats(0.1, 24), st.integers(1, 80))
def test_many_cells_at_once_are_one_by_one_and_hold_their_time(times, step, num_cells):
    together = grid_cells(np.array(times, dtype=np.float64), step, num_cells)
    assert together.tolist() == [grid_cell(t, step, num_cells) for t in times]
    for time, cell in zip(times, together.tolist(), strict=True):
        assert cell * step <= time
        assert time < (cell + 1) * step or cell == num_cells - 1


@given(st.sampled_from([0.1, 0.3, 1 / 3, 6.0, 30.4375]), st.integers(1, 39))
def test_cells_and_edges_meet_without_rounding(step, line):
    # An edge is a line of the grid: a time counted before the line must be binned before the edge.
    edge = line * step
    before = math.nextafter(edge, 0)
    assert (grid_cell(before, step, 40), grid_cell(edge, step, 40)) == (line - 1, line)
    assert (assign_time_bin(before, (edge,)), assign_time_bin(edge, (edge,))) == (0, 1)


@pytest.mark.parametrize("time", [-0.1, math.nan, math.inf])
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(ValueError, match="finite"):
        assign_time_bin(time, (12.0,))
    with pytest.raises(ValueError, match="finite"):
        grid_cell(time, 6.0, 10)
    with pytest.raises(ValueError, match="1 values that are negative or not finite"):
        assign_time_bins(np.array([1.0, time]), (12.0,))
    with pytest.raises(ValueError, match="1 values that are negative or not finite"):
        grid_cells(np.array([1.0, time]), 6.0, 10)


def test_a_grid_that_is_none_is_refused():
    with pytest.raises(ValueError, match="expected a positive number of months"):
        grid_cell(1.0, -6.0, 10)
    with pytest.raises(ValueError, match="at least one cell"):
        grid_cells(np.array([1.0]), 6.0, 0)
