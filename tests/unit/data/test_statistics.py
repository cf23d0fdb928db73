"""Sums of sites, added up, are the sums of the pooled table: no rows of a site are needed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memamba_core.config.agreement import AgreementConfig
from memamba_core.data.statistics import ColumnMoments, column_moments, merge_moments, transform_genes

WIDTH = 3
CELLS = st.one_of(st.floats(-10, 10), st.just(np.nan), st.just(7.0), st.just(36_893.0))
TABLES = st.lists(hnp.arrays(np.float64, st.tuples(st.integers(0, 6), st.just(WIDTH)), elements=CELLS), max_size=5)


def of_the_pooled_table(values_NC):
    """The slow, obvious twin."""
    columns = [column[~np.isnan(column)] for column in values_NC.T]
    count = np.array([len(c) for c in columns], dtype=float)
    mean = np.array([c.mean() if len(c) else 0.0 for c in columns])
    m2 = np.array([((c - c.mean()) ** 2).sum() if len(c) else 0.0 for c in columns])
    return ColumnMoments(count, mean, m2)


@given(TABLES)
def test_sites_added_up_are_the_pooled_table(tables):
    config = AgreementConfig()
    sites = [transform_genes(table, config) for table in tables]
    merged = merge_moments([column_moments([site], WIDTH) for site in sites], WIDTH)
    pooled = of_the_pooled_table(np.concatenate([np.zeros((0, WIDTH)), *sites]))
    np.testing.assert_array_equal(merged.count, pooled.count)
    np.testing.assert_allclose(merged.mean, pooled.mean, atol=1e-12)
    np.testing.assert_allclose(merged.m2, pooled.m2, atol=1e-9)
    assert (merged.m2 >= 0).all()


def test_a_large_mean_does_not_cancel():
    """The naive sum of squares loses everything here: 1e9 squared has no digits left for a variance of 1."""
    rng = np.random.default_rng(0)
    parts = [1e9 + rng.standard_normal((50, 1)) for _ in range(4)]
    merged = merge_moments([column_moments([part], 1) for part in parts], 1)
    assert merged.std[0] == pytest.approx(np.concatenate(parts).std(), rel=1e-6)


def test_sites_under_their_floor_change_nothing():
    moments = column_moments([np.array([[1.0, 2.0], [3.0, np.nan]])], 2)
    merged = merge_moments([ColumnMoments.zeros(2), moments, ColumnMoments.zeros(2)], 2)
    for name, array in moments.arrays().items():
        np.testing.assert_array_equal(merged.arrays()[name], array)


def test_no_rows_give_zeros_and_no_warning():
    merged = merge_moments([], 2)
    assert merged.count.tolist() == merged.std.tolist() == [0.0, 0.0]


def test_huge_values_are_clipped_before_they_are_summed():
    """RNA z-scores reach 36,893; a single one must not set the scale of the federation."""
    config = AgreementConfig()
    values = transform_genes(np.array([36_893.0, -36_893.0, 1.0, 0.0, np.nan]), config)
    np.testing.assert_allclose(values, [10.0, -10.0, np.log(2.0), 0.0, np.nan])
    plain = transform_genes(np.array([36_893.0, 2.5]), AgreementConfig(gene_transform="none"))
    assert plain.tolist() == [10.0, 2.5]
