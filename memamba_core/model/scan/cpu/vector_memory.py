"""Loads and stores of vectors.

An address is an array and a tuple of indices. The vector consists of that element and the elements after it in memory,
so the last axis must be contiguous. Indices are not checked.
"""

# numba's core and llvmlite have no annotations.
# mypy: allow-untyped-calls

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from memamba_core.model.scan.cpu.vector_type import IR_BITS, IR_INDEX, IR_VECTOR, LANES, VECTOR, in_every_lane

__all__ = [
    "broadcast",
    "lane_sums",
    "load",
    "load_some",
    "prefetch_to_read",
    "prefetch_to_write",
    "store",
    "store_some",
]


def _address(context: Any, builder: Any, array: Any, index: Any, values: Any, kind: Any = IR_VECTOR) -> Any:
    """Return a pointer to an element, or to the vector that starts there."""
    struct = context.make_array(array)(context, builder, values[0])
    indices = cgutils.unpack_tuple(builder, values[1], len(index))
    element = cgutils.get_item_pointer(context, builder, array, struct, indices, wraparound=False)
    return builder.bitcast(element, kind.as_pointer())


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Load the vector of the elements from `array[index]` on."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vector = builder.load(_address(context, builder, array, index, values))
        vector.align = 4
        return vector

    return VECTOR(array, index), lower


@intrinsic
def broadcast(typing: Any, array: Any, index: Any) -> Any:
    """Load the number `array[index]` into every lane."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        number = builder.load(_address(context, builder, array, index, values, ir.FloatType()))
        return in_every_lane(builder, number)

    return VECTOR(array, index), lower


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Write a vector to the elements from `array[index]` on."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store(values[2], _address(context, builder, array, index, values)).align = 4
        return context.get_dummy_value()

    return types.none(array, index, vector), lower


def _mask(builder: Any, width: Any) -> Any:
    """Return a mask of the first `width` lanes."""
    lanes = ir.Constant(IR_BITS, list(range(LANES)))
    width = builder.insert_element(ir.Constant(IR_BITS, ir.Undefined), builder.trunc(width, IR_INDEX), IR_INDEX(0))
    width = builder.shuffle_vector(width, width, ir.Constant(IR_BITS, [0] * LANES))
    return builder.icmp_signed("<", lanes, width)


@intrinsic
def load_some(typing: Any, array: Any, index: Any, width: Any) -> Any:
    """Load the first `width` lanes if `width` is below LANES, otherwise all; the other lanes are 0."""

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
                kind = ir.FunctionType(IR_VECTOR, [pointer.type, IR_INDEX, mask.type, IR_VECTOR])
                function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.load.v{LANES}f32.p0")
                zeros = ir.Constant(IR_VECTOR, [0.0] * LANES)
                padded = builder.call(function, [pointer, IR_INDEX(4), mask, zeros])
                padded_block = builder.block
        result = builder.phi(IR_VECTOR)
        result.add_incoming(full, full_block)
        result.add_incoming(padded, padded_block)
        return result

    return VECTOR(array, index, width), lower


@intrinsic
def store_some(typing: Any, array: Any, index: Any, vector: Any, width: Any) -> Any:
    """Store the first `width` lanes if `width` is below LANES, otherwise all."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = _address(context, builder, array, index, values)
        enough = builder.icmp_signed(">=", values[3], ir.Constant(values[3].type, LANES))
        with builder.if_else(enough, likely=True) as (whole, partial):
            with whole:
                builder.store(values[2], pointer).align = 4
            with partial:
                mask = _mask(builder, values[3])
                kind = ir.FunctionType(ir.VoidType(), [IR_VECTOR, pointer.type, IR_INDEX, mask.type])
                function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{LANES}f32.p0")
                builder.call(function, [values[2], pointer, IR_INDEX(4), mask])
        return context.get_dummy_value()

    return types.none(array, index, vector, width), lower


@intrinsic
def lane_sums(typing: Any, array: Any, index: Any, step: Any) -> Any:
    """Add up the lanes of LANES vectors, `step` numbers apart: lane i of the result is the sum of the i-th vector."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        first = _address(context, builder, array, index, values, ir.FloatType())
        vectors = []
        for i in range(LANES):
            offset = builder.mul(values[2], ir.Constant(values[2].type, i))
            vectors.append(builder.load(builder.bitcast(builder.gep(first, [offset]), IR_VECTOR.as_pointer())))
            vectors[-1].align = 4
        # Each pass halves the number of vectors and doubles the sums in each, until one vector holds LANES sums.
        width = LANES
        while width > 1:
            width //= 2
            halves = [lane for lane in range(2 * LANES) if not lane & width]
            masks = [ir.Constant(IR_BITS, [lane + shift for lane in halves]) for shift in (0, width)]
            vectors = [
                builder.fadd(*(builder.shuffle_vector(a, b, mask) for mask in masks))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    return VECTOR(array, index, step), lower


def _prefetch(write: bool, locality: int) -> Any:
    def declare(typing: Any, array: Any, index: Any) -> Any:
        def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            pointer = builder.bitcast(_address(context, builder, array, index, values), ir.IntType(8).as_pointer())
            kind = ir.FunctionType(ir.VoidType(), [pointer.type, IR_INDEX, IR_INDEX, IR_INDEX])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            builder.call(function, [pointer, IR_INDEX(int(write)), IR_INDEX(locality), IR_INDEX(1)])
            return context.get_dummy_value()

        return types.none(array, index), lower

    return intrinsic(declare)


prefetch_to_read = _prefetch(write=False, locality=2)
"""Prefetch the cache line of `array[index]`, also outside of the array, into a near cache, not the nearest."""
prefetch_to_write = _prefetch(write=True, locality=2)
"""Prefetch a line that will be written, so that the write need not wait for it."""
