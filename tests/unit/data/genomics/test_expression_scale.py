import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.data.genomics.expression_scale import ColumnScale, compare_scales
from memamba_core.data.statistics import column_moments, signed_log

GENES = 300


def tumours(rng, *sizes):
    """Return log2(TPM + 1) of one tumour per size: a quarter of the genes silent, tumours shifted gene by gene."""
    base = np.where(rng.random(GENES) < 0.25, rng.normal(-1, 1, GENES), rng.normal(4, 2.5, GENES))
    spread = 0.8 * np.exp(rng.normal(0, 0.35, GENES))
    for size in sizes:
        mean = base + rng.standard_t(4, GENES) * 0.8
        yield np.clip(rng.normal(mean, spread, (size, GENES)) + rng.normal(0, 0.15, (size, 1)), 0, None)


def zscores(values):
    return (values - values.mean(0)) / (values.std(0) + 1e-3)


RANK = ("log10", "log2", "tpm", "counts", "z")  # by size of the values
KINDS = {
    "log2": lambda u: u,
    "log10": lambda u: u * np.log10(2),
    "tpm": lambda u: 2**u - 1,
    "counts": lambda u: np.round((2**u - 1) * 30),
    "z": zscores,
}


def compare(one, other):
    return compare_scales(*(ColumnScale.of_values(signed_log(values)) for values in (one, other)))


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(sorted(KINDS)),
    sizes=st.tuples(st.integers(10, 80), st.integers(20, 80)),
)
def test_two_tumours_on_one_scale_raise_no_doubt(seed, kind, sizes):
    first, second = tumours(np.random.default_rng(seed), *sizes)
    assert not compare(KINDS[kind](first), KINDS[kind](second)).doubtful


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(KINDS, 2)))
def test_two_scales_are_doubtful_and_all_but_the_two_logarithms_wrong(one, other):
    first, second = tumours(np.random.default_rng(1), 40, 60)
    difference = compare(KINDS[one](first), KINDS[other](second))
    assert difference.doubtful
    assert difference.wrong or {one, other} in ({"log2", "log10"}, {"log10", "z"})
    assert (difference.shift > 0) == (RANK.index(one) > RANK.index(other)) or "z" in (one, other)


@pytest.mark.parametrize(("kind", "other", "wrong"), [("log2", "log2", 0), ("tpm", "log2", 1), ("z", "tpm", 1)])
def test_one_patient_is_compared_without_a_spread(kind, other, wrong):
    first, second = tumours(np.random.default_rng(2), 40, 60)
    difference = compare(KINDS[kind](first)[:1], KINDS[other](second))
    assert np.isnan(difference.ratio)
    assert "spread" not in str(difference)
    assert difference.wrong == bool(wrong)


def test_moments_of_a_site_and_values_give_one_scale():
    values = zscores(next(tumours(np.random.default_rng(3), 25))) + np.arange(GENES)
    values[:, 0] = np.nan
    values[3, 1] = np.nan
    sums = ColumnScale.of_moments(column_moments([values[:9], values[9:]], GENES))
    direct = ColumnScale.of_values(values)
    for name in ("count", "location", "spread"):
        np.testing.assert_allclose(getattr(sums, name), getattr(direct, name), atol=1e-12)
    assert compare_scales(sums, direct).num_columns == GENES - 1


def test_fewer_than_ten_columns_are_not_compared():
    first, second = tumours(np.random.default_rng(4), 20, 20)
    assert compare(first[:, :9], 2 ** second[:, :9]) is None
    assert compare(first[:, :10], 2 ** second[:, :10]) is not None


def test_a_difference_is_described_with_its_numbers():
    first, second = tumours(np.random.default_rng(5), 30, 30)
    text = str(compare(2**first - 1, second))
    assert text.startswith("the median of 2")  # without genes that neither expresses
    for words in (" columns lies ", "standard deviations higher", "% of them lie more than 5", "typical spread is "):
        assert words in text


@pytest.mark.ci_slow
@pytest.mark.real_data
def test_no_two_tcga_cohorts_differ_in_scale(data_root):
    names = ("tcga_blca_mcat", "tcga_luad_mcat", "tcga_brca_porpoise", "tcga_gbmlgg_porpoise")
    tables = [pd.read_csv(data_root / f"cohorts/{name}.csv.gz", low_memory=False) for name in names]
    for one, other in itertools.permutations(tables, 2):
        shared = [c for c in one.columns if c.endswith("_rnaseq") and c in other.columns]
        first, second = one[shared].to_numpy(float), other[shared].to_numpy(float)
        assert not compare(first, second).doubtful
        for row in range(0, len(first), 25):
            assert not compare(first[row : row + 1], second).doubtful
            assert not compare(first[row : row + 10], second).doubtful
        assert compare(first, first * 100).wrong
