"""Survival at any month: the model's own at the edges, never rising between them, unknown after the last."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.survival.interpolation import survival_at

EDGES = (6.0, 12.0, 30.0)
CURVES = np.array([[0.9, 0.6, 0.3, 0.1], [1.0, 0.5, 0.0, 0.0]])


def test_at_the_edges_it_is_the_survival_of_the_model_and_one_at_the_start():
    np.testing.assert_allclose(survival_at(CURVES, EDGES, [0, *EDGES]), np.c_[[1, 1], CURVES[:, :3]])


def test_between_edges_the_hazard_rate_is_constant():
    np.testing.assert_allclose(survival_at(CURVES, EDGES, 9.0), np.sqrt(CURVES[:, 0] * CURVES[:, 1]))
    np.testing.assert_allclose(survival_at(CURVES[:1], EDGES, 2.0), 0.9 ** (1 / 3))


def test_after_the_last_edge_it_is_unknown():
    values = survival_at(CURVES, EDGES, [30.0, 30.001, 500.0])
    assert np.isnan(values[:, 1:]).all()
    assert not np.isnan(values[:, 0]).any()


@given(st.lists(st.floats(0, 30), min_size=2, max_size=20).map(sorted))
def test_it_never_rises(months):
    values = survival_at(CURVES, EDGES, months)
    assert (np.diff(values, axis=1) <= 1e-12).all()
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("months", [-1.0, float("nan"), [1.0, float("inf")]])
def test_times_that_are_none_are_refused(months):
    with pytest.raises(ValueError, match="expected finite times of 0 or more"):
        survival_at(CURVES, EDGES, months)


def test_edges_of_another_model_are_refused():
    with pytest.raises(ValueError, match="4 columns; expected 3"):
        survival_at(CURVES, EDGES[:2], 1.0)


def test_no_patient_is_no_value():
    assert survival_at(CURVES[:0], EDGES, [1.0, 2.0]).shape == (0, 2)
