"""What the kernels of the `triton` scan are made of: rows of channels, one per step, as tuples of vectors."""

# What triton compiles is Python in form only: arguments are pointers and numbers, it infers their types, and it
# knows tuples that are added, but none with a star.
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import no_type_check

import triton
import triton.language as tl

__all__ = ["gated", "load_raw_steps", "load_rows", "own_channels", "sigmoid", "softplus", "step_sizes", "zero_rows"]


@triton.jit
@no_type_check
def _log1p(x):
    """log(1 + x) for 0 <= x <= 1, as 2 artanh(x / (2 + x)): in 1 + x a small x would lose its digits."""
    s = x / (2.0 + x)
    square = s * s
    series = 1.0 / 15.0
    for k in tl.static_range(7):
        series = series * square + 1.0 / (13.0 - 2.0 * k)
    return 2.0 * s * series


@triton.jit
@no_type_check
def sigmoid(x):
    """1 / (1 + e^-x), without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
@no_type_check
def softplus(x):
    """log(1 + e^x), without overflow."""
    return tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))


@triton.jit
@no_type_check
def own_channels(E, CHANNELS: tl.constexpr):
    """The channels of this program, and which of them exist."""
    channels_E = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return channels_E, channels_E < E


@triton.jit
@no_type_check
def load_rows(first_E, stride, exists_E, left, STEPS: tl.constexpr):
    """STEPS rows of a sequence, from the addresses of the first on; zeros where fewer are left."""
    rows = ()
    for k in tl.static_range(STEPS):
        rows = rows + (tl.load(first_E + k * stride, mask=exists_E & (k < left), other=0.0),)
    return rows


@triton.jit
@no_type_check
def load_raw_steps(first_E, stride, bias, channels_E, exists_E, left, STEPS: tl.constexpr):
    """Step sizes before softplus."""
    rows = load_rows(first_E, stride, exists_E, left, STEPS)
    if bias is not None:
        bias_E = tl.load(bias + channels_E, mask=exists_E, other=0.0)
        biased = ()
        for k in tl.static_range(STEPS):
            biased = biased + (rows[k] + bias_E,)
        rows = biased
    return rows


@triton.jit
@no_type_check
def step_sizes(raw, exists_E, left, SOFTPLUS: tl.constexpr, STEPS: tl.constexpr):
    """Step sizes; 0 where there is nothing."""
    steps = ()
    for k in tl.static_range(STEPS):
        step_E = raw[k]
        if SOFTPLUS:
            step_E = softplus(step_E)
        steps = steps + (tl.where(exists_E & (k < left), step_E, 0.0),)
    return steps


@triton.jit
@no_type_check
def zero_rows(STEPS: tl.constexpr, CHANNELS: tl.constexpr):
    """STEPS rows of zeros."""
    rows = ()
    for _ in tl.static_range(STEPS):
        rows = rows + (tl.zeros([CHANNELS], tl.float32),)
    return rows


@triton.jit
@no_type_check
def gated(grads, gates, STEPS: tl.constexpr):
    """Gradient before the gate: grad_y silu(z)."""
    rows = ()
    for k in tl.static_range(STEPS):
        rows = rows + (grads[k] * gates[k] * sigmoid(gates[k]),)
    return rows
