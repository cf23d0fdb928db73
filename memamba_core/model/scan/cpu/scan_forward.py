"""Kernels of the scan's forward pass (`scan` describes the algorithm)."""

# What numba compiles has no annotations but the types of a kernel's parameters: it infers types.
# ruff: noqa: ANN001, ANN201, ANN202

from typing import Final, no_type_check

import numpy as np

from memamba_core.model.scan.cpu.compiler import FLAG, GROUPS, INTEGER, MATRIX, PLACES, ROW, SEQUENCE, inlined, kernel
from memamba_core.model.scan.cpu.functions import exp2_constants, exp2_of_product, sigmoid, softplus
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
from memamba_core.model.scan.cpu.sums import clear
from memamba_core.model.scan.cpu.vector_memory import (
    broadcast,
    load,
    load_some,
    prefetch_to_read,
    prefetch_to_write,
    store,
    store_some,
)
from memamba_core.model.scan.cpu.vector_type import LANES
from memamba_core.model.scan.cpu.vectors import fma, larger, smaller

__all__ = ["scan_forward"]

_ROW: Final = 3 * LANES


@inlined
@no_type_check
def _run_two_states(tile, steps, B_tile, C_tile, stride, n, rates, state, own, constants):
    """Run the recurrence of states n and n + 1 over a tile and add to y; two states at a time halve the traffic."""
    at_0, at_1 = own + n * LANES, own + (n + 1) * LANES
    rate_0, rate_1 = load(rates, (at_0,)), load(rates, (at_1,))
    h_0, h_1 = load(state, (at_0,)), load(state, (at_1,))
    for t in range(steps):
        row, given = t * _ROW, t * stride + n
        step, drive = load(tile, (row + STEP,)), load(tile, (row + DRIVE,))
        h_0 = fma(exp2_of_product(step, rate_0, constants), h_0, drive * broadcast(B_tile, (given,)))
        h_1 = fma(exp2_of_product(step, rate_1, constants), h_1, drive * broadcast(B_tile, (given + 1,)))
        y_t = fma(broadcast(C_tile, (given,)), h_0, load(tile, (row + Y,)))
        store(tile, (row + Y,), fma(broadcast(C_tile, (given + 1,)), h_1, y_t))
    store(state, (at_0,), h_0)
    store(state, (at_1,), h_1)


@inlined
@no_type_check
def _prepare(u, delta, b, start, steps, e, width, bias, bypass, least, most, softplus_delta, constants, tile):
    """Compute step sizes, the input of the states, and the bypass of a tile's steps, for a vector of channels."""
    for t in range(steps):
        u_t = load_some(u, (b, start + t, e), width)
        step = load_some(delta, (b, start + t, e), width) + bias
        if softplus_delta:
            step = softplus(step, constants)
        row = t * _ROW
        store(tile, (row + STEP,), smaller(larger(step, least), most))
        store(tile, (row + DRIVE,), step * u_t)
        store(tile, (row + Y,), bypass * u_t)


@inlined
@no_type_check
def _finish(tile, steps, z, y, b, places, e, width, constants):
    """Apply the gate and write the output to memory."""
    for t in range(steps):
        y_t = load(tile, (t * _ROW + Y,))
        if len(z):
            z_t = load_some(z, (b, places[t], e), width)
            y_t = y_t * (z_t * sigmoid(z_t, constants))
        store_some(y, (b, places[t], e), y_t, width)


@inlined
@no_type_check
def _ask_ahead(lines, u, delta, z, y, b, start, places, step, channel, first_channel, last_channel):
    """Prefetch `lines` cache lines of the next tile, from a step and channel on. Return the next step and channel."""
    for _ in range(lines):
        if step < TILE:
            prefetch_to_read(u, (b, start + TILE + step, channel))
            prefetch_to_read(delta, (b, start + TILE + step, channel))
            prefetch_to_read(z, (b, places[TILE + step], channel))
            prefetch_to_write(y, (b, places[TILE + step], channel))
            step, channel = next_line(step, channel, first_channel, last_channel)
    return step, channel


@kernel
@no_type_check
def scan_forward(
    first: INTEGER, last: INTEGER, rows: INTEGER, vectors: INTEGER,
    u: SEQUENCE, delta: SEQUENCE, A: MATRIX, B: SEQUENCE, C: SEQUENCE,
    D: ROW, z: SEQUENCE, delta_bias: ROW, softplus_delta: FLAG, order: PLACES, exp2_table: ROW,
    y: SEQUENCE, checkpoints: GROUPS,
):  # fmt: skip
    """Compute blocks first..last-1 of the forward pass, which writes `y` and `checkpoints`.

    A block is `rows` sequences by `vectors` x LANES channels; blocks are numbered channels first. Layouts are
    (B, L, E), (B, L, N), (E, N) and (E,). `order` is (B, L): step t reads z and writes y at place order[t].
    `checkpoints` is (B, tiles - 1, vectors of E, state_size). Absent arguments (`D`, `z`, `delta_bias`, `order`;
    `checkpoints` if no backward pass follows) have length 0.
    """
    batch, length, channels = u.shape
    states = A.shape[1]
    per_vector, stride = state_size(states), padded_states(states)
    groups = -(-channels // (vectors * LANES))
    constants = exp2_constants(exp2_table)
    most_vectors = min(last - first, min(groups, BAND)) * vectors
    rates, state = aligned(most_vectors * per_vector), aligned(most_vectors * per_vector)
    bias_E, bypass_E = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    least_step, most_step = aligned(most_vectors * LANES), aligned(most_vectors * LANES)
    B_tile, C_tile, tile = aligned(TILE * stride), aligned(TILE * stride), aligned(TILE * _ROW)
    places = np.empty(2 * TILE, np.int64)  # of the tile's steps, and of the next tile's steps
    lines_a_pair = -(-TILE // (per_vector // (2 * LANES)))
    block = first
    while block < last:
        row_block, group = block // groups, block % groups
        block = min(min(last, (row_block + 1) * groups), block + BAND)
        first_channel = group * vectors * LANES
        last_channel = min((block - row_block * groups) * vectors * LANES, channels)
        gather_rates(A, first_channel, rates, per_vector, least_step, most_step)
        gather_row(delta_bias, first_channel, bias_E)
        gather_row(D, first_channel, bypass_E)
        for b in range(row_block * rows, min((row_block + 1) * rows, batch)):
            clear(state, len(state))
            for start in range(0, length, TILE):
                steps = min(TILE, length - start)
                copy_tile(B, b, start, steps, B_tile, stride)
                copy_tile(C, b, start, steps, C_tile, stride)
                find_places(order, b, start, length, places)
                ahead, channel = 0, first_channel  # next line of the next tile to prefetch
                for e in range(first_channel, last_channel, LANES):
                    lane = e - first_channel
                    own, width = lane // LANES * per_vector, channels - e
                    bias, bypass = load(bias_E, (lane,)), load(bypass_E, (lane,))
                    least, most = load(least_step, (lane,)), load(most_step, (lane,))
                    _prepare(
                        u, delta, b, start, steps, e, width, bias, bypass, least, most, softplus_delta, constants, tile
                    )
                    for n in range(0, states, 2):
                        ahead, channel = _ask_ahead(
                            lines_a_pair, u, delta, z, y, b, start, places, ahead, channel, first_channel, last_channel
                        )
                        _run_two_states(tile, steps, B_tile, C_tile, stride, n, rates, state, own, constants)
                    _finish(tile, steps, z, y, b, places, e, width, constants)
                    if len(checkpoints) and start + TILE < length:
                        for at in range(0, per_vector, LANES):
                            store(checkpoints, (b, start // TILE, e // LANES, at), load(state, (own + at,)))
