"""Powers and quotients of vectors for any processor; `elementary_avx512` has its own versions.

The constants of the exponential are arguments, because LLVM would otherwise load them again in every step of a loop.
"""

# What numba compiles has no annotations: it infers types.
# ruff: noqa: ANN001, ANN201, ANN202

from typing import no_type_check

import numpy as np

from memamba_core.model.scan.cpu.compiler import inlined
from memamba_core.model.scan.cpu.vector_memory import broadcast
from memamba_core.model.scan.cpu.vectors import fma, larger, low_bits_as_exponent, negative, splat

__all__ = ["EXP2_TABLE", "exp2_constants", "exp2_of_product", "exp_of_negative", "quotient"]

# Adding this constant rounds to integers and leaves them, plus the bias 127 of an exponent, in the lowest bits.
_ROUNDING = float(3 * 2**22 + 127)
# 2^f for |f| <= 1/2 is 1 + f (c1 + f (c2 + ...)), relative error 2e-9. It is exact at 0, where slow decays are. The
# coefficients are this project's own fit: minimal maximum of the relative error (Lawson's iteration).
EXP2_TABLE = np.array(
    [
        _ROUNDING,
        0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262,
        0.055503323674201965, 0.24022647738456726, 0.6931471824645996, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""Constants that the exponentials keep in registers; an argument of the kernels."""
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # multiples of the first, with few bits, are exact
_SMALLEST_EXPONENT = -127.0  # 2 to this power is flushed to 0


@inlined
@no_type_check
def exp2_constants(table):
    """Load `EXP2_TABLE` as vectors."""
    return (
        broadcast(table, (0,)), broadcast(table, (1,)), broadcast(table, (2,)), broadcast(table, (3,)),
        broadcast(table, (4,)), broadcast(table, (5,)), broadcast(table, (6,)), broadcast(table, (7,)),
    )  # fmt: skip


@inlined
@no_type_check
def _scaled_power_of_two(fraction, rounded, constants):
    """Compute 2^fraction times the power of two whose exponent is in the lowest bits of `rounded`."""
    p = fma(fraction, constants[1], constants[2])
    p = fma(fraction, p, constants[3])
    p = fma(fraction, p, constants[4])
    p = fma(fraction, p, constants[5])
    p = fma(fraction, p, constants[6])
    p = fma(fraction, p, constants[7])
    return p * low_bits_as_exponent(rounded)


@inlined
@no_type_check
def exp2_of_product(a, b, constants):
    """Compute 2^(a b) for a b <= 128; infinite at 128, and 0 below 2^-126. The caller keeps products within 128."""
    x = larger(a * b, splat(_SMALLEST_EXPONENT))
    rounded = x + constants[0]
    return _scaled_power_of_two(x - (rounded - constants[0]), rounded, constants)


@inlined
@no_type_check
def exp_of_negative(x, constants):
    """Compute e^x for x <= 0, to the last bit or two. x is not scaled first: that costs digits if x is large."""
    x = larger(x, splat(-88.0))
    rounded = fma(x, splat(_LOG2_E), constants[0])
    whole = negative(rounded - constants[0])
    rest = fma(whole, splat(_LN2_LOW), fma(whole, splat(_LN2_HIGH), x))
    return _scaled_power_of_two(rest * splat(_LOG2_E), rounded, constants)


@inlined
@no_type_check
def quotient(a, b):
    """Divide a by b."""
    return a / b
