"""The machine code of the `cpu` scan: vectors of 16 channels, and the two passes written with them.

`scan_cpu` says what is computed and in which order; this file says how. It is imported when the first scan runs,
because importing numba takes half a second. Vectors and kernels share a file because numba's disk cache
watches only the file in which a kernel is written: helpers elsewhere could change without the kernel noticing.

A vector is one value of LLVM's type `<16 x float>`: a register with AVX-512, two with AVX2, four with NEON. Loops that
numba vectorises by itself are three times slower. Nothing is compiled with `fastmath`: sums keep their order, and
NaN stays NaN.
"""

# What numba compiles has no annotations: it infers types. Its core and llvmlite have none either.
# ruff: noqa: ANN001, ANN201, ANN202
# mypy: allow-untyped-calls

import operator
from collections.abc import Callable
from typing import Any, Final, no_type_check

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["EXP2_TABLE", "LANES", "TILE", "scan_backward", "scan_forward", "state_size", "sum_parts"]

LANES: Final = 16
"""Channels in a vector."""
TILE: Final = 32
"""Steps that are computed together, from one checkpoint to the next."""


def _kernel(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compiles for these types, now, or takes what an earlier process has left on the disk."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return njit(signature, cache=True, nogil=True, error_model="numpy")(function)
        except (RuntimeError, OSError):  # no folder to write to: neither beside this file, $NUMBA_CACHE_DIR, nor home
            return njit(signature, nogil=True, error_model="numpy")(function)

    return compiled


# ---------------------------------------------------------------------------------------------------- vectors


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
_low_bits_as_exponent = _instruction(_emit_low_bits_as_exponent, 1)
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


_helper = njit(nogil=True, error_model="numpy")
_inlined = njit(forceinline=True, nogil=True, error_model="numpy")

# Adding it rounds to whole numbers and leaves them, plus the bias 127 of an exponent, in the lowest bits.
_ROUNDING = float(3 * 2**22 + 127)
# 2^f for |f| <= 1/2 is 1 + f (c1 + f (c2 + ...)), relative error 2e-9. Exact at 0, where slow decays are. The fits here
# and below are our own: least maximum of the relative error (Lawson's iteration).
EXP2_TABLE = np.array(
    [
        _ROUNDING,
        0.00015353361959569156, 0.0013398875016719103, 0.00961843691766262,
        0.055503323674201965, 0.24022647738456726, 0.6931471824645996, 1.0,
    ],
    np.float32,
)  # fmt: skip
"""What `exp2` needs in registers. An argument of the kernels: LLVM would load constants again in every step."""
_LOG2_E, _LN2 = 1.4426950408889634, 0.6931471805599453
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has few bits: its multiples are exact
# log((1 + s) / (1 - s)) = s (2 + s^2 (c1 + ...)) for s <= 1/3, relative error 4e-9.
_LOG_C1, _LOG_C2, _LOG_C3, _LOG_C4 = 0.666664183139801, 0.4002152681350708, 0.28001806139945984, 0.2801198959350586
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -127.0, 128.0  # 0 and infinity


@_inlined
@no_type_check
def _exp2_constants(table):
    """`EXP2_TABLE` as vectors."""
    return (
        broadcast(table, (0,)), broadcast(table, (1,)), broadcast(table, (2,)), broadcast(table, (3,)),
        broadcast(table, (4,)), broadcast(table, (5,)), broadcast(table, (6,)), broadcast(table, (7,)),
    )  # fmt: skip


@_inlined
@no_type_check
def _scaled_power_of_two(fraction, rounded, constants):
    """2^fraction times the power of two whose exponent is in the lowest bits of `rounded`."""
    p = fma(fraction, constants[1], constants[2])
    p = fma(fraction, p, constants[3])
    p = fma(fraction, p, constants[4])
    p = fma(fraction, p, constants[5])
    p = fma(fraction, p, constants[6])
    p = fma(fraction, p, constants[7])
    return p * _low_bits_as_exponent(rounded)


@_inlined
@no_type_check
def exp2(x, constants):
    """2^x for x <= 128, where it is infinite; 0 below 2^-126. Larger x are for the caller to keep away."""
    x = larger(x, splat(_SMALLEST_EXPONENT))
    rounded = x + constants[0]
    return _scaled_power_of_two(x - (rounded - constants[0]), rounded, constants)


@_inlined
@no_type_check
def exp_of_negative(x, constants):
    """e^x for x <= 0, to the last bit or two: x is not scaled, which would cost digits where it is large."""
    x = larger(x, splat(-88.0))
    rounded = fma(x, splat(_LOG2_E), constants[0])
    whole = rounded - constants[0]
    rest = fma(whole, splat(-_LN2_LOW), fma(whole, splat(-_LN2_HIGH), x))
    return _scaled_power_of_two(rest * splat(_LOG2_E), rounded, constants)


@_inlined
@no_type_check
def _minus_magnitude(x):
    return smaller(x, splat(0.0) - x)


@_inlined
@no_type_check
def sigmoid(x, constants):
    """1 / (1 + e^-x), with a full relative precision on both sides."""
    w = exp_of_negative(_minus_magnitude(x), constants)
    return where_negative(x, w, splat(1.0)) / (splat(1.0) + w)


@_inlined
@no_type_check
def softplus(x, constants):
    """log(1 + e^x), with a full relative precision where it is nearly 0, too."""
    w = exp_of_negative(_minus_magnitude(x), constants)
    s = w / (splat(2.0) + w)
    square = s * s
    p = fma(square, splat(_LOG_C4), splat(_LOG_C3))
    p = fma(square, p, splat(_LOG_C2))
    p = fma(square, p, splat(_LOG_C1))
    p = fma(square, p, splat(2.0))
    return fma(s, p, larger(x, splat(0.0)))


@_helper
@no_type_check
def _aligned(size):
    """Work memory of `size` floats, all 0, that starts with a cache line."""
    memory = np.zeros(size + LANES, np.float32)
    start = (-memory.ctypes.data % 64) // 4
    return memory[start : start + size]


# ---------------------------------------------------------------------------------------------------- kernels
#
# Work memory is flat. A tile's holds a row of vectors per step, one vector after the other, because what is read
# together should lie together; these are their places in the row. Places of states are multiples of LANES, too.

_STEP: Final = 0 * LANES  # delta with bias and softplus, kept from overflowing a decay
_DRIVE: Final = 1 * LANES  # delta u
_Y: Final = 2 * LANES  # the output before the gate
_FORWARD_ROW: Final = 3 * LANES
_GRAD_Y: Final = 3 * LANES
_GRAD_DRIVE: Final = 4 * LANES
_GRAD_POWER: Final = 5 * LANES  # gradient at delta, through the decays, times log2(e)
_SLOPE: Final = 6 * LANES  # of softplus
_DECAY: Final = 7 * LANES  # of two states
_BEFORE: Final = 9 * LANES  # two states before the step
_BACKWARD_ROW: Final = 11 * LANES

# first, last, rows, vectors, softplus_delta; u, delta, A, B, C; D, z, delta_bias, exp2_table
_INPUT_TYPES: Final = (
    "i8, i8, i8, i8, b1, f4[:,:,:], f4[:,:,:], f4[:,:], f4[:,:,:], f4[:,:,:], f4[:], f4[:,:,:], f4[:], f4[:]"
)


def state_size(states: int) -> int:
    """Numbers that the states of a vector take: a vector each, and an even number of them."""
    return (states + 1) // 2 * 2 * LANES


@_helper
@no_type_check
def _gather_rates(A, first, rates, per_vector, least_step, most_step):
    """A log2(e) from channel `first` on, vector by vector and in it state by state.

    And the steps between which no decay overflows: beyond them it is as infinite as there.
    """
    channels, states = A.shape
    for lane in range(len(least_step)):
        least, most = np.float32(-np.inf), np.float32(np.inf)
        for n in range(states):
            rate = A[first + lane, n] * np.float32(_LOG2_E) if first + lane < channels else np.float32(0.0)
            rates[lane // LANES * per_vector + n * LANES + lane % LANES] = rate
            if rate < 0.0:
                least = max(least, np.float32(_LARGEST_EXPONENT) / rate)
            elif rate > 0.0:
                most = min(most, np.float32(_LARGEST_EXPONENT) / rate)
        least_step[lane], most_step[lane] = least, most


@_helper
@no_type_check
def _gather_row(row, first, out):
    """row[first:], with 0 behind the end."""
    for lane in range(len(out)):
        out[lane] = row[first + lane] if first + lane < len(row) else np.float32(0.0)


@_inlined
@no_type_check
def _copy_tile(sequence, b, start, steps, out, stride):
    """The tile of a (B, L, N) sequence to `out`, a row of `stride` numbers per step."""
    for t in range(steps):
        for n in range(0, stride, LANES):
            store(out, (t * stride + n,), load_some(sequence, (b, start + t, n), sequence.shape[2] - n))


@_inlined
@no_type_check
def _clear(memory, size):
    for at in range(0, size, LANES):
        store(memory, (at,), splat(0.0))


@_inlined
@no_type_check
def _add_to(total, lost, at, term):
    """Adds a vector to a running total without losing its low digits (Kahan 1965)."""
    before = load(total, (at,))
    term = term - load(lost, (at,))
    after = before + term
    store(lost, (at,), (after - before) - term)
    store(total, (at,), after)


@_kernel(f"void({_INPUT_TYPES}, f4[:,:,:], f4[:,:,:,:])")
@no_type_check
def scan_forward(
    first, last, rows, vectors, softplus_delta, u, delta, A, B, C, D, z, delta_bias, exp2_table, y, checkpoints
):
    """Blocks first..last-1 of the forward pass, which writes `y` and `checkpoints`.

    A block is `rows` sequences by `vectors` x LANES channels; blocks are numbered channels first. Layouts are
    (B, L, E), (B, L, N), (E, N) and (E,); `checkpoints` is (B, tiles - 1, vectors of E, even N x LANES). What is
    not there (`D`, `z`, `delta_bias`; checkpoints if nobody will need them) has length 0.
    """
    batch, length, channels = u.shape
    states = A.shape[1]
    per_vector = (states + 1) // 2 * 2 * LANES
    stride = (states + LANES - 1) // LANES * LANES
    groups = -(-channels // (vectors * LANES))
    constants = _exp2_constants(exp2_table)
    rates, state = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    bias_E, bypass_E = _aligned(vectors * LANES), _aligned(vectors * LANES)
    least_step, most_step = _aligned(vectors * LANES), _aligned(vectors * LANES)
    B_tile, C_tile, tile = _aligned(TILE * stride), _aligned(TILE * stride), _aligned(TILE * _FORWARD_ROW)
    for block in range(first, last):
        first_row, first_channel = block // groups * rows, block % groups * vectors * LANES
        _gather_rates(A, first_channel, rates, per_vector, least_step, most_step)
        _gather_row(delta_bias, first_channel, bias_E)
        _gather_row(D, first_channel, bypass_E)
        for b in range(first_row, min(first_row + rows, batch)):
            _clear(state, vectors * per_vector)
            for start in range(0, length, TILE):
                steps = min(TILE, length - start)
                _copy_tile(B, b, start, steps, B_tile, stride)
                _copy_tile(C, b, start, steps, C_tile, stride)
                for e in range(first_channel, min(first_channel + vectors * LANES, channels), LANES):
                    lane = e - first_channel
                    own, width = lane // LANES * per_vector, channels - e
                    bias, bypass = load(bias_E, (lane,)), load(bypass_E, (lane,))
                    least, most = load(least_step, (lane,)), load(most_step, (lane,))
                    for t in range(steps):
                        prefetch(u, (b, start + TILE + t, e))
                        prefetch(delta, (b, start + TILE + t, e))
                        u_t = load_some(u, (b, start + t, e), width)
                        step = load_some(delta, (b, start + t, e), width) + bias
                        if softplus_delta:
                            step = softplus(step, constants)
                        row = t * _FORWARD_ROW
                        store(tile, (row + _STEP,), smaller(larger(step, least), most))
                        store(tile, (row + _DRIVE,), step * u_t)
                        store(tile, (row + _Y,), bypass * u_t)

                    for n in range(0, states, 2):  # two states at a time: half the traffic
                        at_0, at_1 = own + n * LANES, own + (n + 1) * LANES
                        rate_0, rate_1 = load(rates, (at_0,)), load(rates, (at_1,))
                        h_0, h_1 = load(state, (at_0,)), load(state, (at_1,))
                        for t in range(steps):
                            row, given = t * _FORWARD_ROW, t * stride + n
                            step, drive = load(tile, (row + _STEP,)), load(tile, (row + _DRIVE,))
                            h_0 = fma(exp2(step * rate_0, constants), h_0, drive * broadcast(B_tile, (given,)))
                            h_1 = fma(exp2(step * rate_1, constants), h_1, drive * broadcast(B_tile, (given + 1,)))
                            y_t = fma(broadcast(C_tile, (given,)), h_0, load(tile, (row + _Y,)))
                            store(tile, (row + _Y,), fma(broadcast(C_tile, (given + 1,)), h_1, y_t))
                        store(state, (at_0,), h_0)
                        store(state, (at_1,), h_1)

                    for t in range(steps):
                        y_t = load(tile, (t * _FORWARD_ROW + _Y,))
                        if len(z):
                            prefetch(z, (b, start + TILE + t, e))
                            z_t = load_some(z, (b, start + t, e), width)
                            y_t = y_t * (z_t * sigmoid(z_t, constants))
                        store_some(y, (b, start + t, e), y_t, width)
                    if len(checkpoints) and start + TILE < length:
                        for at in range(0, per_vector, LANES):
                            store(checkpoints, (b, start // TILE, e // LANES, at), load(state, (own + at,)))


@_kernel(
    f"void({_INPUT_TYPES}, f4[:,:,:,:], f4[:,:,:], f4[:,:,:], f4[:,:,:], f4[:,:,:],"
    " f4[:,:,:], f4[:,:,:,:], f4[:,:,:,:], f4[:,:], f4[:,:])"
)
@no_type_check
def scan_backward(
    first, last, rows, vectors, softplus_delta, u, delta, A, B, C, D, z, delta_bias, exp2_table, checkpoints, grad_y,
    grad_u, grad_delta, grad_z, parts_A, parts_B, parts_C, parts_D, parts_bias,
):  # fmt: skip
    """Blocks first..last-1 of the backward pass: the first line is given, the second is written.

    Arguments are those of `scan_forward`. Gradients are laid out like what they belong to, except that a part is
    what one block has to say: (row blocks, ...) for A, D and the bias, (channel blocks, ...) for B and C.
    """
    batch, length, channels = u.shape
    states = A.shape[1]
    per_vector = (states + 1) // 2 * 2 * LANES
    stride = (states + LANES - 1) // LANES * LANES
    groups = -(-channels // (vectors * LANES))
    constants = _exp2_constants(exp2_table)
    rates, carry = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    bias_E, bypass_E = _aligned(vectors * LANES), _aligned(vectors * LANES)
    least_step, most_step = _aligned(vectors * LANES), _aligned(vectors * LANES)
    sum_A, lost_A = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    sum_D, lost_D = _aligned(vectors * LANES), _aligned(vectors * LANES)
    sum_bias, lost_bias = _aligned(vectors * LANES), _aligned(vectors * LANES)
    B_tile, C_tile, tile = _aligned(TILE * stride), _aligned(TILE * stride), _aligned(TILE * _BACKWARD_ROW)
    # A vector per state and step, to be added up over the block's vectors, and then over the lanes.
    sum_B, sum_C = _aligned(stride * TILE * LANES), _aligned(stride * TILE * LANES)
    for block in range(first, last):
        row_block, group = block // groups, block % groups
        first_channel = group * vectors * LANES
        last_channel = min(first_channel + vectors * LANES, channels)
        _gather_rates(A, first_channel, rates, per_vector, least_step, most_step)
        _gather_row(delta_bias, first_channel, bias_E)
        _gather_row(D, first_channel, bypass_E)
        _clear(sum_A, vectors * per_vector)
        _clear(lost_A, vectors * per_vector)
        _clear(sum_D, vectors * LANES)
        _clear(lost_D, vectors * LANES)
        _clear(sum_bias, vectors * LANES)
        _clear(lost_bias, vectors * LANES)
        for b in range(row_block * rows, min((row_block + 1) * rows, batch)):
            _clear(carry, vectors * per_vector)
            for start in range((length - 1) // TILE * TILE, -1, -TILE):
                steps = min(TILE, length - start)
                _copy_tile(B, b, start, steps, B_tile, stride)
                _copy_tile(C, b, start, steps, C_tile, stride)
                _clear(sum_B, states * steps * LANES)
                _clear(sum_C, states * steps * LANES)
                for e in range(first_channel, last_channel, LANES):
                    lane = e - first_channel
                    own, width = lane // LANES * per_vector, channels - e
                    bias, bypass = load(bias_E, (lane,)), load(bypass_E, (lane,))
                    least, most = load(least_step, (lane,)), load(most_step, (lane,))
                    for t in range(steps):
                        prefetch(u, (b, start - TILE + t, e))
                        prefetch(delta, (b, start - TILE + t, e))
                        prefetch(grad_y, (b, start - TILE + t, e))
                        u_t = load_some(u, (b, start + t, e), width)
                        step, slope = load_some(delta, (b, start + t, e), width) + bias, splat(1.0)
                        if softplus_delta:
                            step, slope = softplus(step, constants), sigmoid(step, constants)
                        grad_t = load_some(grad_y, (b, start + t, e), width)
                        if len(z):
                            prefetch(z, (b, start - TILE + t, e))
                            z_t = load_some(z, (b, start + t, e), width)
                            grad_t = grad_t * (z_t * sigmoid(z_t, constants))
                        row = t * _BACKWARD_ROW
                        store(tile, (row + _STEP,), smaller(larger(step, least), most))
                        store(tile, (row + _DRIVE,), step * u_t)
                        store(tile, (row + _Y,), bypass * u_t)
                        store(tile, (row + _GRAD_Y,), grad_t)
                        store(tile, (row + _GRAD_DRIVE,), splat(0.0))
                        store(tile, (row + _GRAD_POWER,), splat(0.0))
                        store(tile, (row + _SLOPE,), slope)

                    for n in range(0, states, 2):
                        at_0, at_1 = own + n * LANES, own + (n + 1) * LANES
                        rate_0, rate_1 = load(rates, (at_0,)), load(rates, (at_1,))
                        h_0, h_1 = splat(0.0), splat(0.0)
                        if start:
                            h_0 = load(checkpoints, (b, start // TILE - 1, e // LANES, n * LANES))
                            h_1 = load(checkpoints, (b, start // TILE - 1, e // LANES, (n + 1) * LANES))
                        for t in range(steps):
                            row, given = t * _BACKWARD_ROW, t * stride + n
                            step, drive = load(tile, (row + _STEP,)), load(tile, (row + _DRIVE,))
                            store(tile, (row + _BEFORE,), h_0)
                            store(tile, (row + _BEFORE + LANES,), h_1)
                            decay_0, decay_1 = exp2(step * rate_0, constants), exp2(step * rate_1, constants)
                            store(tile, (row + _DECAY,), decay_0)
                            store(tile, (row + _DECAY + LANES,), decay_1)
                            h_0 = fma(decay_0, h_0, drive * broadcast(B_tile, (given,)))
                            h_1 = fma(decay_1, h_1, drive * broadcast(B_tile, (given + 1,)))
                            y_t = fma(broadcast(C_tile, (given,)), h_0, load(tile, (row + _Y,)))
                            store(tile, (row + _Y,), fma(broadcast(C_tile, (given + 1,)), h_1, y_t))

                        # The adjoint runs backwards: `grad_h` is first the gradient at the state of step t, then
                        # what of it goes on to the state before.
                        grad_h_0, grad_h_1 = load(carry, (at_0,)), load(carry, (at_1,))
                        sum_0, sum_1 = splat(0.0), splat(0.0)
                        for t in range(steps - 1, -1, -1):
                            row, given = t * _BACKWARD_ROW, t * stride + n
                            sums_0, sums_1 = (n * steps + t) * LANES, ((n + 1) * steps + t) * LANES
                            B_0, B_1 = broadcast(B_tile, (given,)), broadcast(B_tile, (given + 1,))
                            C_0, C_1 = broadcast(C_tile, (given,)), broadcast(C_tile, (given + 1,))
                            step, drive = load(tile, (row + _STEP,)), load(tile, (row + _DRIVE,))
                            grad_t = load(tile, (row + _GRAD_Y,))
                            store(sum_C, (sums_0,), fma(grad_t, h_0, load(sum_C, (sums_0,))))
                            store(sum_C, (sums_1,), fma(grad_t, h_1, load(sum_C, (sums_1,))))
                            grad_h_0, grad_h_1 = fma(grad_t, C_0, grad_h_0), fma(grad_t, C_1, grad_h_1)
                            store(sum_B, (sums_0,), fma(drive, grad_h_0, load(sum_B, (sums_0,))))
                            store(sum_B, (sums_1,), fma(drive, grad_h_1, load(sum_B, (sums_1,))))
                            grad_drive = fma(grad_h_0, B_0, load(tile, (row + _GRAD_DRIVE,)))
                            store(tile, (row + _GRAD_DRIVE,), fma(grad_h_1, B_1, grad_drive))
                            grad_h_0 = grad_h_0 * load(tile, (row + _DECAY,))
                            grad_h_1 = grad_h_1 * load(tile, (row + _DECAY + LANES,))
                            h_0, h_1 = load(tile, (row + _BEFORE,)), load(tile, (row + _BEFORE + LANES,))
                            power_0, power_1 = grad_h_0 * h_0, grad_h_1 * h_1
                            grad_power = fma(power_0, rate_0, load(tile, (row + _GRAD_POWER,)))
                            store(tile, (row + _GRAD_POWER,), fma(power_1, rate_1, grad_power))
                            sum_0, sum_1 = fma(power_0, step, sum_0), fma(power_1, step, sum_1)
                        store(carry, (at_0,), grad_h_0)
                        store(carry, (at_1,), grad_h_1)
                        _add_to(sum_A, lost_A, at_0, sum_0)
                        _add_to(sum_A, lost_A, at_1, sum_1)

                    tile_D, tile_bias = splat(0.0), splat(0.0)
                    for t in range(steps):
                        row = t * _BACKWARD_ROW
                        u_t = load_some(u, (b, start + t, e), width)
                        grad_t, grad_drive = load(tile, (row + _GRAD_Y,)), load(tile, (row + _GRAD_DRIVE,))
                        grad_step = fma(grad_drive, u_t, load(tile, (row + _GRAD_POWER,)) * splat(_LN2))
                        grad_step = grad_step * load(tile, (row + _SLOPE,))
                        grad_u_t = fma(grad_drive, load(tile, (row + _STEP,)), grad_t * bypass)
                        store_some(grad_u, (b, start + t, e), grad_u_t, width)
                        store_some(grad_delta, (b, start + t, e), grad_step, width)
                        tile_bias = tile_bias + grad_step
                        tile_D = fma(grad_t, u_t, tile_D)
                        if len(z):
                            z_t = load_some(z, (b, start + t, e), width)
                            gate = sigmoid(z_t, constants)
                            gate_slope = gate * fma(z_t, splat(1.0) - gate, splat(1.0))
                            grad_gate = load(tile, (row + _Y,)) * load_some(grad_y, (b, start + t, e), width)
                            store_some(grad_z, (b, start + t, e), grad_gate * gate_slope, width)
                    _add_to(sum_D, lost_D, lane, tile_D)
                    _add_to(sum_bias, lost_bias, lane, tile_bias)

                for t in range(steps):
                    for n in range(0, states, LANES):
                        at = (n * steps + t) * LANES
                        sums_B, sums_C = (
                            lane_sums(sum_B, (at,), steps * LANES),
                            lane_sums(sum_C, (at,), steps * LANES),
                        )
                        store_some(parts_B, (group, b, start + t, n), sums_B, states - n)
                        store_some(parts_C, (group, b, start + t, n), sums_C, states - n)
        for e in range(first_channel, last_channel):
            lane = e - first_channel
            parts_D[row_block, e] = sum_D[lane]
            parts_bias[row_block, e] = sum_bias[lane]
            for n in range(states):
                parts_A[row_block, e, n] = sum_A[lane // LANES * per_vector + n * LANES + lane % LANES]


@_kernel("void(f4[:,::1], f4[::1])")
@no_type_check
def sum_parts(parts, total):
    """The sum of a (parts, size) matrix over its parts, in their order."""
    for i in range(parts.shape[1]):
        total[i] = parts[0, i]
    for part in range(1, parts.shape[0]):
        for i in range(parts.shape[1]):
            total[i] += parts[part, i]
