"""Exponential, sigmoid and softplus of vectors, to the last bits of float32."""

# What numba compiles has no annotations: it infers types.
# ruff: noqa: ANN001, ANN201, ANN202

from typing import no_type_check

from memamba_core.model.scan.cpu.avx512 import HAS_AVX512
from memamba_core.model.scan.cpu.compiler import inlined
from memamba_core.model.scan.cpu.vectors import fma, larger, minus_magnitude, splat, where_negative

if HAS_AVX512:
    from memamba_core.model.scan.cpu.elementary_avx512 import (
        EXP2_TABLE,
        exp2_constants,
        exp2_of_product,
        exp_of_negative,
        quotient,
    )
else:
    from memamba_core.model.scan.cpu.elementary import (
        EXP2_TABLE,
        exp2_constants,
        exp2_of_product,
        exp_of_negative,
        quotient,
    )

__all__ = [
    "EXP2_TABLE",
    "LARGEST_EXPONENT",
    "LARGEST_FACTOR",
    "LN2",
    "LOG2_E",
    "exp2_constants",
    "exp2_of_product",
    "sigmoid",
    "softplus",
    "softplus_and_slope",
]

LOG2_E, LN2 = 1.4426950408889634, 0.6931471805599453
LARGEST_EXPONENT = 128.0
"""Largest product of the factors of `exp2_of_product`; 2^128 is infinite."""
LARGEST_FACTOR = 2.0**30
"""Largest absolute value of each factor."""
# log((1 + s) / (1 - s)) = s (2 + s^2 (c1 + ...)) for s <= 1/3, relative error 4e-9.
_LOG_C1, _LOG_C2, _LOG_C3, _LOG_C4 = 0.666664183139801, 0.4002152681350708, 0.28001806139945984, 0.2801198959350586


@inlined
@no_type_check
def sigmoid(x, constants):
    """Compute 1 / (1 + e^-x), with full relative precision on both sides."""
    return _sigmoid(x, exp_of_negative(minus_magnitude(x), constants))


@inlined
@no_type_check
def softplus(x, constants):
    """Compute log(1 + e^x), with full relative precision also near 0."""
    return _softplus(x, exp_of_negative(minus_magnitude(x), constants))


@inlined
@no_type_check
def softplus_and_slope(x, constants):
    """Compute softplus and its derivative, the sigmoid."""
    w = exp_of_negative(minus_magnitude(x), constants)
    return _softplus(x, w), _sigmoid(x, w)


@inlined
@no_type_check
def _sigmoid(x, w):
    """Compute the sigmoid of x from w = e^-|x|."""
    return quotient(where_negative(x, w, splat(1.0)), splat(1.0) + w)


@inlined
@no_type_check
def _softplus(x, w):
    """Compute the softplus of x from w = e^-|x|."""
    s = quotient(w, splat(2.0) + w)
    square = s * s
    p = fma(square, splat(_LOG_C4), splat(_LOG_C3))
    p = fma(square, p, splat(_LOG_C2))
    p = fma(square, p, splat(_LOG_C1))
    p = fma(square, p, splat(2.0))
    return fma(s, p, larger(x, splat(0.0)))
