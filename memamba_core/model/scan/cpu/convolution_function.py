"""Causal depthwise convolution with the SiLU after it, compiled by numba: float32, forward and backward.

The result is `silu(causal_conv(x, weight, bias))` of `model.convolution`. The computation is bound by memory: torch
needs one pass per tap, this code one pass in all. `convolution` holds the kernels. These functions have no graph;
`mixer` puts them into one.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from memamba_core.model.scan.cpu.loading import load_kernels
from memamba_core.model.scan.cpu.tensors import sum_of_parts, to_array, to_buffer
from memamba_core.model.scan.cpu.thread_pool import run_blocks

__all__ = ["ConvGradients", "conv_backward", "conv_forward"]

_BLOCK_STEPS: Final = 256
"""Short sequences share a block until it has about this many steps."""
_WORK: Final = 8
"""Work per element, in units of one exponential."""


class ConvGradients(NamedTuple):
    """Gradients of a convolution, each in the layout of its argument."""

    x: Float[Tensor, "B L E"]
    weight: Float[Tensor, "E 1 W"]
    bias: Float[Tensor, " E"]


def conv_forward(
    x_BLE: Float[Tensor, "B L E"],
    weight_E1W: Float[Tensor, "E 1 W"],
    bias_E: Float[Tensor, " E"],
    order_BL: Int[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B L E"]:
    """Compute silu(convolution), with steps in the order in which a scan will read them.

    Args:
        x_BLE: float32 on a CPU; fastest if channels are contiguous, copied otherwise.
        weight_E1W: weight of a `torch.nn.Conv1d` with as many groups as channels; at most 4 wide.
        bias_E: bias of the same.
        order_BL: place of step t in `x`; None: t.
    """
    y_BLE = torch.empty(x_BLE.shape)
    _run(load_kernels().conv_forward, x_BLE, weight_E1W, bias_E, order_BL, y=y_BLE.numpy())
    return y_BLE


def conv_backward(
    x_BLE: Float[Tensor, "B L E"],
    weight_E1W: Float[Tensor, "E 1 W"],
    bias_E: Float[Tensor, " E"],
    order_BL: Int[Tensor, "B L"] | None,
    grad_y_BLE: Float[Tensor, "B L E"],
    *,
    grad_x_BLE: Float[Tensor, "B L E"],
) -> ConvGradients:
    """Compute the gradients of `conv_forward`; that of x is written into `grad_x_BLE`, with contiguous channels."""
    width = weight_E1W.shape[2]
    _, blocks = _cut(x_BLE)
    parts = np.empty((blocks, width + 1, x_BLE.shape[2]), np.float32)
    _run(
        load_kernels().conv_backward,
        x_BLE,
        weight_E1W,
        bias_E,
        order_BL,
        grad_y=to_array(grad_y_BLE),
        grad_x=to_buffer(grad_x_BLE),
        parts=parts,
    )
    total = sum_of_parts(parts)
    return ConvGradients(grad_x_BLE, total[:width].t().unsqueeze(1), total[width])


def _run(
    kernel: Any, x_BLE: Tensor, weight_E1W: Tensor, bias_E: Tensor, order_BL: Tensor | None, **arguments: Any
) -> None:
    """Run a kernel over all blocks of a pass."""
    rows, blocks = _cut(x_BLE)
    run_blocks(
        kernel,
        blocks,
        x_BLE.numel() * _WORK,
        rows=rows,
        x=to_array(x_BLE),
        weight=to_array(weight_E1W.squeeze(1).t()),
        bias=to_array(bias_E),
        order=np.empty((0, 0), np.int64) if order_BL is None else order_BL.numpy(),
        exp2_table=load_kernels().EXP2_TABLE,
        **arguments,
    )


def _cut(x_BLE: Tensor) -> tuple[int, int]:
    """Return the sequences in a block and the number of blocks.

    Both depend on shapes alone, because they determine the order of sums.
    """
    batch, length, _ = x_BLE.shape
    rows = max(1, min(batch, _BLOCK_STEPS // length))
    return rows, -(-batch // rows) * -(-length // load_kernels().CHUNK)
