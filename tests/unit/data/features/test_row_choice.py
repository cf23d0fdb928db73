"""Which rows a cap keeps: exactly so many, in order, each slide its share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.data.features.row_choice import choose_rows


@given(st.integers(0, 10**9), st.integers(1, 300), st.booleans())
def test_a_cap_keeps_exactly_so_many_rows_in_order(num_rows, cap, random):
    if num_rows <= cap:
        num_rows = num_rows % 300
    if random:
        num_rows %= 10_000
    rows = choose_rows(num_rows, cap, np.random.default_rng(0) if random else None)
    assert len(rows) == min(cap, num_rows)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert not len(rows) or (rows[0] >= 0 and rows[-1] < num_rows)


@given(st.lists(st.integers(0, 400), min_size=1, max_size=5), st.integers(1, 200))
def test_evenly_spaced_rows_give_each_slide_its_share(sizes, cap):
    rows, ends = choose_rows(sum(sizes), cap, None), np.cumsum(sizes)
    kept = np.diff(np.searchsorted(rows, np.concatenate([[0], ends])))
    share = np.array(sizes) * min(1.0, cap / max(sum(sizes), 1))
    assert (np.abs(kept - share) <= 1).all()


def test_a_cap_of_zero_is_refused():
    with pytest.raises(ValueError, match="max_patches is 0; expected at least 1, or None"):
        choose_rows(5, 0, None)
