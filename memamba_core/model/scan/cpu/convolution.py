"""Kernels of the causal depthwise convolution and the SiLU after it: one pass over memory, forward and backward.

`model.convolution` defines the convolution. A block of work is some sequences by `CHUNK` steps, with all channels. It
depends on no other block: the forward pass reads the few steps before it, and the backward pass recomputes what the few
steps after it pass back. Within a block the work proceeds in spans of 16 steps, so that whole rows are read. There are
up to 4 taps; tap j is multiplied by the input of j steps earlier.
"""

# What numba compiles has no annotations but the types of a kernel's parameters: it infers types.
# ruff: noqa: ANN001, ANN201, ANN202

from typing import Final, no_type_check

import numpy as np

from memamba_core.model.scan.cpu.compiler import INTEGER, MATRIX, PLACES, ROW, SEQUENCE, inlined, kernel
from memamba_core.model.scan.cpu.functions import exp2_constants, sigmoid
from memamba_core.model.scan.cpu.scan_tiles import aligned, find_places
from memamba_core.model.scan.cpu.sums import add_to, clear
from memamba_core.model.scan.cpu.vector_memory import load, load_some, prefetch_to_read, store, store_some
from memamba_core.model.scan.cpu.vector_type import LANES
from memamba_core.model.scan.cpu.vectors import fma, splat

__all__ = ["CHUNK", "MOST_TAPS", "conv_backward", "conv_forward"]

CHUNK: Final = 256
"""Steps of a block."""
MOST_TAPS: Final = 4
"""Largest width of a compiled convolution."""
_SPAN: Final = 16
_BACK: Final = MOST_TAPS - 1
"""Steps that the last tap reaches back."""


@inlined
@no_type_check
def _load_taps(weight, e, width):
    """Load the taps of a vector of channels, the newest input's first; 0 for absent taps."""
    taps = len(weight)
    tap_0, tap_1, tap_2, tap_3 = load_some(weight, (taps - 1, e), width), splat(0.0), splat(0.0), splat(0.0)
    if taps > 1:
        tap_1 = load_some(weight, (taps - 2, e), width)
    if taps > 2:
        tap_2 = load_some(weight, (taps - 3, e), width)
    if taps > 3:
        tap_3 = load_some(weight, (taps - 4, e), width)
    return tap_0, tap_1, tap_2, tap_3


@inlined
@no_type_check
def _convolved(taps, number, start, x_0, x_1, x_2, x_3):
    """Compute start + sum of tap times input. Absent taps are left out, because 0 times infinity would be NaN."""
    total = fma(taps[0], x_0, start)
    if number > 1:
        total = fma(taps[1], x_1, total)
    if number > 2:
        total = fma(taps[2], x_2, total)
    if number > 3:
        total = fma(taps[3], x_3, total)
    return total


@kernel
@no_type_check
def conv_forward(
    first: INTEGER, last: INTEGER, rows: INTEGER,
    x: SEQUENCE, weight: MATRIX, bias: ROW, order: PLACES, exp2_table: ROW,
    y: SEQUENCE,
):  # fmt: skip
    """Compute blocks first..last-1 of y = silu(conv(x)); blocks are numbered chunks first.

    Layouts are (B, L, E), (taps, E) with the oldest input's tap first, and (E,). `order` is (B, L) or empty: step t
    reads x at place order[t] of its sequence.
    """
    batch, length, channels = x.shape
    chunks = -(-length // CHUNK)
    constants = exp2_constants(exp2_table)
    places = np.empty(_BACK + 2 * _SPAN, np.int64)  # of the steps from `_BACK` before the span to the next span's last
    for block in range(first, last):
        first_row, begin = block // chunks * rows, block % chunks * CHUNK
        for b in range(first_row, min(first_row + rows, batch)):
            for start in range(begin, min(begin + CHUNK, length), _SPAN):
                find_places(order, b, start - _BACK, length, places)
                for e in range(0, channels, LANES):
                    width = channels - e
                    taps = _load_taps(weight, e, width)
                    bias_e = load_some(bias, (e,), width)
                    x_1, x_2, x_3 = splat(0.0), splat(0.0), splat(0.0)
                    if start:
                        x_1 = load_some(x, (b, places[2], e), width)
                        x_2 = load_some(x, (b, places[1], e), width)
                        x_3 = load_some(x, (b, places[0], e), width)
                    for t in range(min(_SPAN, length - start)):
                        prefetch_to_read(x, (b, places[_BACK + _SPAN + t], e))
                        x_0 = load_some(x, (b, places[_BACK + t], e), width)
                        y_t = _convolved(taps, len(weight), bias_e, x_0, x_1, x_2, x_3)
                        store_some(y, (b, start + t, e), y_t * sigmoid(y_t, constants), width)
                        x_1, x_2, x_3 = x_0, x_1, x_2


@kernel
@no_type_check
def conv_backward(
    first: INTEGER, last: INTEGER, rows: INTEGER,
    x: SEQUENCE, weight: MATRIX, bias: ROW, order: PLACES, exp2_table: ROW,
    grad_y: SEQUENCE, grad_x: SEQUENCE, parts: SEQUENCE,
):  # fmt: skip
    """Compute blocks first..last-1 of the backward pass, which writes `grad_x` and `parts`.

    Arguments are those of `conv_forward`. `grad_x` is written at the places where x was read. `parts` holds each
    block's part of the gradients of the weights and, in the last row, of the bias: (blocks, taps + 1, E).
    """
    batch, length, channels = x.shape
    chunks, padded = -(-length // CHUNK), -(-channels // LANES) * LANES
    constants = exp2_constants(exp2_table)
    places = np.empty(2 * _SPAN + _BACK, np.int64)  # from the span before to `_BACK` steps after the span
    later = aligned(_BACK * padded)  # gradients before the SiLU of the steps after the span
    sums, lost = aligned((MOST_TAPS + 1) * padded), aligned((MOST_TAPS + 1) * padded)
    for block in range(first, last):
        first_row, begin = block // chunks * rows, block % chunks * CHUNK
        end = min(begin + CHUNK, length)
        clear(sums, len(sums))
        clear(lost, len(lost))
        for b in range(first_row, min(first_row + rows, batch)):
            clear(later, len(later))
            for start in range((end - 1) // _SPAN * _SPAN, begin - 1, -_SPAN):
                steps = min(_SPAN, end - start)
                behind = min(_BACK, length - end) if start + steps == end else 0  # steps that another block owns
                find_places(order, b, start - _SPAN, length, places)
                for e in range(0, channels, LANES):
                    width = channels - e
                    taps = _load_taps(weight, e, width)
                    bias_e = load_some(bias, (e,), width)
                    d_1, d_2 = load(later, (e,)), load(later, (padded + e,))
                    d_3 = load(later, (2 * padded + e,))
                    sum_0, sum_1, sum_2, sum_3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
                    sum_bias = splat(0.0)
                    t = steps + behind - 1
                    x_0 = load_some(x, (b, places[_SPAN + t], e), width)
                    x_1, x_2 = splat(0.0), splat(0.0)
                    if start + t > 0:
                        x_1 = load_some(x, (b, places[_SPAN + t - 1], e), width)
                    if start + t > 1:
                        x_2 = load_some(x, (b, places[_SPAN + t - 2], e), width)
                    for t in range(steps + behind - 1, -1, -1):
                        x_3 = splat(0.0)
                        if start + t >= _BACK:
                            x_3 = load_some(x, (b, places[_SPAN + t - _BACK], e), width)
                        y_t = _convolved(taps, len(weight), bias_e, x_0, x_1, x_2, x_3)
                        gate = sigmoid(y_t, constants)
                        d_0 = gate * fma(y_t, splat(1.0) - gate, splat(1.0))
                        d_0 = d_0 * load_some(grad_y, (b, start + t, e), width)
                        if t < steps:
                            prefetch_to_read(x, (b, places[t], e))
                            prefetch_to_read(grad_y, (b, start - _SPAN + t, e))
                            grad_x_t = _convolved(taps, len(weight), splat(0.0), d_0, d_1, d_2, d_3)
                            store_some(grad_x, (b, places[_SPAN + t], e), grad_x_t, width)
                            sum_0, sum_1 = fma(d_0, x_0, sum_0), fma(d_0, x_1, sum_1)
                            sum_2, sum_3 = fma(d_0, x_2, sum_2), fma(d_0, x_3, sum_3)
                            sum_bias = sum_bias + d_0
                        x_0, x_1, x_2 = x_1, x_2, x_3
                        d_1, d_2, d_3 = d_0, d_1, d_2
                    store(later, (e,), d_1)
                    store(later, (padded + e,), d_2)
                    store(later, (2 * padded + e,), d_3)
                    add_to(sums, lost, e, sum_0)
                    add_to(sums, lost, padded + e, sum_1)
                    add_to(sums, lost, 2 * padded + e, sum_2)
                    add_to(sums, lost, 3 * padded + e, sum_3)
                    add_to(sums, lost, 4 * padded + e, sum_bias)
        for e in range(channels):
            for lag in range(len(weight)):
                parts[block, len(weight) - 1 - lag, e] = sums[lag * padded + e]
            parts[block, len(weight), e] = sums[MOST_TAPS * padded + e]
