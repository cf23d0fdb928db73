"""Parts that both passes of the scan share: the tile, and functions that gather its inputs.

Work memory is flat. That of a tile holds one row of vectors per step, so that values which are read together lie
together. `STEP`, `DRIVE` and `Y` are places in the row. Places of states are multiples of LANES as well.
"""

# What numba compiles has no annotations: it infers types.
# ruff: noqa: ANN001, ANN201

from typing import Final, no_type_check

import numpy as np

from memamba_core.model.scan.cpu.compiler import helper, inlined
from memamba_core.model.scan.cpu.functions import LARGEST_EXPONENT, LARGEST_FACTOR, LOG2_E
from memamba_core.model.scan.cpu.vector_memory import load_some, store
from memamba_core.model.scan.cpu.vector_type import LANES

__all__ = [
    "BAND",
    "DRIVE",
    "STEP",
    "TILE",
    "Y",
    "aligned",
    "copy_tile",
    "find_places",
    "gather_rates",
    "gather_row",
    "next_line",
    "padded_states",
    "state_size",
]

TILE: Final = 32
"""Steps of a tile, from one checkpoint to the next."""
BAND: Final = 8
"""Blocks that a thread takes through the tiles together, so that memory is read in long pieces."""
STEP: Final = 0 * LANES
"""Step size: delta with bias and softplus, bounded so that no decay overflows."""
DRIVE: Final = 1 * LANES
"""Input of the states: delta u."""
Y: Final = 2 * LANES
"""Output before the gate."""


@helper
@no_type_check
def state_size(states):
    """Return the size of the states of a vector of channels: one vector per state, an even number of vectors."""
    return (states + 1) // 2 * 2 * LANES


@helper
@no_type_check
def padded_states(states):
    """Return the size of B or C in one step of a tile: whole vectors."""
    return (states + LANES - 1) // LANES * LANES


@helper
@no_type_check
def aligned(size):
    """Return work memory of `size` floats, all 0, aligned to a cache line."""
    memory = np.zeros(size + LANES, np.float32)
    start = (-memory.ctypes.data % 64) // 4
    return memory[start : start + size]


@helper
@no_type_check
def gather_rates(A, first, rates, per_vector, least_step, most_step):
    """Gather A log2(e) from channel `first` on: vector by vector, and within a vector state by state.

    Also compute the bounds of the step size within which no decay overflows; a step size beyond a bound gives the same
    infinite decay as the bound. Rates beyond the largest factor of an exponential are clipped to that factor.
    """
    channels, states = A.shape
    largest = np.float32(LARGEST_FACTOR)
    for lane in range(len(least_step)):
        least, most = -largest, largest
        for n in range(states):
            rate = A[first + lane, n] * np.float32(LOG2_E) if first + lane < channels else np.float32(0.0)
            if rate < 0.0:
                rate = max(rate, -largest)
                least = max(least, np.float32(LARGEST_EXPONENT) / rate)
            elif rate > 0.0:
                rate = min(rate, largest)
                most = min(most, np.float32(LARGEST_EXPONENT) / rate)
            rates[lane // LANES * per_vector + n * LANES + lane % LANES] = rate
        least_step[lane], most_step[lane] = least, most


@helper
@no_type_check
def gather_row(row, first, out):
    """Copy row[first:] to `out`, with 0 after the end."""
    for lane in range(len(out)):
        out[lane] = row[first + lane] if first + lane < len(row) else np.float32(0.0)


@inlined
@no_type_check
def copy_tile(sequence, b, start, steps, out, stride):
    """Copy a tile of a (B, L, N) sequence to `out`, with a row of `stride` numbers per step."""
    for t in range(steps):
        for n in range(0, stride, LANES):
            store(out, (t * stride + n,), load_some(sequence, (b, start + t, n), sequence.shape[2] - n))


@helper
@no_type_check
def find_places(order, b, start, length, places):
    """Find the places of the steps from `start` on, in a sequence scanned in the order of row b; no order: the steps.

    Prefetching also asks for steps outside of the sequence; they get the place of its nearest end.
    """
    for i in range(len(places)):
        step = min(max(start + i, 0), length - 1)
        places[i] = order[b, step] if len(order) else step


@inlined
@no_type_check
def next_line(step, channel, first_channel, last_channel):
    """Return step and channel of the next cache line, in a tile that is walked step by step."""
    channel += LANES
    if channel >= last_channel:
        return step + 1, first_channel
    return step, channel
