"""Causal depthwise convolution of a Mamba block in plain torch, for every device.

`scan.cpu.convolution_function` computes the same, followed by the SiLU, in one compiled pass.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.model.precision import at_least_float32

__all__ = ["causal_conv"]


def causal_conv(
    x_BLE: Float[Tensor, "B L E"], weight_E1W: Float[Tensor, "E 1 W"], bias_E: Float[Tensor, " E"] | None
) -> Float[Tensor, "B L E"]:
    """Compute the depthwise convolution in which output t sees inputs t-W+1...t; zeros precede the first input.

    The result is that of `torch.nn.Conv1d` with `groups=E`, `padding=W-1`, cut to L. W shifted multiply-adds over the
    channels-last layout of the block take between a fifth and a half of its time.

    Returns:
        The output in float32 for inputs in half precision, so that the SiLU is computed in float32 as well; otherwise
        in the dtype of the input.
    """
    if bias_E is None:
        bias_E = weight_E1W.new_zeros(len(weight_E1W))
    y_BLE: Tensor = _CausalConv.apply(  # type: ignore[no-untyped-call]
        at_least_float32(x_BLE), at_least_float32(weight_E1W).squeeze(1).t().contiguous(), at_least_float32(bias_E)
    )
    return y_BLE


class _CausalConv(torch.autograd.Function):
    """Gradient by hand. Row -1-j of the weight is multiplied by the input of j steps earlier."""

    @staticmethod
    def forward(ctx: Any, x_BLE: Tensor, weight_WE: Tensor, bias_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLE, weight_WE)
        length = x_BLE.shape[1]
        y_BLE = torch.addcmul(bias_E, x_BLE, weight_WE[-1])
        for lag in range(1, min(len(weight_WE), length)):
            y_BLE[:, lag:].addcmul_(x_BLE[:, : length - lag], weight_WE[-1 - lag])
        return y_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BLE, weight_WE = ctx.saved_tensors
        length = x_BLE.shape[1]
        grad_x_BLE = grad_BLE * weight_WE[-1]
        grad_weight_WE = torch.zeros_like(weight_WE)
        for lag in range(min(len(weight_WE), length)):
            late_BSE, early_BSE = grad_BLE[:, lag:], x_BLE[:, : length - lag]
            torch.sum(late_BSE * early_BSE, dim=(0, 1), out=grad_weight_WE[-1 - lag])
            if lag:
                grad_x_BLE[:, : length - lag].addcmul_(late_BSE, weight_WE[-1 - lag])
        return grad_x_BLE, grad_weight_WE, grad_BLE.sum((0, 1))
