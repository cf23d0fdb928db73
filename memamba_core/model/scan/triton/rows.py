"""Building blocks of the `triton` kernels: rows of channels, one per step, as tuples of vectors."""

# What triton compiles is Python in form only: arguments are pointers and numbers, it infers their types, and it
# knows tuples that are added, but none with a star.
# ruff: noqa: ANN001, ANN201, ANN202, RUF005
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from typing import no_type_check

import triton
import triton.language as tl

__all__ = [
    "gated",
    "here",
    "load_along",
    "load_raw_steps",
    "load_rows",
    "own_channels",
    "sigmoid",
    "softplus",
    "spread",
    "step_sizes",
    "sum_rows",
    "times",
    "zero_rows",
]


@triton.jit
@no_type_check
def _log1p(x):
    """Compute log(1 + x) for 0 <= x <= 1, as 2 artanh(x / (2 + x)): in 1 + x a small x would lose its digits."""
    s = x / (2.0 + x)
    square = s * s
    series = 1.0 / 15.0
    for k in tl.static_range(7):
        series = series * square + 1.0 / (13.0 - 2.0 * k)
    return 2.0 * s * series


@triton.jit
@no_type_check
def sigmoid(x):
    """Compute 1 / (1 + e^-x) without overflow."""
    small = tl.exp(-tl.abs(x))
    return tl.where(x < 0.0, small, 1.0) / (1.0 + small)


@triton.jit
@no_type_check
def softplus(x):
    """Compute log(1 + e^x) without overflow."""
    return tl.maximum(x, 0.0) + _log1p(tl.exp(-tl.abs(x)))


@triton.jit
@no_type_check
def own_channels(E, CHANNELS: tl.constexpr):
    """Return the channels of this program, and a mask of those that exist."""
    channels_E = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return channels_E, channels_E < E


@triton.jit
@no_type_check
def here(exists_E, k, left):
    """Return the mask of channels that exist in row k: none after the last row; if `left` is None, all rows exist."""
    if left is not None:
        exists_E = exists_E & (k < left)
    return exists_E


@triton.jit
@no_type_check
def load_rows(first_E, stride, exists_E, left, STEPS: tl.constexpr):
    """Load STEPS rows of a sequence, from the addresses of the first on; zeros for absent rows and channels."""
    rows = ()
    for k in tl.static_range(STEPS):
        rows = rows + (tl.load(first_E + k * stride, mask=here(exists_E, k, left), other=0.0),)
    return rows


@triton.jit
@no_type_check
def load_along(first, stride, left, STEPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Load the values of STEPS steps that all channels share, one step per lane; zeros for absent steps."""
    lane = tl.arange(0, CHANNELS)
    return tl.load(first + lane * stride, mask=(lane < STEPS) & (lane < left), other=0.0)


@triton.jit
@no_type_check
def spread(along, k, CHANNELS: tl.constexpr):
    """Spread the value of step k to every channel. Lanes exchange it; a load would check again whether k exists."""
    return tl.gather(along, tl.full([CHANNELS], k, tl.int32), axis=0)


@triton.jit
@no_type_check
def load_raw_steps(first_E, stride, bias, channels_E, exists_E, left, STEPS: tl.constexpr):
    """Load step sizes before softplus, with the bias added."""
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
    """Compute step sizes; 0 for absent steps and channels."""
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
    """Return STEPS rows of zeros."""
    rows = ()
    for _ in tl.static_range(STEPS):
        rows = rows + (tl.zeros([CHANNELS], tl.float32),)
    return rows


@triton.jit
@no_type_check
def gated(grads, gates, STEPS: tl.constexpr):
    """Compute the gradient before the gate: grad_y silu(z)."""
    rows = ()
    for k in tl.static_range(STEPS):
        rows = rows + (grads[k] * gates[k] * sigmoid(gates[k]),)
    return rows


@triton.jit
@no_type_check
def times(rows, others, STEPS: tl.constexpr):
    """Multiply row by row."""
    products = ()
    for k in tl.static_range(STEPS):
        products = products + (rows[k] * others[k],)
    return products


@triton.jit
@no_type_check
def sum_rows(rows, STEPS: tl.constexpr, CHANNELS: tl.constexpr):
    """Sum each row over its channels: lane i of the result holds the sum of row i // (CHANNELS // STEPS).

    At each level, half of the lanes keep the first half of the rows and give away the second, and the other half of the
    lanes do the reverse. So each exchange halves the remaining work; summing row after row would exchange all rows
    log2 CHANNELS times.
    """
    lane = tl.arange(0, CHANNELS)
    for level in tl.static_range(10):
        if (CHANNELS >> level) > 1:
            partner = lane ^ (CHANNELS >> (level + 1))
            if (STEPS >> level) > 1:
                second = partner < lane
                halved = ()
                for k in tl.static_range(STEPS >> (level + 1)):
                    one, other = rows[k], rows[k + (STEPS >> (level + 1))]
                    given = tl.where(second, one, other)
                    halved = halved + (tl.where(second, other, one) + tl.gather(given, partner, axis=0),)
                rows = halved
            else:
                rows = (rows[0] + tl.gather(rows[0], partner, axis=0),)
    return rows[0]
