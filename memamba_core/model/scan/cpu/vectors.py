"""Arithmetic of vectors. Loops that numba vectorises by itself are three times slower.

These functions work only inside of functions that numba compiles.
"""

# What numba compiles has no annotations: it infers types. Its core and llvmlite have none either.
# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-calls

import operator
from typing import Any, no_type_check

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from memamba_core.model.scan.cpu.vector_type import IR_BITS, IR_VECTOR, LANES, VECTOR, in_every_lane, instruction

__all__ = [
    "fma",
    "larger",
    "low_bits_as_exponent",
    "minus_magnitude",
    "negative",
    "smaller",
    "splat",
    "where_negative",
]


def _emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(IR_VECTOR, [IR_VECTOR] * 3)
    # `fmuladd`, not `fma`: on a processor without the instruction it is two instructions, not 16 calls of a library.
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, [a, b, c])


def _emit_low_bits_as_exponent(builder: Any, a: Any) -> Any:
    bits = builder.bitcast(a, IR_BITS)
    return builder.bitcast(builder.shl(bits, ir.Constant(IR_BITS, [23] * LANES)), IR_VECTOR)


def _emit_minus_magnitude(builder: Any, a: Any) -> Any:
    signs = ir.Constant(IR_BITS, [-(2**31)] * LANES)
    return builder.bitcast(builder.or_(builder.bitcast(a, IR_BITS), signs), IR_VECTOR)


fma = instruction(_emit_fma, 3)
"""a b + c."""
larger = instruction(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a), 2)
"""The larger of two; NaN if the first is NaN."""
smaller = instruction(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a), 2)
"""The smaller of two; NaN if the first is NaN."""
where_negative = instruction(
    lambda builder, a, b, c: builder.select(builder.fcmp_ordered("<", a, ir.Constant(IR_VECTOR, [0.0] * LANES)), b, c),
    3,
)
"""b where a < 0, c elsewhere."""
minus_magnitude = instruction(_emit_minus_magnitude, 1)
"""-|a|."""
negative = instruction(lambda builder, a: builder.fneg(a), 1)
"""-a. Inside of an `fma` it needs no instruction, whereas 0 - a needs one."""
low_bits_as_exponent = instruction(_emit_low_bits_as_exponent, 1)
"""The power of two whose exponent, with its bias, is in the lowest bits."""
_add = instruction(lambda builder, a, b: builder.fadd(a, b), 2)
_sub = instruction(lambda builder, a, b: builder.fsub(a, b), 2)
_mul = instruction(lambda builder, a, b: builder.fmul(a, b), 2)
_div = instruction(lambda builder, a, b: builder.fdiv(a, b), 2)


def _operator(symbol: Any, instruction: Any) -> None:
    """Define an infix operator for vectors."""

    @no_type_check
    def choose(a, b):
        return (lambda a, b: instruction(a, b)) if a == b == VECTOR else None

    overload(symbol)(choose)


_operator(operator.add, _add)
_operator(operator.sub, _sub)
_operator(operator.mul, _mul)
_operator(operator.truediv, _div)


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """Repeat a number in every lane."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return in_every_lane(builder, context.cast(builder, values[0], signature.args[0], types.float32))

    return VECTOR(value), lower
