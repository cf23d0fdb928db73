"""Kernels of the `triton` scan, forward pass, over tiles of STEPS steps times CHANNELS channels.

`scan` describes what is computed and in which order; this page describes how, also for `backward`. Importing this
module imports triton. At that moment `TRITON_INTERPRET=1` in the environment decides whether kernels are interpreted on
a CPU instead of compiled.

A program computes one chunk of STEPS steps for CHANNELS channels of one patient. Rows, one per step, lie in registers,
as tuples of vectors over the channels. With one warp and 32 channels, a lane is a channel. The recurrence is then a
plain loop inside each lane, over the steps of one state at a time, and works equally well for any number of states.
Lanes exchange the values that all channels of a step share (B and C, with one load for all steps of a state) and the
sums of their gradients. The inputs of the next state are loaded before the current state is computed. Nothing is
divided by a decay, so a decay that underflows to 0 only makes the state forget its past. Steps after the end and
channels that do not exist get step size 0: they do not change a state and add nothing.

Pointers are to float32; an absent tensor is None. u, delta, z and grad_y are (B, L, E), B and C are (B, L, N), each
with strides for patient and step, because it may be a view. All other tensors are contiguous: A and its gradients (N,
E), buffers of states and adjoints (B, chunks, N, E). Offsets have 64 bits, because a bag may have more than 2^31
numbers.
"""

# What triton compiles is Python in form only: arguments are pointers and numbers, it infers their types, and it
# knows tuples that are added, but none with a star.
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import no_type_check

import triton
import triton.language as tl

from memamba_core.model.scan.triton.rows import (
    here,
    load_along,
    load_raw_steps,
    load_rows,
    own_channels,
    sigmoid,
    spread,
    step_sizes,
    times,
    zero_rows,
)

__all__ = ["LOG2_E", "carry_over", "chunk_states", "kernel", "outputs"]

LOG2_E = tl.constexpr(1.4426950408889634)

kernel = triton.jit(do_not_specialize=["L", "chunks", "u_b", "delta_b", "B_b", "C_b", "z_b", "grad_y_b"])
"""Decorator of kernels. Lengths and strides of bags are not specialised, because each value would cost a compilation;
widths are fixed when a model is built."""


@kernel
@no_type_check
def chunk_states(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr, bias,
    states, totals,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the state in which each chunk ends if it begins with state 0, and the sum of its step sizes."""
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    drive = times(step, load_rows(u + batch * u_b + first * u_l + channels_E, u_l, exists_E, left, STEPS), STEPS)
    B_first = B + batch * B_b + first * B_l
    total_E = tl.zeros([CHANNELS], tl.float32)
    for k in tl.static_range(STEPS):
        total_E += step[k]
    tl.store(totals + place * E + channels_E, total_E, mask=exists_E)

    A_E = A + channels_E
    next_rate_E, next_B_L = tl.load(A_E, mask=exists_E, other=0.0), load_along(B_first, B_l, left, STEPS, CHANNELS)
    for n in range(N):
        rate_E, B_L = next_rate_E * LOG2_E, next_B_L
        following = tl.minimum(n + 1, N - 1)
        next_rate_E = tl.load(A_E + following * E, mask=exists_E, other=0.0)
        next_B_L = load_along(B_first + following, B_l, left, STEPS, CHANNELS)
        state_E = tl.zeros([CHANNELS], tl.float32)
        for k in tl.static_range(STEPS):
            state_E = tl.exp2(step[k] * rate_E) * state_E + drive[k] * spread(B_L, k, CHANNELS)
        tl.store(states + (place * N + n) * E + channels_E, state_E, mask=exists_E)


@kernel
@no_type_check
def carry_over(
    A, totals, ends, chunks, E: tl.constexpr, N: tl.constexpr,
    REVERSE: tl.constexpr, GROUP: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Carry states from chunk to chunk: `ends`, of each chunk alone, becomes the state after all chunks up to it.

    With REVERSE, chunks are taken from the last to the first. A program computes one state. Programs are few and wait
    for memory, so each reads GROUP chunks at a time, and the next group before it computes the current one.
    """
    n, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0) * LOG2_E
    first, total_stride, end_stride = batch * chunks, E, N * E
    if REVERSE:
        first, total_stride, end_stride = first + chunks - 1, -E, -N * E
    total_E = totals + first * E + channels_E
    end_E = ends + (first * N + n) * E + channels_E
    carried_E = tl.zeros([CHANNELS], tl.float32)
    there_E = exists_E & (chunks >= GROUP)
    total, end = (
        load_rows(total_E, total_stride, there_E, None, GROUP),
        load_rows(end_E, end_stride, there_E, None, GROUP),
    )
    for group in range(0, chunks - GROUP + 1, GROUP):
        there_E = exists_E & (group + 2 * GROUP <= chunks)
        total_E += GROUP * total_stride
        next_total = load_rows(total_E, total_stride, there_E, None, GROUP)
        next_end = load_rows(end_E + GROUP * end_stride, end_stride, there_E, None, GROUP)
        carried_E = _carry(carried_E, rate_E, total, end, end_E, end_stride, exists_E, None, GROUP)
        end_E += GROUP * end_stride
        total, end = next_total, next_end
    left = chunks % GROUP
    total, end = (
        load_rows(total_E, total_stride, exists_E, left, GROUP),
        load_rows(end_E, end_stride, exists_E, left, GROUP),
    )
    _carry(carried_E, rate_E, total, end, end_E, end_stride, exists_E, left, GROUP)


@triton.jit
@no_type_check
def _carry(carried_E, rate_E, total, end, end_E, stride, exists_E, left, GROUP: tl.constexpr):
    """Carry over one group of chunks, in place. Return the last chunk's state."""
    for k in tl.static_range(GROUP):
        carried_E = tl.exp2(total[k] * rate_E) * carried_E + end[k]
        tl.store(end_E + k * stride, carried_E, mask=here(exists_E, k, left))
    return carried_E


@kernel
@no_type_check
def outputs(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr,
    C, C_b, C_l: tl.constexpr, D, z, z_b, z_l: tl.constexpr, bias, states, y,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the outputs of a chunk, from the state after the chunk before."""
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    u_E = u + batch * u_b + first * u_l + channels_E
    drive = times(step, load_rows(u_E, u_l, exists_E, left, STEPS), STEPS)
    B_first, C_first = B + batch * B_b + first * B_l, C + batch * C_b + first * C_l
    y_rows = zero_rows(STEPS, CHANNELS)

    A_E, before_E, began_E = A + channels_E, states + (place - 1) * N * E + channels_E, exists_E & (chunk > 0)
    next_rate_E, next_state_E = tl.load(A_E, mask=exists_E, other=0.0), tl.load(before_E, mask=began_E, other=0.0)
    next_B_L = load_along(B_first, B_l, left, STEPS, CHANNELS)
    next_C_L = load_along(C_first, C_l, left, STEPS, CHANNELS)
    for n in range(N):
        rate_E, state_E, B_L, C_L = next_rate_E * LOG2_E, next_state_E, next_B_L, next_C_L
        following = tl.minimum(n + 1, N - 1)
        next_rate_E = tl.load(A_E + following * E, mask=exists_E, other=0.0)
        next_state_E = tl.load(before_E + following * E, mask=began_E, other=0.0)
        next_B_L = load_along(B_first + following, B_l, left, STEPS, CHANNELS)
        next_C_L = load_along(C_first + following, C_l, left, STEPS, CHANNELS)
        sums = ()
        for k in tl.static_range(STEPS):
            state_E = tl.exp2(step[k] * rate_E) * state_E + drive[k] * spread(B_L, k, CHANNELS)
            sums = sums + (y_rows[k] + spread(C_L, k, CHANNELS) * state_E,)
        y_rows = sums

    if D is not None:
        D_E = tl.load(D + channels_E, mask=exists_E, other=0.0)
    if z is not None:
        z_rows = load_rows(z + batch * z_b + first * z_l + channels_E, z_l, exists_E, left, STEPS)
    for k in tl.static_range(STEPS):
        y_E = y_rows[k]
        if D is not None:
            y_E += D_E * tl.load(u_E + k * u_l, mask=exists_E & (k < left), other=0.0)
        if z is not None:
            y_E *= z_rows[k] * sigmoid(z_rows[k])
        tl.store(y + (batch * L + first) * E + channels_E + k * E, y_E, mask=exists_E & (k < left))
