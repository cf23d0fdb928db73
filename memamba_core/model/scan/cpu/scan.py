"""Selective scan on a CPU, compiled by numba: float32, forward and backward.

Most of the time goes into exponentials, one for each step, channel and state, as long as memory keeps up.

The algorithm (`scan_forward` and `scan_backward` are its code; `model.scan` defines the computation):

* Inside, time is the second axis and channels the last, as in the Mamba block: the transposed views that the block
  passes cost nothing. A vector is 16 channels; each number of the formula is one vector here.
* Work is cut into blocks of some sequences x up to 64 channels. A thread takes neighbouring blocks through their
  sequences together, in tiles of 32 steps, and through the vectors of a tile. First, bias, softplus and delta u are
  computed for all steps of the tile. Then, for two states at a time, the recurrence runs over the steps with the states
  in registers, and adds to y. Then the gate is applied. No array of size L x E x N is made, not even for a tile.
* exp(delta A) is computed as 2 to the power of delta (A log2 e), by rounding and a polynomial; with AVX-512 by a short
  table, a shorter polynomial and the processor's own instruction for the exponent.
* A tile's columns are 64 bytes wide and one row apart, a pattern that no processor prefetches: waiting for them took a
  third of the time. So while one tile is computed, the cache lines of the next one are prefetched, row by row in their
  order in memory.
* Between the passes the inputs are kept, and the state after every tile but the last (the checkpoints): N / 32 times
  the size of u.
* The backward pass takes the tiles from the last to the first. It recomputes the tile's decays and states from the
  checkpoint before the tile, two states at a time, and runs the adjoint recurrence over them in reverse. The gradient
  passed to the preceding tile is carried in memory, N vectors per vector of channels. y before the gate, which the
  gradient of z needs, is recomputed on the way.
* Sums over channels (for B and C) are added up vector by vector in a block, then over the lanes, then block by block.
  Sums over time and sequences (A, D, bias) are added up tile by tile with Kahan's correction, then block by block.
  Blocks depend on shapes only, so the number of threads changes no bit. The blocks' parts of B and C would be large for
  a whole sequence; so the backward pass takes the sequence in segments, all blocks of the last segment first.
* Gate and output may be in another order than the scan. A block that scans its tokens by their scores therefore needs
  no sorted copy of either.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.errors import ConfigError
from memamba_core.model.scan.chunked import chunked_scan
from memamba_core.model.scan.cpu.passes import ScanInputs, scan_backward, scan_forward

__all__ = ["cpu_scan"]


def cpu_scan(
    u: Float[Tensor, "B E L"],
    delta: Float[Tensor, "B E L"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B N L"],
    C: Float[Tensor, "B N L"],
    D: Float[Tensor, " E"] | None,
    z: Float[Tensor, "B E L"] | None,
    delta_bias: Float[Tensor, " E"] | None,
    delta_softplus: bool,
) -> Float[Tensor, "B E L"]:
    """Compute the selective scan (defined in `selective_scan`) in compiled code; float64 by `chunked_scan`.

    Raises:
        ConfigError: the tensors are not on a CPU.
    """
    if u.device.type != "cpu":
        raise ConfigError(
            f"scan_backend is 'cpu' and the tensors are on {u.device}; expected them on cpu. Set scan_backend=auto, "
            "or device=cpu."
        )
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        y: Tensor = _Scan.apply(*given, delta_softplus)  # type: ignore[no-untyped-call]
        return y
    return scan_forward(_inputs(given, delta_softplus))[0].transpose(1, 2)


def _inputs(given: Sequence[Any], delta_softplus: bool) -> ScanInputs:
    """Return the arguments of `selective_scan` as transposed views."""
    u, delta, A, B, C, D, z, delta_bias = given
    return ScanInputs(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        B.transpose(1, 2),
        C.transpose(1, 2),
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        delta_softplus,
    )


class _Scan(torch.autograd.Function):
    """Scan with bias, softplus, bypass and gate fused into it; differentiable once."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, delta_softplus = arguments
        y_BLE, checkpoints = scan_forward(_inputs(given, delta_softplus), keep=True)
        ctx.save_for_backward(*given, checkpoints)
        ctx.delta_softplus = delta_softplus
        return y_BLE.transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        *given, checkpoints = ctx.saved_tensors
        inputs = _inputs(given, ctx.delta_softplus)
        grad = scan_backward(inputs, checkpoints, grad_y.transpose(1, 2))
        return (
            grad.u.transpose(1, 2),
            grad.delta.transpose(1, 2),
            grad.A,
            grad.B.transpose(1, 2),
            grad.C.transpose(1, 2),
            None if inputs.D is None else grad.D,
            None if grad.z is None else grad.z.transpose(1, 2),
            None if inputs.delta_bias is None else grad.delta_bias,
            None,
        )
