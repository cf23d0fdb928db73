"""The machine code of the `cpu` scan: vectors of 16 channels, and the two passes written with them.

`scan_cpu` says what is computed and in which order; this file says how. It is imported when the first scan runs,
because importing numba takes half a second. Vectors and kernels share a file because numba's disk cache
watches only the file in which a kernel is written: helpers elsewhere could change without the kernel noticing.

A vector is one value of LLVM's type `<16 x float>`: a register with AVX-512, two with AVX2, four with NEON. Loops that
numba vectorises by itself are three times slower. Nothing is compiled with `fastmath`: sums keep their order, and
NaN stays NaN.
"""

import operator
from collections.abc import Callable
from typing import Any, Final, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["LANES", "TILE", "scan_backward", "scan_forward", "sum_parts"]

LANES: Final = 16
"""Channels in a vector."""
TILE: Final = 32
"""Steps that are computed together, from one checkpoint to the next."""


def _kernel(function: Callable[..., Any]) -> Any:
    """Compiles at the first call; keeps the result on disk where that is possible."""
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written to: neither beside this file, nor $NUMBA_CACHE_DIR, nor home
        return njit(**options)(function)


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


def _instruction(emit: Callable[..., Any], arity: int, result: Any = _vector) -> Any:
    """A function of `arity` vectors that is one or a few LLVM instructions: `emit(builder, *values)`."""

    def lower(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emit(builder, *values)

    signature = result(*[_vector] * arity)
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


def _emit_lane_sum(builder: Any, a: Any) -> Any:
    width = LANES
    while width > 1:
        width //= 2
        low, high = (ir.Constant(ir.VectorType(_IR_INDEX, width), list(range(s, s + width))) for s in (0, width))
        undefined = ir.Constant(a.type, ir.Undefined)
        a = builder.fadd(builder.shuffle_vector(a, undefined, low), builder.shuffle_vector(a, undefined, high))
    return builder.extract_element(a, _IR_INDEX(0))


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
    lambda builder, a, b, c: builder.select(
        builder.fcmp_ordered("<", a, ir.Constant(_IR_VECTOR, [0.0] * LANES)), b, c
    ),
    3,
)
"""b where a < 0, c elsewhere."""
lane_sum = _instruction(_emit_lane_sum, 1, types.float32)
"""The sum over the lanes, always in the same order."""
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


_inlined = njit(forceinline=True, nogil=True, error_model="numpy")

# 2^f for |f| <= 1/2: 1 + f (c1 + f (c2 + ...)), relative error 2e-9, fitted by us. Exact at 0, where slow decays are.
_EXP2_C1, _EXP2_C2, _EXP2_C3 = 0.6931471824645996, 0.24022647738456726, 0.055503323674201965
_EXP2_C4, _EXP2_C5, _EXP2_C6 = 0.00961843691766262, 0.0013398875016719103, 0.00015353361959569156
# Adding it rounds to whole numbers and leaves them, plus the bias 127 of an exponent, in the lowest bits.
_ROUNDING = float(3 * 2**22 + 127)
_LOG2_E, _LN2 = 1.4426950408889634, 0.6931471805599453
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.428606765330187e-06  # the first has few bits: its multiples are exact
# log((1 + s) / (1 - s)) = s (2 + s^2 (c1 + ...)) for s <= 1/3, relative error 4e-9, fitted by us.
_LOG_C1, _LOG_C2, _LOG_C3, _LOG_C4 = 0.666664183139801, 0.4002152681350708, 0.28001806139945984, 0.2801198959350586


@_inlined
@no_type_check
def _scaled_power_of_two(fraction, rounded):
    """2^fraction times the power of two whose exponent is in the lowest bits of `rounded`."""
    p = fma(fraction, splat(_EXP2_C6), splat(_EXP2_C5))
    p = fma(fraction, p, splat(_EXP2_C4))
    p = fma(fraction, p, splat(_EXP2_C3))
    p = fma(fraction, p, splat(_EXP2_C2))
    p = fma(fraction, p, splat(_EXP2_C1))
    p = fma(fraction, p, splat(1.0))
    return p * _low_bits_as_exponent(rounded)


@_inlined
@no_type_check
def exp2(x):
    """2^x; 0 below 2^-126, infinite from 2^127.5 on."""
    x = smaller(larger(x, splat(-127.0)), splat(128.0))
    rounded = x + splat(_ROUNDING)
    return _scaled_power_of_two(x - (rounded - splat(_ROUNDING)), rounded)


@_inlined
@no_type_check
def exp_of_negative(x):
    """e^x for x <= 0, to the last bit or two: x is not scaled, which would cost digits where it is large."""
    x = larger(x, splat(-88.0))
    rounded = fma(x, splat(_LOG2_E), splat(_ROUNDING))
    whole = rounded - splat(_ROUNDING)
    rest = fma(whole, splat(-_LN2_LOW), fma(whole, splat(-_LN2_HIGH), x))
    return _scaled_power_of_two(rest * splat(_LOG2_E), rounded)


@_inlined
@no_type_check
def _minus_magnitude(x):
    return smaller(x, splat(0.0) - x)


@_inlined
@no_type_check
def sigmoid(x):
    """1 / (1 + e^-x), with a full relative precision on both sides."""
    w = exp_of_negative(_minus_magnitude(x))
    return where_negative(x, w, splat(1.0)) / (splat(1.0) + w)


@_inlined
@no_type_check
def softplus(x):
    """log(1 + e^x), with a full relative precision where it is nearly 0, too."""
    w = exp_of_negative(_minus_magnitude(x))
    s = w / (splat(2.0) + w)
    square = s * s
    p = fma(square, splat(_LOG_C4), splat(_LOG_C3))
    p = fma(square, p, splat(_LOG_C2))
    p = fma(square, p, splat(_LOG_C1))
    p = fma(square, p, splat(2.0))
    return fma(s, p, larger(x, splat(0.0)))


@_inlined
@no_type_check
def _load_some(array, b, t, e, width):
    """A vector of channels, filled up with 0 where there are fewer than LANES."""
    if width == LANES:
        return load(array, (b, t, e))
    padded = np.zeros(LANES, np.float32)
    for lane in range(width):
        padded[lane] = array[b, t, e + lane]
    return load(padded, (0,))


@_inlined
@no_type_check
def _store_some(array, b, t, e, width, vector):
    """Writes the first `width` lanes."""
    if width == LANES:
        store(array, (b, t, e), vector)
    else:
        padded = np.empty(LANES, np.float32)
        store(padded, (0,), vector)
        for lane in range(width):
            array[b, t, e + lane] = padded[lane]


@_inlined
@no_type_check
def _aligned(size):
    """Work memory of `size` floats that starts with a cache line."""
    memory = np.empty(size + LANES, np.float32)
    start = (-memory.ctypes.data % 64) // 4
    return memory[start : start + size]


# ---------------------------------------------------------------------------------------------------- kernels
#
# Work memory is a flat array of vectors: of the tile (a vector per step), of the block (a vector per state and
# channel vector), or of both. A name ending in T holds a vector per step, in N one per state.


@_inlined
@no_type_check
def _gather(matrix, e, scale, out, start):
    """Row by row of matrix (E, N): from channel e on, a vector per state, times `scale`, to `out` from `start` on."""
    channels, states = matrix.shape
    for n in range(states):
        for lane in range(LANES):
            value = matrix[e + lane, n] * np.float32(scale) if e + lane < channels else np.float32(0.0)
            out[start + n * LANES + lane] = value


@_inlined
@no_type_check
def _gather_row(row, e, out):
    """The vector that starts at row[e], with 0 behind the end; `out` is work memory."""
    for lane in range(LANES):
        out[lane] = row[e + lane] if e + lane < len(row) else np.float32(0.0)
    return load(out, (0,))


@_inlined
@no_type_check
def _transpose(sequence, b, start, steps, out):
    """The tile of a (B, L, N) sequence to `out`, state by state, TILE numbers each."""
    for n in range(sequence.shape[2]):
        for t in range(steps):
            out[n * TILE + t] = sequence[b, start + t, n]


@_inlined
@no_type_check
def _add_to(total, lost, at, term):
    """Adds a vector to a running total without losing its low digits (Kahan 1965)."""
    before = load(total, (at,))
    term = term - load(lost, (at,))
    after = before + term
    store(lost, (at,), (after - before) - term)
    store(total, (at,), after)


@_kernel
@no_type_check
def scan_forward(first, last, rows, vectors, softplus_delta, u, delta, A, B, C, D, z, delta_bias, y, checkpoints):
    """Blocks first..last-1 of the forward pass, which writes `y` and `checkpoints`.

    A block is `rows` sequences by `vectors` x LANES channels; blocks are numbered channels first. Layouts are
    (B, L, E), (B, L, N), (E, N) and (E,); `checkpoints` is (B, tiles - 1, vectors of E, even N x LANES). What is
    not there (`D`, `z`, `delta_bias`; checkpoints if nobody will need them) has length 0.
    """
    batch, length, channels = u.shape
    per_vector = (A.shape[1] + 1) // 2 * 2 * LANES
    groups = -(-channels // (vectors * LANES))
    rate_N, state_N = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    B_NT, C_NT = np.zeros(TILE * per_vector, np.float32), np.zeros(TILE * per_vector, np.float32)
    step_T, drive_T, y_T = _aligned(TILE * LANES), _aligned(TILE * LANES), _aligned(TILE * LANES)
    spare = _aligned(LANES)
    rate_N[:] = 0.0
    for block in range(first, last):
        first_row, first_channel = block // groups * rows, block % groups * vectors * LANES
        last_channel = min(first_channel + vectors * LANES, channels)
        for e in range(first_channel, last_channel, LANES):
            _gather(A, e, _LOG2_E, rate_N, (e - first_channel) // LANES * per_vector)
        for b in range(first_row, min(first_row + rows, batch)):
            state_N[:] = 0.0
            for start in range(0, length, TILE):
                steps = min(TILE, length - start)
                _transpose(B, b, start, steps, B_NT)
                _transpose(C, b, start, steps, C_NT)
                for e in range(first_channel, last_channel, LANES):
                    width = min(LANES, channels - e)
                    own = (e - first_channel) // LANES * per_vector
                    bias, bypass = _gather_row(delta_bias, e, spare), _gather_row(D, e, spare)
                    for t in range(steps):
                        prefetch(u, (b, start + TILE + t, e))
                        prefetch(delta, (b, start + TILE + t, e))
                        u_t = _load_some(u, b, start + t, e, width)
                        step = _load_some(delta, b, start + t, e, width) + bias
                        if softplus_delta:
                            step = softplus(step)
                        store(step_T, (t * LANES,), step)
                        store(drive_T, (t * LANES,), step * u_t)
                        store(y_T, (t * LANES,), bypass * u_t)

                    for at in range(0, per_vector, 2 * LANES):  # two states at a time: half the traffic
                        n = at // LANES * TILE
                        rate_0, rate_1 = load(rate_N, (own + at,)), load(rate_N, (own + at + LANES,))
                        h_0, h_1 = load(state_N, (own + at,)), load(state_N, (own + at + LANES,))
                        for t in range(steps):
                            step, drive = load(step_T, (t * LANES,)), load(drive_T, (t * LANES,))
                            h_0 = fma(exp2(step * rate_0), h_0, drive * broadcast(B_NT, (n + t,)))
                            h_1 = fma(exp2(step * rate_1), h_1, drive * broadcast(B_NT, (n + TILE + t,)))
                            y_t = fma(broadcast(C_NT, (n + t,)), h_0, load(y_T, (t * LANES,)))
                            store(y_T, (t * LANES,), fma(broadcast(C_NT, (n + TILE + t,)), h_1, y_t))
                        store(state_N, (own + at,), h_0)
                        store(state_N, (own + at + LANES,), h_1)

                    for t in range(steps):
                        y_t = load(y_T, (t * LANES,))
                        if len(z):
                            prefetch(z, (b, start + TILE + t, e))
                            z_t = _load_some(z, b, start + t, e, width)
                            y_t = y_t * (z_t * sigmoid(z_t))
                        _store_some(y, b, start + t, e, width, y_t)
                    if len(checkpoints) and start + TILE < length:
                        for at in range(0, per_vector, LANES):
                            store(checkpoints, (b, start // TILE, e // LANES, at), load(state_N, (own + at,)))


@_kernel
@no_type_check
def scan_backward(
    first, last, rows, vectors, softplus_delta, u, delta, A, B, C, D, z, delta_bias, checkpoints, grad_y,
    grad_u, grad_delta, grad_z, parts_A, parts_B, parts_C, parts_D, parts_bias,
):  # fmt: skip
    """Blocks first..last-1 of the backward pass: the first two lines are given, the third is written.

    Arguments are those of `scan_forward`. Gradients are laid out like what they belong to, except that a part is
    what one block has to say: (row blocks, ...) for A, D and the bias, (channel blocks, ...) for B and C.
    """
    batch, length, channels = u.shape
    states = A.shape[1]
    per_vector = (states + 1) // 2 * 2 * LANES
    groups = -(-channels // (vectors * LANES))
    rate_N, carry_N = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    grad_A_N, lost_A_N = _aligned(vectors * per_vector), _aligned(vectors * per_vector)
    grad_D, lost_D = _aligned(vectors * LANES), _aligned(vectors * LANES)
    grad_bias, lost_bias = _aligned(vectors * LANES), _aligned(vectors * LANES)
    B_NT, C_NT = np.zeros(TILE * per_vector, np.float32), np.zeros(TILE * per_vector, np.float32)
    grad_B_NT, grad_C_NT = _aligned(TILE * per_vector), _aligned(TILE * per_vector)
    step_T, slope_T, drive_T, y_T = (
        _aligned(TILE * LANES), _aligned(TILE * LANES), _aligned(TILE * LANES), _aligned(TILE * LANES),
    )  # fmt: skip
    grad_y_T, grad_drive_T, grad_power_T = _aligned(TILE * LANES), _aligned(TILE * LANES), _aligned(TILE * LANES)
    decay_0_T, decay_1_T = _aligned(TILE * LANES), _aligned(TILE * LANES)
    before_0_T, before_1_T = _aligned((TILE + 1) * LANES), _aligned((TILE + 1) * LANES)
    spare = _aligned(LANES)
    rate_N[:] = 0.0
    for block in range(first, last):
        row_block, group = block // groups, block % groups
        first_channel = group * vectors * LANES
        last_channel = min(first_channel + vectors * LANES, channels)
        for e in range(first_channel, last_channel, LANES):
            _gather(A, e, _LOG2_E, rate_N, (e - first_channel) // LANES * per_vector)
        grad_A_N[:], lost_A_N[:] = 0.0, 0.0
        grad_D[:], lost_D[:] = 0.0, 0.0
        grad_bias[:], lost_bias[:] = 0.0, 0.0
        for b in range(row_block * rows, min((row_block + 1) * rows, batch)):
            carry_N[:] = 0.0
            for tile in range(-(-length // TILE) - 1, -1, -1):
                start = tile * TILE
                steps = min(TILE, length - start)
                _transpose(B, b, start, steps, B_NT)
                _transpose(C, b, start, steps, C_NT)
                for at in range(0, states * TILE, TILE):
                    for t in range(steps):
                        store(grad_B_NT, ((at + t) * LANES,), splat(0.0))
                        store(grad_C_NT, ((at + t) * LANES,), splat(0.0))
                for e in range(first_channel, last_channel, LANES):
                    width = min(LANES, channels - e)
                    vector = (e - first_channel) // LANES
                    own = vector * per_vector
                    bias, bypass = _gather_row(delta_bias, e, spare), _gather_row(D, e, spare)
                    for t in range(steps):
                        prefetch(u, (b, start - TILE + t, e))
                        prefetch(delta, (b, start - TILE + t, e))
                        prefetch(grad_y, (b, start - TILE + t, e))
                        u_t = _load_some(u, b, start + t, e, width)
                        step = _load_some(delta, b, start + t, e, width) + bias
                        slope = splat(1.0)
                        if softplus_delta:
                            slope = sigmoid(step)
                            step = softplus(step)
                        grad_t = _load_some(grad_y, b, start + t, e, width)
                        if len(z):
                            prefetch(z, (b, start - TILE + t, e))
                            z_t = _load_some(z, b, start + t, e, width)
                            grad_t = grad_t * (z_t * sigmoid(z_t))
                        store(step_T, (t * LANES,), step)
                        store(slope_T, (t * LANES,), slope)
                        store(drive_T, (t * LANES,), step * u_t)
                        store(y_T, (t * LANES,), bypass * u_t)
                        store(grad_y_T, (t * LANES,), grad_t)
                        store(grad_drive_T, (t * LANES,), splat(0.0))
                        store(grad_power_T, (t * LANES,), splat(0.0))

                    for at in range(0, per_vector, 2 * LANES):
                        n = at // LANES * TILE
                        rate_0, rate_1 = load(rate_N, (own + at,)), load(rate_N, (own + at + LANES,))
                        h_0, h_1 = splat(0.0), splat(0.0)
                        if tile:
                            h_0 = load(checkpoints, (b, tile - 1, e // LANES, at))
                            h_1 = load(checkpoints, (b, tile - 1, e // LANES, at + LANES))
                        for t in range(steps):
                            step, drive = load(step_T, (t * LANES,)), load(drive_T, (t * LANES,))
                            store(before_0_T, (t * LANES,), h_0)
                            store(before_1_T, (t * LANES,), h_1)
                            decay_0, decay_1 = exp2(step * rate_0), exp2(step * rate_1)
                            store(decay_0_T, (t * LANES,), decay_0)
                            store(decay_1_T, (t * LANES,), decay_1)
                            h_0 = fma(decay_0, h_0, drive * broadcast(B_NT, (n + t,)))
                            h_1 = fma(decay_1, h_1, drive * broadcast(B_NT, (n + TILE + t,)))
                            y_t = fma(broadcast(C_NT, (n + t,)), h_0, load(y_T, (t * LANES,)))
                            store(y_T, (t * LANES,), fma(broadcast(C_NT, (n + TILE + t,)), h_1, y_t))

                        # The adjoint runs backwards: `grad_h` is first the gradient at the state of step t, then
                        # what of it comes from the state before.
                        grad_h_0, grad_h_1 = load(carry_N, (own + at,)), load(carry_N, (own + at + LANES,))
                        rate_sum_0, rate_sum_1 = splat(0.0), splat(0.0)
                        for t in range(steps - 1, -1, -1):
                            step, drive = load(step_T, (t * LANES,)), load(drive_T, (t * LANES,))
                            grad_t = load(grad_y_T, (t * LANES,))
                            at_0, at_1 = (n + t) * LANES, (n + TILE + t) * LANES
                            store(grad_C_NT, (at_0,), fma(grad_t, h_0, load(grad_C_NT, (at_0,))))
                            store(grad_C_NT, (at_1,), fma(grad_t, h_1, load(grad_C_NT, (at_1,))))
                            grad_h_0 = fma(grad_t, broadcast(C_NT, (n + t,)), grad_h_0)
                            grad_h_1 = fma(grad_t, broadcast(C_NT, (n + TILE + t,)), grad_h_1)
                            store(grad_B_NT, (at_0,), fma(drive, grad_h_0, load(grad_B_NT, (at_0,))))
                            store(grad_B_NT, (at_1,), fma(drive, grad_h_1, load(grad_B_NT, (at_1,))))
                            grad_drive = fma(grad_h_0, broadcast(B_NT, (n + t,)), load(grad_drive_T, (t * LANES,)))
                            grad_drive = fma(grad_h_1, broadcast(B_NT, (n + TILE + t,)), grad_drive)
                            store(grad_drive_T, (t * LANES,), grad_drive)
                            grad_h_0 = grad_h_0 * load(decay_0_T, (t * LANES,))
                            grad_h_1 = grad_h_1 * load(decay_1_T, (t * LANES,))
                            h_0, h_1 = load(before_0_T, (t * LANES,)), load(before_1_T, (t * LANES,))
                            power_0, power_1 = grad_h_0 * h_0, grad_h_1 * h_1
                            grad_power = fma(power_0, rate_0, load(grad_power_T, (t * LANES,)))
                            store(grad_power_T, (t * LANES,), fma(power_1, rate_1, grad_power))
                            rate_sum_0 = fma(power_0, step, rate_sum_0)
                            rate_sum_1 = fma(power_1, step, rate_sum_1)
                        store(carry_N, (own + at,), grad_h_0)
                        store(carry_N, (own + at + LANES,), grad_h_1)
                        _add_to(grad_A_N, lost_A_N, own + at, rate_sum_0)
                        _add_to(grad_A_N, lost_A_N, own + at + LANES, rate_sum_1)

                    bypass_sum, bias_sum = splat(0.0), splat(0.0)
                    for t in range(steps):
                        u_t = _load_some(u, b, start + t, e, width)
                        step, grad_t = load(step_T, (t * LANES,)), load(grad_y_T, (t * LANES,))
                        grad_drive = load(grad_drive_T, (t * LANES,))
                        grad_step = fma(grad_drive, u_t, load(grad_power_T, (t * LANES,)) * splat(_LN2))
                        grad_step = grad_step * load(slope_T, (t * LANES,))
                        _store_some(grad_u, b, start + t, e, width, fma(grad_drive, step, grad_t * bypass))
                        _store_some(grad_delta, b, start + t, e, width, grad_step)
                        bias_sum = bias_sum + grad_step
                        bypass_sum = fma(grad_t, u_t, bypass_sum)
                        if len(z):
                            z_t = _load_some(z, b, start + t, e, width)
                            gate = sigmoid(z_t)
                            gate_slope = gate * fma(z_t, splat(1.0) - gate, splat(1.0))
                            y_t = load(y_T, (t * LANES,)) * _load_some(grad_y, b, start + t, e, width)
                            _store_some(grad_z, b, start + t, e, width, y_t * gate_slope)
                    _add_to(grad_D, lost_D, vector * LANES, bypass_sum)
                    _add_to(grad_bias, lost_bias, vector * LANES, bias_sum)

                for n in range(states):
                    for t in range(steps):
                        at = (n * TILE + t) * LANES
                        parts_B[group, b, start + t, n] = lane_sum(load(grad_B_NT, (at,)))
                        parts_C[group, b, start + t, n] = lane_sum(load(grad_C_NT, (at,)))
        for e in range(first_channel, last_channel):
            at = e - first_channel
            parts_D[row_block, e] = grad_D[at]
            parts_bias[row_block, e] = grad_bias[at]
            for n in range(states):
                parts_A[row_block, e, n] = grad_A_N[at // LANES * per_vector + n * LANES + at % LANES]


@_kernel
@no_type_check
def sum_parts(parts, total):
    """The sum of a (parts, size) matrix over its parts, in their order."""
    total[:] = parts[0]
    for part in range(1, parts.shape[0]):
        for i in range(parts.shape[1]):
            total[i] += parts[part, i]
