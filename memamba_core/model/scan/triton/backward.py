"""Kernels of the `triton` scan, backward pass; `forward` describes how the kernels work."""

# What triton compiles is Python in form only: arguments are pointers and numbers, it infers their types, and it
# knows tuples that are added, but none with a star.
# ruff: noqa: ANN001, ANN201, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import no_type_check

import triton.language as tl

from memamba_core.model.scan.triton.forward import LOG2_E, kernel
from memamba_core.model.scan.triton.rows import (
    gated,
    load_along,
    load_raw_steps,
    load_rows,
    own_channels,
    sigmoid,
    spread,
    step_sizes,
    sum_rows,
    times,
    zero_rows,
)

__all__ = ["chunk_adjoints", "gradients"]


@kernel
@no_type_check
def chunk_adjoints(
    delta, delta_b, delta_l: tl.constexpr, A, C, C_b, C_l: tl.constexpr, z, z_b, z_l: tl.constexpr, bias,
    grad_y, grad_y_b, grad_y_l: tl.constexpr, adjoints,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient that each chunk alone passes back to the state before it, as if no chunk followed."""
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
    C_first = C + batch * C_b + first * C_l

    A_E = A + channels_E
    next_rate_E, next_C_L = tl.load(A_E, mask=exists_E, other=0.0), load_along(C_first, C_l, left, STEPS, CHANNELS)
    for n in range(N):
        rate_E, C_L = next_rate_E * LOG2_E, next_C_L
        following = tl.minimum(n + 1, N - 1)
        next_rate_E = tl.load(A_E + following * E, mask=exists_E, other=0.0)
        next_C_L = load_along(C_first + following, C_l, left, STEPS, CHANNELS)
        passed_E = tl.zeros([CHANNELS], tl.float32)
        for k in tl.static_range(STEPS - 1, -1, -1):
            passed_E = tl.exp2(step[k] * rate_E) * (spread(C_L, k, CHANNELS) * grad[k] + passed_E)
        tl.store(adjoints + (place * N + n) * E + channels_E, passed_E, mask=exists_E)


@kernel
@no_type_check
def gradients(
    u, u_b, u_l: tl.constexpr, delta, delta_b, delta_l: tl.constexpr, A, B, B_b, B_l: tl.constexpr,
    C, C_b, C_l: tl.constexpr, D, z, z_b, z_l: tl.constexpr, bias, grad_y, grad_y_b, grad_y_l: tl.constexpr,
    states, adjoints, grad_u, grad_delta, grad_z, parts_B, parts_C, parts_E,
    L, E: tl.constexpr, N: tl.constexpr, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Compute all gradients of a chunk, from the state after the chunk before and the adjoint of the chunk after.

    Gradients that several programs contribute to are written as parts: for A, D and bias one part per chunk, for B and
    C one per block of channels. The part of A overwrites the adjoint that this program read, which no other program
    reads. The last chunk reads no adjoint and overwrites that of the first chunk, which is not needed.
    """
    chunk, batch = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    channels_E, exists_E = own_channels(E, CHANNELS)
    first, left, place = chunk * STEPS, L - chunk * STEPS, batch * tl.num_programs(0) + chunk
    delta_E = delta + batch * delta_b + first * delta_l + channels_E
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    step = step_sizes(raw, exists_E, left, SOFTPLUS, STEPS)
    u_E = u + batch * u_b + first * u_l + channels_E
    grad_y_E = grad_y + batch * grad_y_b + first * grad_y_l + channels_E
    grad = load_rows(grad_y_E, grad_y_l, exists_E, left, STEPS)
    if z is not None:
        z_E = z + batch * z_b + first * z_l + channels_E
        grad = gated(grad, load_rows(z_E, z_l, exists_E, left, STEPS), STEPS)
    drive = times(step, load_rows(u_E, u_l, exists_E, left, STEPS), STEPS)
    bare = zero_rows(STEPS, CHANNELS)  # y before the gate
    grad_step = zero_rows(STEPS, CHANNELS)
    grad_drive = zero_rows(STEPS, CHANNELS)
    B_first, C_first = B + batch * B_b + first * B_l, C + batch * C_b + first * C_l
    lane = tl.arange(0, CHANNELS)
    row = lane // (CHANNELS // STEPS)
    first_of_row = (lane % (CHANNELS // STEPS) == 0) & (row < left)
    part = (tl.program_id(1).to(tl.int64) * tl.num_programs(2) + batch) * N * L + first + row
    part_B, part_C = parts_B + part, parts_C + part
    after = tl.where(chunk < tl.num_programs(0) - 1, place + 1, place - chunk)

    A_E, before_E, began_E = A + channels_E, states + (place - 1) * N * E + channels_E, exists_E & (chunk > 0)
    after_E, goes_on_E = adjoints + after * N * E + channels_E, exists_E & (chunk < tl.num_programs(0) - 1)
    next_rate_E, next_state_E = tl.load(A_E, mask=exists_E, other=0.0), tl.load(before_E, mask=began_E, other=0.0)
    next_passed_E = tl.load(after_E, mask=goes_on_E, other=0.0)
    next_B_L = load_along(B_first, B_l, left, STEPS, CHANNELS)
    next_C_L = load_along(C_first, C_l, left, STEPS, CHANNELS)
    for n in range(N):
        natural_rate_E, state_E, passed_E, B_L, C_L = next_rate_E, next_state_E, next_passed_E, next_B_L, next_C_L
        rate_E = natural_rate_E * LOG2_E
        following = tl.minimum(n + 1, N - 1)
        next_rate_E = tl.load(A_E + following * E, mask=exists_E, other=0.0)
        next_state_E = tl.load(before_E + following * E, mask=began_E, other=0.0)
        next_passed_E = tl.load(after_E + following * E, mask=goes_on_E, other=0.0)
        next_B_L = load_along(B_first + following, B_l, left, STEPS, CHANNELS)
        next_C_L = load_along(C_first + following, C_l, left, STEPS, CHANNELS)
        earlier = ()  # states before each step
        grads_C = ()
        sums = ()
        for k in tl.static_range(STEPS):
            earlier = earlier + (state_E,)
            state_E = tl.exp2(step[k] * rate_E) * state_E + drive[k] * spread(B_L, k, CHANNELS)
            grads_C = grads_C + (grad[k] * state_E,)
            sums = sums + (bare[k] + spread(C_L, k, CHANNELS) * state_E,)
        bare = sums
        tl.store(part_C, sum_rows(grads_C, STEPS, CHANNELS), mask=first_of_row)

        part_A_E = tl.zeros([CHANNELS], tl.float32)
        grads_B = ()
        step_sums = ()
        drive_sums = ()
        for k in tl.static_range(STEPS - 1, -1, -1):
            adjoint_E = spread(C_L, k, CHANNELS) * grad[k] + passed_E
            passed_E = tl.exp2(step[k] * rate_E) * adjoint_E
            grad_exponent_E = tl.where(k < left, passed_E * earlier[k], 0.0)  # after the end it may be 0 times NaN
            part_A_E += grad_exponent_E * step[k]
            step_sums = (grad_step[k] + grad_exponent_E * natural_rate_E,) + step_sums
            drive_sums = (grad_drive[k] + adjoint_E * spread(B_L, k, CHANNELS),) + drive_sums
            grads_B = (adjoint_E * drive[k],) + grads_B
        grad_step = step_sums
        grad_drive = drive_sums
        tl.store(after_E + n * E, part_A_E, mask=exists_E)
        tl.store(part_B, sum_rows(grads_B, STEPS, CHANNELS), mask=first_of_row)
        part_B += L
        part_C += L

    # Values that the loop did not need are read again: this kernel is short of registers.
    u_rows = load_rows(u_E, u_l, exists_E, left, STEPS)
    raw = load_raw_steps(delta_E, delta_l, bias, channels_E, exists_E, left, STEPS)
    if D is not None:
        D_E = tl.load(D + channels_E, mask=exists_E, other=0.0)
        part_D_E = tl.zeros([CHANNELS], tl.float32)
        for k in tl.static_range(STEPS):
            part_D_E += grad[k] * u_rows[k]
        tl.store(parts_E + place * 2 * E + channels_E, part_D_E, mask=exists_E)
    part_bias_E = tl.zeros([CHANNELS], tl.float32)
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
        part_bias_E += grad_step_E
        tl.store(grad_u + at_E, grad_u_E, mask=inside_E)
        tl.store(grad_delta + at_E, grad_step_E, mask=inside_E)
        if z is not None:
            gate_E = tl.load(z_E + k * z_l, mask=inside_E, other=0.0)
            sigmoid_E = sigmoid(gate_E)
            slope_E = sigmoid_E * (1.0 + gate_E * (1.0 - sigmoid_E))
            grad_E = tl.load(grad_y_E + k * grad_y_l, mask=inside_E, other=0.0)
            tl.store(grad_z + at_E, grad_E * bare_E * slope_E, mask=inside_E)
    if bias is not None:
        tl.store(parts_E + (place * 2 + 1) * E + channels_E, part_bias_E, mask=exists_E)
