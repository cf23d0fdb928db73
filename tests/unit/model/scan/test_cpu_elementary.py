"""Powers and quotients of vectors against float64, in the versions for any processor and for AVX-512."""

import importlib

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from memamba_core.model.scan.cpu.avx512 import HAS_AVX512  # noqa: E402
from memamba_core.model.scan.cpu.vector_memory import load, store  # noqa: E402
from memamba_core.model.scan.cpu.vector_type import LANES  # noqa: E402

SIZE = 4096


@pytest.fixture(
    scope="module",
    params=[
        "elementary",
        pytest.param("elementary_avx512", marks=pytest.mark.skipif(not HAS_AVX512, reason="no AVX-512 here")),
    ],
)
def elementary(request):
    """Return a module, and a compiled function of two arrays: 2^(a b), e^-|b|, a / (1 + |b|)."""
    module = importlib.import_module(f"memamba_core.model.scan.cpu.{request.param}")
    exp2_constants, exp2_of_product = module.exp2_constants, module.exp2_of_product
    exp_of_negative, quotient = module.exp_of_negative, module.quotient

    @numba.njit(error_model="numpy")
    def compute(a, b, minus, divisor, table, power, exponential, ratio):
        constants = exp2_constants(table)
        for at in range(0, len(a), LANES):
            a_v, b_v = load(a, (at,)), load(b, (at,))
            store(power, (at,), exp2_of_product(a_v, b_v, constants))
            store(exponential, (at,), exp_of_negative(load(minus, (at,)), constants))
            store(ratio, (at,), quotient(a_v, load(divisor, (at,))))

    def call(a, b):
        a, b = (np.resize(np.asarray(values, np.float32), SIZE) for values in (a, b))
        outputs = [np.empty(SIZE, np.float32) for _ in range(3)]
        compute(a, b, -np.abs(b), 1 + np.abs(b), module.EXP2_TABLE, *outputs)
        return a, b, *outputs

    return call


def relative_error(got, wanted):
    return np.max(np.abs(got - wanted) / np.abs(wanted))


def test_values(elementary):
    """Products between -120 and 120, most of them near 0; the exact product decides, not its float32."""
    random = np.random.default_rng(0)
    a, b, power, exponential, ratio = elementary(random.normal(size=SIZE) ** 3, 4 * random.normal(size=SIZE))
    product = a.astype(np.float64) * b
    inside = np.abs(product) < 120
    assert inside.mean() > 0.95
    rounding = 1.2e-7 + 4.2e-8 * np.abs(product[inside])  # of the product, where it is rounded at all
    assert np.all(np.abs(power[inside] / np.exp2(product[inside]) - 1) < rounding)
    assert relative_error(exponential, np.exp(-np.abs(b).astype(np.float64))) < 1.6e-7
    assert relative_error(ratio, a / (1 + np.abs(b)).astype(np.float64)) < 1.3e-7


def test_slow_decays_are_exact_at_zero(elementary):
    _, _, power, exponential, _ = elementary([0.0], [0.0])
    assert np.all(power == 1)
    assert np.all(exponential == 1)


@pytest.mark.parametrize(
    ("a", "b", "wanted"),
    [
        (1.0, -1e9, 0.0),
        (2.0**30, -(2.0**30), 0.0),
        (1.0, -151.0, 0.0),
        (1.0, 128.0, np.inf),
        (np.nan, 1.0, np.nan),
        (1.0, np.nan, np.nan),
    ],
)
def test_ends(elementary, a, b, wanted):
    np.testing.assert_array_equal(elementary([a], [b])[2], np.float32(wanted))


def test_the_exponential_of_minus_infinity_is_zero(elementary):
    exponential = elementary([1.0], [-np.inf])[3]
    assert np.all(exponential < 1e-37)
