"""A vector of 16 channels, and what can be done with one: the only file that speaks LLVM.

A vector is one value of LLVM's type `<16 x float>`: a register with AVX-512, two with AVX2, four with NEON. Loops that
numba vectorises by itself are three times slower.

These functions have no meaning outside of what numba compiles. Addresses are an array and a tuple of indices; the
vector starts at that element and goes on over its neighbours in memory, so the last axis has to be contiguous.
"""

# What numba compiles has no annotations: it infers types. Its core and llvmlite have none either.
# ruff: noqa: ANN001, ANN202
# mypy: allow-untyped-calls

import operator
from collections.abc import Callable
from typing import Any, Final, no_type_check

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = [
    "LANES",
    "broadcast",
    "fma",
    "lane_sums",
    "larger",
    "load",
    "load_some",
    "low_bits_as_exponent",
    "prefetch",
    "smaller",
    "splat",
    "store",
    "store_some",
    "where_negative",
]

LANES: Final = 16
"""Channels in a vector."""


class _VectorType(types.Type):
    """What numba calls a vector."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


_vector = _VectorType()
_IR_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_IR_BITS = ir.VectorType(ir.IntType(32), LANES)
_IR_INDEX = ir.IntType(32)


@register_model(_VectorType)
class _VectorModel(models.PrimitiveModel):
    """What LLVM calls it."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _IR_VECTOR)


def _instruction(emit: Callable[..., Any], arity: int) -> Any:
    """A function of `arity` vectors that is one or a few LLVM instructions: `emit(builder, *values)`."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    signature = _vector(*[_vector] * arity)
    if arity == 1:
        return intrinsic(lambda typing, a: (signature, lower))
    if arity == 2:
        return intrinsic(lambda typing, a, b: (signature, lower))
    return intrinsic(lambda typing, a, b, c: (signature, lower))


def _emit_fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    kind = ir.FunctionType(_IR_VECTOR, [_IR_VECTOR] * 3)
    # `fmuladd` and not `fma`: without the instruction it is two, and not 16 calls of a library.
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.v{LANES}f32")
    return builder.call(function, [a, b, c])


def _emit_low_bits_as_exponent(builder: Any, a: Any) -> Any:
    bits = builder.bitcast(a, _IR_BITS)
    return builder.bitcast(builder.shl(bits, ir.Constant(_IR_BITS, [23] * LANES)), _IR_VECTOR)


fma = _instruction(_emit_fma, 3)
"""a b + c."""
larger = _instruction(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a), 2)
"""The larger of two; where the first is NaN, NaN."""
smaller = _instruction(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a), 2)
"""The smaller of two; where the first is NaN, NaN."""
where_negative = _instruction(
    lambda builder, a, b, c: builder.select(builder.fcmp_ordered("<", a, ir.Constant(_IR_VECTOR, [0.0] * LANES)), b, c),
    3,
)
"""b where a < 0, c elsewhere."""
low_bits_as_exponent = _instruction(_emit_low_bits_as_exponent, 1)
"""The power of two whose exponent, with its bias, is in the lowest bits."""
_add = _instruction(lambda builder, a, b: builder.fadd(a, b), 2)
_sub = _instruction(lambda builder, a, b: builder.fsub(a, b), 2)
_mul = _instruction(lambda builder, a, b: builder.fmul(a, b), 2)
_div = _instruction(lambda builder, a, b: builder.fdiv(a, b), 2)


def _operator(symbol: Any, instruction: Any) -> None:
    """Gives vectors an infix operator."""

    @no_type_check
    def choose(a, b):
        return (lambda a, b: instruction(a, b)) if a == b == _vector else None

    overload(symbol)(choose)


_operator(operator.add, _add)
_operator(operator.sub, _sub)
_operator(operator.mul, _mul)
_operator(operator.truediv, _div)


def _in_every_lane(builder: Any, number: Any) -> Any:
    undefined = ir.Constant(_IR_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, number, _IR_INDEX(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_IR_BITS, [0] * LANES))


@intrinsic
def splat(typing: Any, value: Any) -> Any:
    """The number in every lane."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return _in_every_lane(builder, context.cast(builder, values[0], signature.args[0], types.float32))

    return _vector(value), lower


def _address(context: Any, builder: Any, array: Any, index: Any, values: Any, kind: Any = _IR_VECTOR) -> Any:
    """Pointer to an element, or to the vector that starts there."""
    struct = context.make_array(array)(context, builder, values[0])
    indices = cgutils.unpack_tuple(builder, values[1], len(index))
    element = cgutils.get_item_pointer(context, builder, array, struct, indices, wraparound=False)
    return builder.bitcast(element, kind.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """The vector of the elements from `array[index]` on; `index` is a tuple and is not checked."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = builder.load(_address(context, builder, array, index, values))
        vector.align = 4
        return vector

    return _vector(array, index), lower


@intrinsic
def broadcast(typing: Any, array: Any, index: Any) -> Any:
    """The number `array[index]` in every lane; `index` is a tuple and is not checked."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = builder.load(_address(context, builder, array, index, values, ir.FloatType()))
        return _in_every_lane(builder, number)

    return _vector(array, index), lower


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Writes a vector to the elements from `array[index]` on; `index` is a tuple and is not checked."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _address(context, builder, array, index, values)).align = 4
        return context.get_dummy_value()

    return types.none(array, index, vector), lower


def _mask(builder: Any, width: Any) -> Any:
    """The first `width` lanes."""
    lanes = ir.Constant(_IR_BITS, list(range(LANES)))
    width = builder.insert_element(ir.Constant(_IR_BITS, ir.Undefined), builder.trunc(width, _IR_INDEX), _IR_INDEX(0))
    width = builder.shuffle_vector(width, width, ir.Constant(_IR_BITS, [0] * LANES))
    return builder.icmp_signed("<", lanes, width)


@intrinsic
def load_some(typing: Any, array: Any, index: Any, width: Any) -> Any:
    """Like `load`, but only the first `width` lanes where there are fewer than LANES; the others are 0."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _address(context, builder, array, index, values)
        enough = builder.icmp_signed(">=", values[2], ir.Constant(values[2].type, LANES))
        with builder.if_else(enough, likely=True) as (whole, partial):
            with whole:
                full = builder.load(pointer)
                full.align = 4
                full_block = builder.block
            with partial:
                mask = _mask(builder, values[2])
                kind = ir.FunctionType(_IR_VECTOR, [pointer.type, _IR_INDEX, mask.type, _IR_VECTOR])
                function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
                zeros = ir.Constant(_IR_VECTOR, [0.0] * LANES)
                padded = builder.call(function, [pointer, _IR_INDEX(4), mask, zeros])
                padded_block = builder.block
        result = builder.phi(_IR_VECTOR)
        result.add_incoming(full, full_block)
        result.add_incoming(padded, padded_block)
        return result

    return _vector(array, index, width), lower


@intrinsic
def store_some(typing: Any, array: Any, index: Any, vector: Any, width: Any) -> Any:
    """Like `store`, but only the first `width` lanes where there is room for fewer than LANES."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _address(context, builder, array, index, values)
        enough = builder.icmp_signed(">=", values[3], ir.Constant(values[3].type, LANES))
        with builder.if_else(enough, likely=True) as (whole, partial):
            with whole:
                builder.store(values[2], pointer).align = 4
            with partial:
                mask = _mask(builder, values[3])
                kind = ir.FunctionType(ir.VoidType(), [_IR_VECTOR, pointer.type, _IR_INDEX, mask.type])
                function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
                builder.call(function, [values[2], pointer, _IR_INDEX(4), mask])
        return context.get_dummy_value()

    return types.none(array, index, vector, width), lower


@intrinsic
def lane_sums(typing: Any, array: Any, index: Any, step: Any) -> Any:
    """Lane i of the result is the sum over the lanes of the i-th vector: they lie `step` numbers apart."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first = _address(context, builder, array, index, values, ir.FloatType())
        vectors = []
        for i in range(LANES):
            offset = builder.mul(values[2], ir.Constant(values[2].type, i))
            vectors.append(builder.load(builder.bitcast(builder.gep(first, [offset]), _IR_VECTOR.as_pointer())))
            vectors[-1].align = 4
        # Half as many vectors with twice as many sums each, until it is one vector of LANES sums.
        width = LANES
        while width > 1:
            width //= 2
            halves = [lane for lane in range(2 * LANES) if not lane & width]
            masks = [ir.Constant(_IR_BITS, [lane + shift for lane in halves]) for shift in (0, width)]
            vectors = [
                builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    return _vector(array, index, step), lower


@intrinsic
def prefetch(typing: Any, array: Any, index: Any) -> Any:
    """Asks for the cache line of `array[index]`, which may lie outside of the array."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = builder.bitcast(_address(context, builder, array, index, values), ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _IR_INDEX, _IR_INDEX, _IR_INDEX])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [pointer, _IR_INDEX(0), _IR_INDEX(3), _IR_INDEX(1)])
        return context.get_dummy_value()

    return types.none(array, index), lower
