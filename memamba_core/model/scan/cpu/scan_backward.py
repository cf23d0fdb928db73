"""Kernels of the scan's backward pass (`scan` describes the algorithm)."""

# What numba compiles has no annotations but the types of a kernel's parameters: it infers types.
# ruff: noqa: ANN001, ANN201, ANN202

from typing import Final, no_type_check

import numpy as np

from memamba_core.model.scan.cpu.compiler import FLAG, GROUPS, INTEGER, MATRIX, PLACES, ROW, SEQUENCE, inlined, kernel
from memamba_core.model.scan.cpu.functions import LN2, exp2_constants, exp2_of_product, sigmoid, softplus_and_slope
from memamba_core.model.scan.cpu.scan_tiles import (
    BAND,
    DRIVE,
    STEP,
    TILE,
    Y,
    aligned,
    copy_tile,
    find_places,
    gather_rates,
    gather_row,
    next_line,
    padded_states,
    state_size,
)
from memamba_core.model.scan.cpu.sums import add_to, clear
from memamba_core.model.scan.cpu.vector_memory import (
    broadcast,
    lane_sums,
    load,
    load_some,
    prefetch_to_read,
    prefetch_to_write,
    store,
    store_some,
)
from memamba_core.model.scan.cpu.vector_type import LANES
from memamba_core.model.scan.cpu.vectors import fma, larger, smaller, splat

__all__ = ["scan_backward"]

# Places in a tile's row, after those of `scan_tiles`.
_GRAD_Y: Final = 3 * LANES
_GRAD_DRIVE: Final = 4 * LANES
_GRAD_POWER: Final = 5 * LANES  # gradient at delta, through the decays, times log2(e)
_SLOPE: Final = 6 * LANES  # of softplus
_GATE: Final = 7 * LANES  # sigmoid of z
_DECAY: Final = 8 * LANES  # of two states
_BEFORE: Final = 10 * LANES  # two states before the step
_ROW: Final = 12 * LANES


@inlined
@no_type_check
def _make_two_states(tile, steps, B_tile, C_tile, stride, n, rate_0, rate_1, h_0, h_1, constants):
    """Recompute the recurrence of states n and n + 1, keeping decays and states. Return the last states."""
    for t in range(steps):
        row, given = t * _ROW, t * stride + n
        step, drive = load(tile, (row + STEP,)), load(tile, (row + DRIVE,))
        store(tile, (row + _BEFORE,), h_0)
        store(tile, (row + _BEFORE + LANES,), h_1)
        decay_0, decay_1 = exp2_of_product(step, rate_0, constants), exp2_of_product(step, rate_1, constants)
        store(tile, (row + _DECAY,), decay_0)
        store(tile, (row + _DECAY + LANES,), decay_1)
        h_0 = fma(decay_0, h_0, drive * broadcast(B_tile, (given,)))
        h_1 = fma(decay_1, h_1, drive * broadcast(B_tile, (given + 1,)))
        y_t = fma(broadcast(C_tile, (given,)), h_0, load(tile, (row + Y,)))
        store(tile, (row + Y,), fma(broadcast(C_tile, (given + 1,)), h_1, y_t))
    return h_0, h_1


@inlined
@no_type_check
def _run_two_adjoints(
    tile, steps, B_tile, C_tile, stride, n, rate_0, rate_1, h_0, h_1, grad_h_0, grad_h_1, sum_B, sum_C
):
    """Run the recurrence backwards.

    `grad_h` is first the gradient at the state of a step, then its part for the step before.

    Return the gradient for the tile before, and the tile's gradient at the two rates.
    """
    sum_0, sum_1 = splat(0.0), splat(0.0)
    for t in range(steps - 1, -1, -1):
        row, given = t * _ROW, t * stride + n
        sums_0, sums_1 = (n * steps + t) * LANES, ((n + 1) * steps + t) * LANES
        B_0, B_1 = broadcast(B_tile, (given,)), broadcast(B_tile, (given + 1,))
        C_0, C_1 = broadcast(C_tile, (given,)), broadcast(C_tile, (given + 1,))
        step, drive = load(tile, (row + STEP,)), load(tile, (row + DRIVE,))
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
    return grad_h_0, grad_h_1, sum_0, sum_1


@inlined
@no_type_check
def _prepare(
    u, delta, z, grad_y, b, start, places, steps, e, width, bias, bypass, least, most, softplus_delta, constants, tile
):
    """Compute the values that the recurrences read of a tile's steps, for a vector of channels."""
    for t in range(steps):
        u_t = load_some(u, (b, start + t, e), width)
        step, slope = load_some(delta, (b, start + t, e), width) + bias, splat(1.0)
        if softplus_delta:
            step, slope = softplus_and_slope(step, constants)
        grad_t = load_some(grad_y, (b, places[TILE + t], e), width)
        row = t * _ROW
        if len(z):
            z_t = load_some(z, (b, places[TILE + t], e), width)
            gate = sigmoid(z_t, constants)
            store(tile, (row + _GATE,), gate)
            grad_t = grad_t * (z_t * gate)
        store(tile, (row + STEP,), smaller(larger(step, least), most))
        store(tile, (row + DRIVE,), step * u_t)
        store(tile, (row + Y,), bypass * u_t)
        store(tile, (row + _GRAD_Y,), grad_t)
        store(tile, (row + _GRAD_DRIVE,), splat(0.0))
        store(tile, (row + _GRAD_POWER,), splat(0.0))
        store(tile, (row + _SLOPE,), slope)


@inlined
@no_type_check
def _finish(tile, steps, u, z, grad_y, grad_u, grad_delta, grad_z, b, start, places, e, width, bypass):
    """Write the gradients of the inputs of a tile's steps to memory. Return the tile's gradients at D and the bias."""
    tile_D, tile_bias = splat(0.0), splat(0.0)
    for t in range(steps):
        row = t * _ROW
        u_t = load_some(u, (b, start + t, e), width)
        grad_t, grad_drive = load(tile, (row + _GRAD_Y,)), load(tile, (row + _GRAD_DRIVE,))
        grad_step = fma(grad_drive, u_t, load(tile, (row + _GRAD_POWER,)) * splat(LN2))
        grad_step = grad_step * load(tile, (row + _SLOPE,))
        grad_u_t = fma(grad_drive, load(tile, (row + STEP,)), grad_t * bypass)
        store_some(grad_u, (b, start + t, e), grad_u_t, width)
        store_some(grad_delta, (b, start + t, e), grad_step, width)
        tile_bias = tile_bias + grad_step
        tile_D = fma(grad_t, u_t, tile_D)
        if len(z):
            z_t, gate = load_some(z, (b, places[TILE + t], e), width), load(tile, (row + _GATE,))
            gate_slope = gate * fma(z_t, splat(1.0) - gate, splat(1.0))
            grad_gate = load(tile, (row + Y,)) * load_some(grad_y, (b, places[TILE + t], e), width)
            store_some(grad_z, (b, places[TILE + t], e), grad_gate * gate_slope, width)
    return tile_D, tile_bias


@inlined
@no_type_check
def _ask_ahead(
    lines, u, delta, z, grad_y, grad_u, grad_delta, grad_z, b, start, places, step, channel, first_channel, last_channel
):
    """Prefetch `lines` cache lines of the tile before, from a step and channel on. Return the next step and channel."""
    for _ in range(lines):
        if step < TILE:
            prefetch_to_read(u, (b, start - TILE + step, channel))
            prefetch_to_read(delta, (b, start - TILE + step, channel))
            prefetch_to_read(grad_y, (b, places[step], channel))
            prefetch_to_read(z, (b, places[step], channel))
            prefetch_to_write(grad_u, (b, start - TILE + step, channel))
            prefetch_to_write(grad_delta, (b, start - TILE + step, channel))
            prefetch_to_write(grad_z, (b, places[step], channel))
            step, channel = next_line(step, channel, first_channel, last_channel)
    return step, channel


@kernel
@no_type_check
def scan_backward(
    first: INTEGER, last: INTEGER, rows: INTEGER, vectors: INTEGER,
    u: SEQUENCE, delta: SEQUENCE, A: MATRIX, B: SEQUENCE, C: SEQUENCE,
    D: ROW, z: SEQUENCE, delta_bias: ROW, softplus_delta: FLAG, order: PLACES, exp2_table: ROW,
    checkpoints: GROUPS, grad_y: SEQUENCE, begin: INTEGER, end: INTEGER, carry: SEQUENCE,
    grad_u: SEQUENCE, grad_delta: SEQUENCE, grad_z: SEQUENCE,
    parts_A: SEQUENCE, parts_B: GROUPS, parts_C: GROUPS, parts_D: MATRIX, parts_bias: MATRIX,
):  # fmt: skip
    """Compute blocks first..last-1 of the backward pass over the steps begin..end-1; begin is the start of a tile.

    The first two lines of arguments are those of `scan_forward`; the last two are written. `carry` holds, for each
    sequence, vector of channels and state, the gradient that comes from step `end`, and afterwards the gradient for the
    step before `begin`. Gradients have the layouts of their arguments. Parts are the contributions of single blocks:
    (row blocks, ...) for A, D and the bias, (channel blocks, B, end - begin, N) for B and C.
    """
    batch, length, channels = u.shape
    states = A.shape[1]
    per_vector, stride = state_size(states), padded_states(states)
    width_E = vectors * LANES  # of a block
    groups = -(-channels // width_E)
    constants = exp2_constants(exp2_table)
    most_vectors = min(last - first, min(groups, BAND)) * vectors
    rates = aligned(most_vectors * per_vector)
    bias_E, bypass_E = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    least_step, most_step = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    sum_A, lost_A = aligned(most_vectors * per_vector), aligned(most_vectors * per_vector)
    sum_D, lost_D = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    sum_bias, lost_bias = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    B_tile, C_tile, tile = aligned(TILE * stride), aligned(TILE * stride), aligned(TILE * _ROW)
    # One vector per state and step, to be added up over the block's vectors and then over the lanes.
    sum_B, sum_C = aligned(stride * TILE * LANES), aligned(stride * TILE * LANES)
    places = np.empty(2 * TILE, np.int64)  # of the steps of the tile before, and of this tile's steps
    lines_a_pair = -(-TILE // (per_vector // (2 * LANES)))
    block = first
    while block < last:
        row_block, group = block // groups, block % groups
        block = min(min(last, (row_block + 1) * groups), block + BAND)
        first_channel = group * width_E
        last_channel = min((block - row_block * groups) * width_E, channels)
        gather_rates(A, first_channel, rates, per_vector, least_step, most_step)
        gather_row(delta_bias, first_channel, bias_E)
        gather_row(D, first_channel, bypass_E)
        for memory in (sum_A, lost_A, sum_D, lost_D, sum_bias, lost_bias):
            clear(memory, len(memory))
        for b in range(row_block * rows, min((row_block + 1) * rows, batch)):
            for start in range((end - 1) // TILE * TILE, begin - 1, -TILE):
                steps = min(TILE, end - start)
                copy_tile(B, b, start, steps, B_tile, stride)
                copy_tile(C, b, start, steps, C_tile, stride)
                find_places(order, b, start - TILE, length, places)
                ahead, channel = 0, first_channel  # next line of the tile before to prefetch
                for e in range(first_channel, last_channel, LANES):
                    lane = e - first_channel
                    own, vector, width = lane // LANES * per_vector, e // LANES, channels - e
                    bias, bypass = load(bias_E, (lane,)), load(bypass_E, (lane,))
                    least, most = load(least_step, (lane,)), load(most_step, (lane,))
                    if e % width_E == 0:
                        clear(sum_B, states * steps * LANES)
                        clear(sum_C, states * steps * LANES)
                    _prepare(
                        u, delta, z, grad_y, b, start, places, steps, e, width, bias, bypass, least, most,
                        softplus_delta, constants, tile,
                    )  # fmt: skip
                    for n in range(0, states, 2):
                        at_0, at_1 = n * LANES, (n + 1) * LANES
                        ahead, channel = _ask_ahead(
                            lines_a_pair, u, delta, z, grad_y, grad_u, grad_delta, grad_z, b, start, places,
                            ahead, channel, first_channel, last_channel,
                        )  # fmt: skip
                        prefetch_to_read(checkpoints, (b, start // TILE - 2, vector, at_0))
                        prefetch_to_read(checkpoints, (b, start // TILE - 2, vector, at_1))
                        rate_0, rate_1 = load(rates, (own + at_0,)), load(rates, (own + at_1,))
                        h_0, h_1 = splat(0.0), splat(0.0)
                        if start:
                            h_0 = load(checkpoints, (b, start // TILE - 1, vector, at_0))
                            h_1 = load(checkpoints, (b, start // TILE - 1, vector, at_1))
                        h_0, h_1 = _make_two_states(
                            tile, steps, B_tile, C_tile, stride, n, rate_0, rate_1, h_0, h_1, constants
                        )
                        grad_h_0, grad_h_1 = load(carry, (b, vector, at_0)), load(carry, (b, vector, at_1))
                        grad_h_0, grad_h_1, sum_0, sum_1 = _run_two_adjoints(
                            tile, steps, B_tile, C_tile, stride, n, rate_0, rate_1, h_0, h_1, grad_h_0, grad_h_1,
                            sum_B, sum_C,
                        )  # fmt: skip
                        store(carry, (b, vector, at_0), grad_h_0)
                        store(carry, (b, vector, at_1), grad_h_1)
                        add_to(sum_A, lost_A, own + at_0, sum_0)
                        add_to(sum_A, lost_A, own + at_1, sum_1)

                    tile_D, tile_bias = _finish(
                        tile, steps, u, z, grad_y, grad_u, grad_delta, grad_z, b, start, places, e, width, bypass
                    )
                    add_to(sum_D, lost_D, lane, tile_D)
                    add_to(sum_bias, lost_bias, lane, tile_bias)
                    if (e + LANES) % width_E == 0 or e + LANES >= last_channel:
                        for t in range(steps):
                            for n in range(0, states, LANES):
                                at, place = (n * steps + t) * LANES, (e // width_E, b, start - begin + t, n)
                                store_some(parts_B, place, lane_sums(sum_B, (at,), steps * LANES), states - n)
                                store_some(parts_C, place, lane_sums(sum_C, (at,), steps * LANES), states - n)
        for e in range(first_channel, last_channel):
            lane = e - first_channel
            parts_D[row_block, e] = sum_D[lane]
            parts_bias[row_block, e] = sum_bias[lane]
            for n in range(states):
                parts_A[row_block, e, n] = sum_A[lane // LANES * per_vector + n * LANES + lane % LANES]
