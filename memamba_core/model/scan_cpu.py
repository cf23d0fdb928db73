"""The selective scan on a CPU, compiled by numba: float32, forward and backward.

It is bound by the exponentials that the formula asks for, if memory is asked in time.

The algorithm, once (`cpu.scan_forward` and `cpu.scan_backward` are its code; `scan` says what is computed):

* Inside, time is the second axis and channels the last, which is how the Mamba block has them: the transposed views
  that it passes cost nothing. A vector is 16 channels; what is one number in the formula is one vector here.
* Work is cut into blocks: some sequences x up to 64 channels. A thread takes neighbouring blocks through their
  sequences together, in tiles of 32 steps, and through the vectors of a tile. First bias, softplus, and delta u are
  made for all steps of the tile; then, for two states at a time, the recurrence runs over the steps with the states in
  registers, and adds to y; then the gate is applied. Nothing of size L x E x N is ever made, not even for a tile.
* exp(delta A) is 2 to the power of delta (A log2 e), by rounding and a polynomial; with AVX-512 by a short table, a
  shorter polynomial and the processor's own instruction for the exponent.
* A tile's columns are 64 bytes wide and a row apart, which no processor foresees: waiting for them took a third of the
  time. So while one tile is worked on, the lines of the next one are asked for, row by row as they lie in memory.
* Between the passes the inputs are kept, and the state behind every tile but the last (the checkpoints): N / 32 times
  the size of u.
* The backward pass takes the tiles from the last to the first. It makes the tile's decays and states again from the
  checkpoint before it, two states at a time, and runs the adjoint recurrence over them in reverse; what it passes to
  the tile before is carried in memory, N vectors per vector of channels. y before the gate, which the gradient of z
  needs, is made again on the way.
* Sums over channels (for B and C) are added up vector by vector in a block, then over the lanes, then block by block;
  sums over time and sequences (A, D, bias) tile by tile with Kahan's correction, then block by block. Blocks depend on
  shapes only, so the number of threads changes no bit. The blocks' parts of B and C would be large together; so the
  backward pass goes over the sequence in segments, all blocks of the last one first.
* Gate and output may stand in another order than the scan's. A block that scans its tokens by their scores so needs no
  sorted copy of either.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.errors import ConfigError
from memamba_core.model.cpu.crew import run_blocks
from memamba_core.model.cpu.memory import keep_freed_memory
from memamba_core.model.scan_chunked import chunked_scan

__all__ = [
    "ScanGradients",
    "ScanInputs",
    "cpu_scan",
    "load_kernels",
    "numba_is_here",
    "scan_backward",
    "scan_forward",
    "sum_of_parts",
    "to_array",
]

_MOST_VECTORS: Final = 4
"""Vectors of channels in a block: more share the reading of B and C, fewer leave blocks for more threads."""
_ENOUGH_BLOCKS: Final = 8
"""Blocks are narrower where there would be fewer than about this many."""
_BLOCK_STEPS: Final = 512
"""Short sequences share a block until it has about this many steps."""
_SEGMENT_STEPS: Final = 2048
"""Steps of the backward pass from one summing up of the blocks' parts to the next; whole tiles."""

_Array = npt.NDArray[np.float32]


@functools.cache
def numba_is_here() -> bool:
    """Whether numba can be imported. The first answer takes half a second, for the import itself."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def load_kernels() -> ModuleType:
    """The compiled kernels: seconds after an installation, then a fraction of one from the disk."""
    from memamba_core.model.cpu import kernels

    keep_freed_memory()
    return kernels


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
    """The selective scan (`selective_scan` says what it means) in compiled code; float64 goes to `chunked_scan`.

    Raises:
        ConfigError: the tensors are not on a CPU.
    """
    if u.device.type != "cpu":
        raise ConfigError(f"scan_backend is 'cpu' and the tensors are on {u.device}; choose auto, or device=cpu")
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        y: Tensor = _Scan.apply(*given, delta_softplus)  # type: ignore[no-untyped-call]
        return y
    return scan_forward(_inputs(given, delta_softplus))[0].transpose(1, 2)


@dataclass(frozen=True, slots=True)
class ScanInputs:
    """The arguments of a scan with time before channels, which lie beside each other; float32, on a CPU.

    `order` is where step t of the scan stands in `z` and in the output; None: at t. The other sequences are in the
    order of the scan.
    """

    u: Float[Tensor, "B L E"]
    delta: Float[Tensor, "B L E"]
    A: Float[Tensor, "E N"]
    B: Float[Tensor, "B L N"]
    C: Float[Tensor, "B L N"]
    D: Float[Tensor, " E"] | None
    z: Float[Tensor, "B L E"] | None
    delta_bias: Float[Tensor, " E"] | None
    softplus: bool
    order: Int[Tensor, "B L"] | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Batch, length, channels, states."""
        batch, length, channels = self.u.shape
        return batch, length, channels, self.A.shape[1]

    def arguments(self) -> dict[str, Any]:
        """What the kernels of both passes take."""
        return {
            "u": to_array(self.u),
            "delta": to_array(self.delta),
            "A": to_array(self.A),
            "B": to_array(self.B),
            "C": to_array(self.C),
            "D": to_array(self.D, axes=1),
            "z": to_array(self.z, axes=3),
            "delta_bias": to_array(self.delta_bias, axes=1),
            "softplus_delta": self.softplus,
            "order": np.empty((0, 0), np.int64) if self.order is None else self.order.numpy(),
            "exp2_table": load_kernels().EXP2_TABLE,
        }


class ScanGradients(NamedTuple):
    """Gradients of a scan, laid out like what they belong to."""

    u: Float[Tensor, "B L E"]
    delta: Float[Tensor, "B L E"]
    A: Float[Tensor, "E N"]
    B: Float[Tensor, "B L N"]
    C: Float[Tensor, "B L N"]
    D: Float[Tensor, " E"]
    z: Float[Tensor, "B L E"] | None
    delta_bias: Float[Tensor, " E"]


def to_array(tensor: Tensor | None, axes: int = 0) -> _Array:
    """The tensor's memory as an array whose last axis is contiguous; None: an empty array of so many axes."""
    if tensor is None:
        return np.empty((0,) * axes, np.float32)
    tensor = tensor.detach()
    array: _Array = (tensor if tensor.stride(-1) == 1 else tensor.contiguous()).numpy()
    return array


@dataclass(frozen=True, slots=True)
class _Plan:
    """How work is cut into blocks: by shapes alone, because the order of sums follows from it."""

    rows: int
    vectors: int
    row_blocks: int
    channel_blocks: int
    work: int

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(batch: int, length: int, channels: int, states: int) -> "_Plan":
        vectors_in_all = -(-channels // load_kernels().LANES)
        vectors = max(1, min(_MOST_VECTORS, batch * vectors_in_all // _ENOUGH_BLOCKS))
        rows = max(1, min(batch, _BLOCK_STEPS // length))
        work = batch * length * channels * states
        return _Plan(rows, vectors, -(-batch // rows), -(-vectors_in_all // vectors), work)

    def run(self, kernel: Any, share: float = 1.0, **arguments: Any) -> None:
        """All blocks, over this share of the sequence."""
        work = int(self.work * share)
        run_blocks(
            kernel, self.row_blocks * self.channel_blocks, work, rows=self.rows, vectors=self.vectors, **arguments
        )


def scan_forward(inputs: ScanInputs, *, keep: bool = False) -> tuple[Float[Tensor, "B L E"], Tensor]:
    """The output, and the checkpoints that `scan_backward` needs; none of them without `keep`."""
    kernels, (batch, length, channels, states) = load_kernels(), inputs.shape
    tiles, vectors = -(-length // kernels.TILE), -(-channels // kernels.LANES)
    y_BLE = torch.empty(batch, length, channels)
    checkpoints = (
        torch.empty(batch, tiles - 1, vectors, kernels.state_size(states)) if keep else torch.empty(0, 0, 0, 0)
    )
    _Plan.of(*inputs.shape).run(
        kernels.scan_forward, **inputs.arguments(), y=y_BLE.numpy(), checkpoints=checkpoints.numpy()
    )
    return y_BLE, checkpoints


def scan_backward(
    inputs: ScanInputs,
    checkpoints: Tensor,
    grad_y_BLE: Float[Tensor, "B L E"],
    *,
    grad_delta_BLE: Float[Tensor, "B L E"] | None = None,
    grad_z_BLE: Float[Tensor, "B L E"] | None = None,
    grad_B_BLN: Float[Tensor, "B L N"] | None = None,
    grad_C_BLN: Float[Tensor, "B L N"] | None = None,
) -> ScanGradients:
    """The gradients of `scan_forward`; the last four are written into tensors that are given, or into new ones.

    That of delta may be written over delta itself: a step is read once, before its gradient is written.
    """
    kernels, (batch, length, channels, states) = load_kernels(), inputs.shape
    plan, arguments = _Plan.of(*inputs.shape), inputs.arguments()
    begins = range(0, length, _SEGMENT_STEPS)
    grad_u_BLE = torch.empty(batch, length, channels)
    grad_delta_BLE = torch.empty(batch, length, channels) if grad_delta_BLE is None else grad_delta_BLE
    if grad_z_BLE is None and inputs.z is not None:
        grad_z_BLE = torch.empty(batch, length, channels)
    grad_B_BLN = torch.empty(batch, length, states) if grad_B_BLN is None else grad_B_BLN
    grad_C_BLN = torch.empty(batch, length, states) if grad_C_BLN is None else grad_C_BLN
    carry = torch.zeros(batch, -(-channels // kernels.LANES), kernels.state_size(states))
    parts_A = torch.empty(len(begins), plan.row_blocks, channels, states)
    parts_D, parts_bias = torch.empty(2, len(begins), plan.row_blocks, channels)
    parts_B, parts_C = torch.empty(2, plan.channel_blocks, batch, min(length, _SEGMENT_STEPS), states)
    for segment, begin in reversed(list(enumerate(begins))):
        end = min(begin + _SEGMENT_STEPS, length)
        plan.run(
            kernels.scan_backward,
            (end - begin) / length,
            **arguments,
            checkpoints=checkpoints.numpy(),
            grad_y=to_array(grad_y_BLE),
            begin=begin,
            end=end,
            carry=carry.numpy(),
            grad_u=grad_u_BLE.numpy(),
            grad_delta=grad_delta_BLE.numpy(),
            grad_z=to_array(grad_z_BLE, axes=3),
            parts_A=parts_A[segment].numpy(),
            parts_B=parts_B.numpy(),
            parts_C=parts_C.numpy(),
            parts_D=parts_D[segment].numpy(),
            parts_bias=parts_bias[segment].numpy(),
        )
        for parts, total_BLN in ((parts_B, grad_B_BLN), (parts_C, grad_C_BLN)):
            kernels.sum_parts(parts[:, :, : end - begin].numpy(), total_BLN[:, begin:end].numpy())
    return ScanGradients(
        grad_u_BLE,
        grad_delta_BLE,
        sum_of_parts(parts_A.flatten(0, 1)),
        grad_B_BLN,
        grad_C_BLN,
        sum_of_parts(parts_D.flatten(0, 1)),
        grad_z_BLE,
        sum_of_parts(parts_bias.flatten(0, 1)),
    )


def sum_of_parts(parts: Float[Tensor, "P ..."]) -> Float[Tensor, "..."]:
    """The sum over the first axis, in its order: torch's own may depend on the number of threads."""
    if len(parts) == 1:
        return parts[0]
    total = torch.empty(parts.shape[1:])
    load_kernels().sum_parts(parts.view(len(parts), 1, 1, -1).numpy(), total.view(1, 1, -1).numpy())
    return total


def _inputs(given: Sequence[Any], delta_softplus: bool) -> ScanInputs:
    """The arguments of `selective_scan`, turned: views."""
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
    """The scan with all that is fused into it; differentiable once."""

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
