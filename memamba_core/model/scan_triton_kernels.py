"""The machine code of the `triton` scan: five kernels, each over tiles of STEPS steps times CHANNELS channels.

`scan_triton` says what is computed and in which order; this file says how. Importing it imports triton, and
fixes whether kernels are compiled or, with `TRITON_INTERPRET=1` in the environment, interpreted on a CPU.

A program takes one chunk of STEPS steps for CHANNELS channels of one patient. Rows, one per step, lie in
registers, as tuples of vectors over the channels. With one warp and 32 channels a lane is a channel, and the
recurrence is a plain loop inside each lane, over the steps of one state at a time; any number of states is as good
as another. Lanes talk to each other only to sum the gradients of B and C. Nothing is divided by a decay: one that
underflows to 0 is a state that is forgotten. Steps past the end and channels that do not exist get step size 0:
they leave a state as it is and add nothing.

Pointers are to float32; a tensor that is absent is None. u, delta, z, grad_y are (B, L, E), B and C are (B, L, N),
each with strides for patient and step, because it may be a view; all else is contiguous: A and its like (N, E),
buffers of states and adjoints (B, chunks, N, E). Places are counted in 64 bits: a bag may pass 2^31 numbers.
"""

# What triton compiles is Python in form only: arguments are pointers and numbers, it infers their types, and it
# knows tuples that are added, but none with a star.
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import no_type_check

import triton
import triton.language as tl

from memamba_core.model.scan_triton_rows import (
    gated,
    load_raw_steps,
    load_rows,
    own_channels,
    sigmoid,
    step_sizes,
    zero_rows,
)

__all__ = ["carry_over", "chunk_adjoints", "chunk_states", "gradients", "outputs"]

_LOG2_E = tl.constexpr(1.4426950408889634)

_kernel = triton.jit(do_not_specialize=["L", "chunks", "u_b", "delta_b", "B_b", "C_b", "z_b", "grad_y_b"])
"""Bags differ in length, and none is worth a compilation of its own; widths are fixed when a model is built."""


@_kernel
@no_type_check
def chunk_states(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr, bias,
    states, totals,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The state in which each chunk would end if it began with none, and the sum of its step sizes."""
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    u_rows = load_rows(u + batch * u_b + first * u_l + channels_E, u_l, exists_E, left, STEPS)
    total_E = tl.zeros([CHANNELS], tl.float32)
    for k in tl.static_range(STEPS):
        total_E += step[k]
    tl.store(totals + place * E + channels_E, total_E, mask=exists_E)

    for n in range(N):
        rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0) * _LOG2_E
        state_E = tl.zeros([CHANNELS], tl.float32)
        B_n = B + batch * B_b + first * B_l + n
        for k in tl.static_range(STEPS):
            B_tn = tl.load(B_n + k * B_l, mask=k < left, other=0.0)
            state_E = tl.exp2(step[k] * rate_E) * state_E + step[k] * u_rows[k] * B_tn
        tl.store(states + (place * N + n) * E + channels_E, state_E, mask=exists_E)


@_kernel
@no_type_check
def chunk_adjoints(
    delta, delta_b, delta_l: tl.constexpr, A, C, C_b, C_l: tl.constexpr, z, z_b, z_l: tl.constexpr, bias,
    grad_y, grad_y_b, grad_y_l: tl.constexpr, adjoints,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What each chunk would pass back to the state before it if nothing came after it."""
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    grad_y_E = grad_y + batch * grad_y_b + first * grad_y_l + channels_E
    grad = load_rows(grad_y_E, grad_y_l, exists_E, left, STEPS)
    if z is not None:
        z_E = z + batch * z_b + first * z_l + channels_E
        grad = gated(grad, load_rows(z_E, z_l, exists_E, left, STEPS), STEPS)

    for n in range(N):
        rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0) * _LOG2_E
        passed_E = tl.zeros([CHANNELS], tl.float32)
        C_n = C + batch * C_b + first * C_l + n
        for k in tl.static_range(STEPS - 1, -1, -1):
            C_tn = tl.load(C_n + k * C_l, mask=k < left, other=0.0)
            passed_E = tl.exp2(step[k] * rate_E) * (C_tn * grad[k] + passed_E)
        tl.store(adjoints + (place * N + n) * E + channels_E, passed_E, mask=exists_E)


@_kernel
@no_type_check
def carry_over(
    A, totals, ends, chunks, E: tl.constexpr, N: tl.constexpr,
    REVERSE: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """From chunk to chunk: `ends`, of each chunk by itself, becomes what is true of it after all before it.

    With REVERSE after all behind it. A program takes one state, and reads STEPS chunks at a time.
    """
    n, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0) * _LOG2_E
    first, total_stride, end_stride = batch * chunks, E, N * E
    if REVERSE:
        first, total_stride, end_stride = first + chunks - 1, -E, -N * E
    total_E = totals + first * E + channels_E
    end_E = ends + (first * N + n) * E + channels_E
    carried_E = tl.zeros([CHANNELS], tl.float32)
    for group in range(0, chunks, STEPS):
        total = load_rows(total_E, total_stride, exists_E, chunks - group, STEPS)
        end = load_rows(end_E, end_stride, exists_E, chunks - group, STEPS)
        for k in tl.static_range(STEPS):
            carried_E = tl.exp2(total[k] * rate_E) * carried_E + end[k]
            tl.store(end_E + k * end_stride, carried_E, mask=exists_E & (group + k < chunks))
        total_E += STEPS * total_stride
        end_E += STEPS * end_stride


@_kernel
@no_type_check
def outputs(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr,
    C, C_b, C_l: tl.constexpr, D, z, z_b, z_l: tl.constexpr, bias, states, y,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """The outputs of a chunk, from the state after the one before."""
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    u_rows = load_rows(u + batch * u_b + first * u_l + channels_E, u_l, exists_E, left, STEPS)
    y_rows = zero_rows(STEPS, CHANNELS)

    for n in range(N):
        rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0) * _LOG2_E
        before_E = states + ((place - 1) * N + n) * E + channels_E
        state_E = tl.load(before_E, mask=exists_E & (chunk > 0), other=0.0)
        B_n, C_n = B + batch * B_b + first * B_l + n, C + batch * C_b + first * C_l + n
        sums = ()
        for k in tl.static_range(STEPS):
            B_tn = tl.load(B_n + k * B_l, mask=k < left, other=0.0)
            C_tn = tl.load(C_n + k * C_l, mask=k < left, other=0.0)
            state_E = tl.exp2(step[k] * rate_E) * state_E + step[k] * u_rows[k] * B_tn
            sums = sums + (y_rows[k] + C_tn * state_E,)
        y_rows = sums

    if D is not None:
        D_E = tl.load(D + channels_E, mask=exists_E, other=0.0)
    if z is not None:
        z_rows = load_rows(z + batch * z_b + first * z_l + channels_E, z_l, exists_E, left, STEPS)
    for k in tl.static_range(STEPS):
        y_E = y_rows[k]
        if D is not None:
            y_E += D_E * u_rows[k]
        if z is not None:
            y_E *= z_rows[k] * sigmoid(z_rows[k])
        tl.store(y + (batch * L + first) * E + channels_E + k * E, y_E, mask=exists_E & (k < left))


@_kernel
@no_type_check
def gradients(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr,
    C, C_b, C_l: tl.constexpr, D, z, z_b, z_l: tl.constexpr, bias, grad_y, grad_y_b, grad_y_l: tl.constexpr,
    states, adjoints, grad_u, grad_delta, grad_z, parts_A, parts_B, parts_C, parts_D,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """All gradients of a chunk, from the state after the one before and what the one after passes back.

    Where programs must be added up they write parts: for A and D one per chunk, for B and C one per block of channels.
    """
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    u_rows = load_rows(u + batch * u_b + first * u_l + channels_E, u_l, exists_E, left, STEPS)
    grad_y_E = grad_y + batch * grad_y_b + first * grad_y_l + channels_E
    grad = load_rows(grad_y_E, grad_y_l, exists_E, left, STEPS)
    if z is not None:
        z_E = z + batch * z_b + first * z_l + channels_E
        grad = gated(grad, load_rows(z_E, z_l, exists_E, left, STEPS), STEPS)
    bare = zero_rows(STEPS, CHANNELS)  # y before the gate
    grad_step = zero_rows(STEPS, CHANNELS)
    grad_drive = zero_rows(STEPS, CHANNELS)
    part = (tl.program_id(1).to(tl.int64) * tl.num_programs(2) + batch) * L + first

    for n in range(N):
        natural_rate_E = tl.load(A + n * E + channels_E, mask=exists_E, other=0.0)
        rate_E = natural_rate_E * _LOG2_E
        parts_B_n, parts_C_n = parts_B + part * N + n, parts_C + part * N + n
        before_E = states + ((place - 1) * N + n) * E + channels_E
        state_E = tl.load(before_E, mask=exists_E & (chunk > 0), other=0.0)
        decays = ()
        kept = ()  # decay times state before
        B_n, C_n = B + batch * B_b + first * B_l + n, C + batch * C_b + first * C_l + n
        sums = ()
        for k in tl.static_range(STEPS):
            B_tn = tl.load(B_n + k * B_l, mask=k < left, other=0.0)
            C_tn = tl.load(C_n + k * C_l, mask=k < left, other=0.0)
            decays = decays + (tl.exp2(step[k] * rate_E),)
            kept = kept + (decays[k] * state_E,)
            state_E = kept[k] + step[k] * u_rows[k] * B_tn
            sums = sums + (bare[k] + C_tn * state_E,)
            tl.store(parts_C_n + k * N, tl.sum(grad[k] * state_E, axis=0), mask=k < left)
        bare = sums

        after_E = adjoints + ((place + 1) * N + n) * E + channels_E
        passed_E = tl.load(after_E, mask=exists_E & (chunk < tl.num_programs(0) - 1), other=0.0)
        part_A_E = tl.zeros([CHANNELS], tl.float32)
        step_sums = ()
        drive_sums = ()
        for k in tl.static_range(STEPS - 1, -1, -1):
            B_tn = tl.load(B_n + k * B_l, mask=k < left, other=0.0)
            C_tn = tl.load(C_n + k * C_l, mask=k < left, other=0.0)
            adjoint_E = C_tn * grad[k] + passed_E
            passed_E = decays[k] * adjoint_E
            grad_exponent_E = adjoint_E * kept[k]
            part_A_E += grad_exponent_E * step[k]
            step_sums = (grad_step[k] + grad_exponent_E * natural_rate_E,) + step_sums
            drive_sums = (grad_drive[k] + adjoint_E * B_tn,) + drive_sums
            tl.store(parts_B_n + k * N, tl.sum(adjoint_E * step[k] * u_rows[k], axis=0), mask=k < left)
        grad_step = step_sums
        grad_drive = drive_sums
        tl.store(parts_A + (place * N + n) * E + channels_E, part_A_E, mask=exists_E)

    if D is not None:
        D_E = tl.load(D + channels_E, mask=exists_E, other=0.0)
        part_D_E = tl.zeros([CHANNELS], tl.float32)
        for k in tl.static_range(STEPS):
            part_D_E += grad[k] * u_rows[k]
        tl.store(parts_D + place * E + channels_E, part_D_E, mask=exists_E)
    # Read again what the loop had no use for: registers are what this kernel is short of.
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    for k in tl.static_range(STEPS):
        inside_E = exists_E & (k < left)
        at_E = (batch * L + first) * E + channels_E + k * E
        grad_u_E = grad_drive[k] * step[k]
        bare_E = bare[k]
        if D is not None:
            grad_u_E += D_E * grad[k]
            bare_E += D_E * u_rows[k]
        grad_step_E = grad_step[k] + grad_drive[k] * u_rows[k]
        if SOFTPLUS:
            grad_step_E *= sigmoid(raw[k])
        tl.store(grad_u + at_E, grad_u_E, mask=inside_E)
        tl.store(grad_delta + at_E, grad_step_E, mask=inside_E)
        if z is not None:
            gate_E = tl.load(z_E + k * z_l, mask=inside_E, other=0.0)
            sigmoid_E = sigmoid(gate_E)
            slope_E = sigmoid_E * (1.0 + gate_E * (1.0 - sigmoid_E))
            grad_E = tl.load(grad_y_E + k * grad_y_l, mask=inside_E, other=0.0)
            tl.store(grad_z + at_E, grad_E * bare_E * slope_E, mask=inside_E)
