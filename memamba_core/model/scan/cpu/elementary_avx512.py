"""Powers and quotients of vectors for processors with AVX-512: the functions of `elementary` in fewer instructions.

A register holds sixteen powers of 2, so that the polynomial covers only a sixteenth of the range. One instruction
applies the exponent, with the right limits 0 and infinity. A division is three instructions that overlap with others;
the division instruction itself would stall them.
"""

# What numba compiles has no annotations: it infers types.
# ruff: noqa: ANN001, ANN201

from typing import no_type_check

import numpy as np

from memamba_core.model.scan.cpu.avx512 import looked_up, rough_reciprocal, scaled
from memamba_core.model.scan.cpu.compiler import inlined
from memamba_core.model.scan.cpu.vector_memory import broadcast, load
from memamba_core.model.scan.cpu.vectors import fma, larger, negative, splat

__all__ = ["EXP2_TABLE", "exp2_constants", "exp2_of_product", "exp_of_negative", "quotient"]

# Adding this constant rounds to sixteenths and leaves their number in the lowest bits.
_ROUNDING = float(3 * 2**18)
# 2^f for |f| <= 1/32 is 1 + f (c1 + f (c2 + f c3)), and e^f for |f| <= log(2) / 32 likewise; relative error 2e-9.
# The coefficients are fitted like those of `elementary`.
_C1, _C2, _C3 = 0.6931471824645996, 0.24023429, 0.05550214
_E2, _E3 = 0.5000162, 0.16666074
EXP2_TABLE = np.array([*2.0 ** (np.arange(16) / 16), _ROUNDING, _C1, _C2, _C3], np.float32)
"""Constants that the exponentials keep in registers; an argument of the kernels."""
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # multiples of the first, with few bits, are exact


@inlined
@no_type_check
def exp2_constants(table):
    """Load `EXP2_TABLE` as vectors."""
    return (
        load(table, (0,)), broadcast(table, (16,)),
        broadcast(table, (17,)), broadcast(table, (18,)), broadcast(table, (19,)),
    )  # fmt: skip


@inlined
@no_type_check
def exp2_of_product(a, b, constants):
    """Compute 2^(a b) for factors of at most 2^30; the product is rounded only after whole sixteenths are removed."""
    rounded = fma(a, b, constants[1])
    whole = rounded - constants[1]
    rest = fma(a, b, negative(whole))
    power = looked_up(constants[0], rounded)
    slope = fma(rest, fma(rest, constants[4], constants[3]), constants[2])
    return scaled(fma(power, rest * slope, power), whole)


@inlined
@no_type_check
def exp_of_negative(x, constants):
    """Compute e^x for x <= 0, to the last bit or two. x is not scaled first: that costs digits if x is large."""
    x = larger(x, splat(-104.0))
    rounded = fma(x, splat(_LOG2_E), constants[1])
    whole = rounded - constants[1]
    rest = fma(negative(whole), splat(_LN2_LOW), fma(negative(whole), splat(_LN2_HIGH), x))
    power = looked_up(constants[0], rounded)
    slope = fma(rest, fma(rest, splat(_E3), splat(_E2)), splat(1.0))
    return scaled(fma(power, rest * slope, power), whole)


@inlined
@no_type_check
def quotient(a, b):
    """Divide a by b, to the last bit or two, for b away from 0 and infinity."""
    rough = rough_reciprocal(b)
    return a * fma(fma(negative(b), rough, splat(1.0)), rough, rough)
