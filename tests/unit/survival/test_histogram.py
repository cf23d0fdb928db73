"""Histogram index: sites add up, and its error is that of the module's docstring."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.errors import NoComparablePairError
from memamba_core.survival import (
    NUM_RISK_BINS,
    PairCounts,
    concordance_index,
    count_pairs,
    grid_cells,
    pair_counts_from_histogram,
    risk_edges,
    risk_time_histogram,
)

NUM_BINS, STEP, NUM_CELLS = 4, 6.0, 40
PATIENTS = st.lists(st.tuples(st.floats(-NUM_BINS, 0), st.floats(0, 300), st.booleans()), max_size=20)


def _arrays(patients):
    risk, time, event = zip(*patients, strict=True) if patients else ((), (), ())
    return np.array(risk, dtype=float), np.array(time, dtype=float), np.array(event, dtype=bool)


def _histogram(risk, time, event, step=STEP, num_cells=NUM_CELLS):
    return risk_time_histogram(risk, time, event, NUM_BINS, step, num_cells)


def _cohort(num, mean_survival, spread, months, seed):
    """Draw constant hazards per patient with a mean survival over the bins near `mean_survival`."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=num)
    happens, leaves = (
        rng.exponential(months / np.log(2) * np.exp(-0.7 * score)),
        rng.exponential(months, size=num),
    )
    hazards = np.linspace(0.0005, 0.999, 5000)
    means = np.mean([(1 - hazards) ** k for k in range(1, NUM_BINS + 1)], axis=0)
    center = np.interp(-mean_survival, -means, np.log(hazards / (1 - hazards)))
    hazard = 1 / (1 + np.exp(-(center + spread * (score + 0.3 * rng.normal(size=num)))))
    risk = -sum((1 - hazard) ** k for k in range(1, NUM_BINS + 1))
    return risk, np.minimum(happens, leaves), happens <= leaves


def _slow_pair_counts(counts) -> PairCounts:
    """Compare every patient with every other, one patient per count."""
    patients = [(event, r, t) for event, r, t in np.ndindex(*counts.shape) for _ in range(counts[event, r, t])]
    later = [(r, other) for event, r, t in patients for _, other, o in patients if event and t < o]
    return PairCounts(sum(r > o for r, o in later), sum(r < o for r, o in later), sum(r == o for r, o in later))


@given(PATIENTS)
def test_pairs_are_those_of_the_double_loop(patients):
    counts = _histogram(*_arrays(patients))
    assert counts.shape == (2, NUM_RISK_BINS, NUM_CELLS)
    assert counts.sum() == len(patients)
    assert counts[1].sum() == sum(event for _, _, event in patients)
    assert pair_counts_from_histogram(counts) == _slow_pair_counts(counts)


@given(PATIENTS, PATIENTS)
def test_histograms_of_sites_add_up_to_that_of_all_patients(here, there):
    together = _histogram(*_arrays(here)) + _histogram(*_arrays(there))
    np.testing.assert_array_equal(together, _histogram(*_arrays(here + there)))


@given(PATIENTS)
def test_it_is_the_exact_index_of_what_the_cells_keep(patients):
    # Twin: exact counts after moving patients onto their cells, so that all times of a cell are equal. An event would
    # then be compared with a patient censored in the same cell, so censored patients are moved before the cell.
    risk, time, event = _arrays(patients)
    cells = grid_cells(time, STEP, NUM_CELLS)
    risk_cells = np.searchsorted(risk_edges(NUM_BINS), risk, side="right")
    moved = np.where(event, cells, cells - 0.5)
    assert pair_counts_from_histogram(_histogram(risk, time, event)) == count_pairs(
        risk_cells.astype(float), moved.astype(float), event
    )


def test_risk_edges_are_fixed_ascending_and_finer_at_both_ends():
    edges = risk_edges(NUM_BINS)
    assert edges.shape == (NUM_RISK_BINS - 1,)
    widths = np.diff(edges)
    assert edges[0] > -NUM_BINS
    assert edges[-1] < 0
    assert (widths > 0).all()
    np.testing.assert_allclose(edges, -NUM_BINS - edges[::-1], atol=1e-12)  # the same from both ends
    assert widths.max() == widths[len(widths) // 2] < 0.025 * NUM_BINS
    assert widths[0] < 0.004 * NUM_BINS


# Mean survival, spread of the log odds of the hazard, median months; bounds of the module's docstring.
@pytest.mark.parametrize(
    ("mean_survival", "spread", "months", "risk_error", "time_error"),
    [
        pytest.param(0.60, 1.00, 30, 0.004, 0.03, id="ordinary"),
        pytest.param(0.93, 0.70, 90, 0.006, 0.015, id="few deaths"),
        pytest.param(0.985, 0.70, 200, 0.015, 0.006, id="very few deaths"),
        pytest.param(0.30, 1.00, 12, 0.004, 0.045, id="deaths within a year"),
        pytest.param(0.60, 0.20, 30, 0.015, 0.03, id="risks over two cells"),
        pytest.param(0.60, 0.05, 30, 0.08, 0.03, id="risks inside one cell"),
    ],
)
def test_error_is_as_stated(mean_survival, spread, months, risk_error, time_error):
    by_risk, by_time = [], []
    for seed in range(4):
        risk, time, event = _cohort(600, mean_survival, spread, months, seed)
        exact = concordance_index(risk, time, event)
        cells = grid_cells(time, STEP, NUM_CELLS)
        coarse = concordance_index(risk, np.where(event, cells, cells - 0.5), event)  # cells of time, exact risk
        by_time.append(coarse - exact)
        by_risk.append(pair_counts_from_histogram(_histogram(risk, time, event)).c_index - coarse)
    assert np.abs(by_risk).max() < risk_error
    assert np.mean(by_risk) < 0.001  # towards one half, never away from it
    assert -0.001 < np.mean(by_time) < time_error


def test_it_becomes_the_exact_index_as_cells_of_time_shrink():
    risk, time, event = _cohort(400, 0.6, 1.0, 30, 0)
    exact = concordance_index(risk, time, event)
    errors = [
        abs(pair_counts_from_histogram(_histogram(risk, time, event, step, round(300 / step))).c_index - exact)
        for step in (12.0, 3.0, 0.75, 0.1)
    ]
    assert errors[0] > errors[1] > errors[-1]
    assert errors[-1] < 0.003  # the rest is due to the cells of risk


def test_sites_that_never_meet_are_compared_in_the_sum():
    # One site has only deaths, the other only survivors: neither has a comparable pair inside.
    deaths = _arrays([(-1.0, 3.0, True)])
    survivors = _arrays([(-3.0, 50.0, False), (-0.5, 50.0, False)])
    assert count_pairs(*deaths) + count_pairs(*survivors) == PairCounts()
    assert pair_counts_from_histogram(_histogram(*deaths) + _histogram(*survivors)) == PairCounts(1, 1, 0)


def test_nobody_and_no_event_give_no_index():
    for patients in ([], [(-1.0, 3.0, False), (-2.0, 90.0, False)], [(-1.0, 3.0, True), (-2.0, 4.0, True)]):
        with pytest.raises(NoComparablePairError):
            _ = pair_counts_from_histogram(_histogram(*_arrays(patients))).c_index


def test_what_is_not_a_risk_or_a_count_is_refused():
    time, event = np.array([3.0, 9.0]), np.array([True, False])
    for risk in ([0.2, 0.7], [-5.0, -1.0], [-4.01, -1.0]):  # survival, or the risk of a model with more bins
        with pytest.raises(ValueError, match=r"expected \[-4, 0\]"):
            _histogram(np.array(risk), time, event)
    assert _histogram(np.array([-4.0005, 0.0005]), time, event).sum() == 2  # rounding of a sum
    with pytest.raises(ValueError, match="not finite"):
        _histogram(np.array([np.nan, -1.0]), time, event)
    with pytest.raises(ValueError, match="negative counts"):
        pair_counts_from_histogram(-_histogram(np.array([-1.0, -2.0]), time, event))
