"""Norm of an update, and the bound that a site keeps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.training.update_norm import ROUNDING, bound_update, update_norm
from memamba_core.wire.weight_deltas import decode_delta, encode_delta

SHAPES = {"a": (3, 4), "b": (5,), "c": ()}


def arrays(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: (scale * rng.standard_normal(shape)).astype(np.float32) for name, shape in SHAPES.items()}


def shifted(base, change):
    return {name: (base[name] + change[name]).astype(np.float32) for name in base}


def test_the_norm_is_over_all_parameters():
    base = arrays(0)
    other = {name: base[name] + np.float32(0.5) for name in base}
    assert update_norm(other, base) == pytest.approx(0.5 * np.sqrt(18))
    assert update_norm(base, base) == 0.0


@pytest.mark.parametrize("limit", [None, 1e3])
def test_an_update_within_the_limit_keeps_its_bits(limit):
    base = arrays(0)
    weights = shifted(base, arrays(1))
    bounded = bound_update(weights, base, limit)
    assert all(bounded[name].tobytes() == weights[name].tobytes() for name in base)


@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_a_longer_update_keeps_its_direction_and_gets_the_norm_of_the_limit(seed, scale, limit):
    base = arrays(seed)
    weights = shifted(base, arrays(seed + 1, scale))
    bounded = bound_update(weights, base, limit)
    norm = update_norm(weights, base)
    slack = 1e-6 * np.sqrt(18) * 10  # base + update is rounded to float32
    assert update_norm(bounded, base) == pytest.approx(min(norm, limit), rel=1e-5, abs=slack)
    for name in base:
        assert bounded[name].dtype == np.float32
        wanted = (weights[name].astype(np.float64) - base[name]) * min(1.0, limit / norm)
        np.testing.assert_allclose(bounded[name].astype(np.float64) - base[name], wanted, atol=slack)


@given(st.integers(0, 1000))
def test_the_short_wire_stays_within_the_rounding(seed):
    base = arrays(seed)
    bounded = bound_update(shifted(base, arrays(seed + 1, 100.0)), base, 1.0)
    assert update_norm(decode_delta(encode_delta(bounded, base), base), base) <= ROUNDING
