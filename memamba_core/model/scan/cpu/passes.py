"""The two passes of the compiled scan, without a graph: cut the work into blocks and call the kernels.

`scan` describes the algorithm.
"""

import functools
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memamba_core.model.scan.cpu.loading import load_kernels
from memamba_core.model.scan.cpu.tensors import sum_of_parts, to_array, to_buffer
from memamba_core.model.scan.cpu.thread_pool import run_blocks

__all__ = ["ScanGradients", "ScanInputs", "scan_backward", "scan_forward"]

_MOST_VECTORS: Final = 4
"""Vectors of channels in a block. More vectors share the reads of B and C; fewer leave blocks for more threads."""
_ENOUGH_BLOCKS: Final = 8
"""Blocks are made narrower if there would be fewer than about this many."""
_BLOCK_STEPS: Final = 512
"""Short sequences share a block until it has about this many steps."""
_SEGMENTS: Final = 4
"""Pieces of a long sequence in the backward pass. At the end of each piece all blocks wait for the slowest; longer
pieces need more memory for the blocks' parts."""
_LEAST_SEGMENT: Final = 2048
"""Smallest number of steps of a piece."""


@dataclass(frozen=True, slots=True)
class ScanInputs:
    """Arguments of a scan, with time before channels; float32, on a CPU. Fastest if the last axis is contiguous.

    `order` is the place of step t of the scan in `z` and in the output; None: t. The other sequences are in the order
    of the scan.
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
        """Return the arguments that the kernels of both passes share."""
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
    """Gradients of a scan, each in the layout of its argument."""

    u: Float[Tensor, "B L E"]
    delta: Float[Tensor, "B L E"]
    A: Float[Tensor, "E N"]
    B: Float[Tensor, "B L N"]
    C: Float[Tensor, "B L N"]
    D: Float[Tensor, " E"]
    z: Float[Tensor, "B L E"] | None
    delta_bias: Float[Tensor, " E"]


@dataclass(frozen=True, slots=True)
class _Plan:
    """Division of the work into blocks. It depends on shapes alone, because it determines the order of sums."""

    rows: int
    vectors: int
    row_blocks: int
    channel_blocks: int
    segment: int
    work: int

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(batch: int, length: int, channels: int, states: int) -> "_Plan":
        kernels = load_kernels()
        vectors_in_all = -(-channels // kernels.LANES)
        vectors = max(1, min(_MOST_VECTORS, batch * vectors_in_all // _ENOUGH_BLOCKS))
        rows = max(1, min(batch, _BLOCK_STEPS // length))
        segment = max(_LEAST_SEGMENT, -(-length // _SEGMENTS))
        return _Plan(
            rows=rows,
            vectors=vectors,
            row_blocks=-(-batch // rows),
            channel_blocks=-(-vectors_in_all // vectors),
            segment=-(-segment // kernels.TILE) * kernels.TILE,
            work=batch * length * channels * states,
        )

    def run(self, kernel: Any, share: float = 1.0, **arguments: Any) -> None:
        """Run a kernel over all blocks, for this share of the sequence."""
        work = int(self.work * share)
        run_blocks(
            kernel, self.row_blocks * self.channel_blocks, work, rows=self.rows, vectors=self.vectors, **arguments
        )


def scan_forward(inputs: ScanInputs, *, keep: bool = False) -> tuple[Float[Tensor, "B L E"], Tensor]:
    """Return the output and, with `keep`, the checkpoints that `scan_backward` needs; otherwise none."""
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
    """Compute the gradients of `scan_forward`.

    The last four arguments are tensors to write to, with contiguous channels; None: a new tensor. The gradient of delta
    may be written over delta itself: a step is read once, before its gradient is written.
    """
    kernels, (batch, length, channels, states) = load_kernels(), inputs.shape
    plan, arguments = _Plan.of(*inputs.shape), inputs.arguments()
    begins = range(0, length, plan.segment)
    grad_u_BLE = torch.empty(batch, length, channels)
    grad_delta_BLE = torch.empty(batch, length, channels) if grad_delta_BLE is None else grad_delta_BLE
    if grad_z_BLE is None and inputs.z is not None:
        grad_z_BLE = torch.empty(batch, length, channels)
    grad_B_BLN = torch.empty(batch, length, states) if grad_B_BLN is None else grad_B_BLN
    grad_C_BLN = torch.empty(batch, length, states) if grad_C_BLN is None else grad_C_BLN
    carry = np.zeros((batch, -(-channels // kernels.LANES), kernels.state_size(states)), np.float32)
    parts_A = np.empty((len(begins), plan.row_blocks, channels, states), np.float32)
    parts_D, parts_bias = np.empty((2, len(begins), plan.row_blocks, channels), np.float32)
    parts_B, parts_C = np.empty((2, plan.channel_blocks, batch, min(length, plan.segment), states), np.float32)
    arguments |= {
        "checkpoints": checkpoints.numpy(),
        "grad_y": to_array(grad_y_BLE),
        "carry": carry,
        "grad_u": grad_u_BLE.numpy(),
        "grad_delta": to_buffer(grad_delta_BLE),
        "grad_z": to_buffer(grad_z_BLE, axes=3),
        "parts_B": parts_B,
        "parts_C": parts_C,
    }
    totals = ((parts_B, to_buffer(grad_B_BLN)), (parts_C, to_buffer(grad_C_BLN)))
    for segment, begin in reversed(list(enumerate(begins))):
        end = min(begin + plan.segment, length)
        plan.run(
            kernels.scan_backward,
            (end - begin) / length,
            **arguments,
            begin=begin,
            end=end,
            parts_A=parts_A[segment],
            parts_D=parts_D[segment],
            parts_bias=parts_bias[segment],
        )
        for parts, total in totals:
            kernels.sum_parts(parts[:, :, : end - begin], total[:, begin:end])
    return ScanGradients(
        grad_u_BLE,
        grad_delta_BLE,
        sum_of_parts(parts_A.reshape(-1, channels, states)),
        grad_B_BLN,
        grad_C_BLN,
        sum_of_parts(parts_D.reshape(-1, channels)),
        grad_z_BLE,
        sum_of_parts(parts_bias.reshape(-1, channels)),
    )
