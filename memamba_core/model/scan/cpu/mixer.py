"""Compiled inside of a Mamba block: all between the two projections as one step of the graph, float32, on a CPU.

`Mamba.forward` defines the computation in plain torch. Here the kernels read the halves of `in_proj`'s output in place
and write their gradients into the halves of one tensor. Gradients of one tensor are added up by the matrix products
that compute them. So nothing is cut, joined or copied. Tokens that are scanned in another order are not moved either;
the kernels read and write them in place. Only an input whose last axis is not contiguous is copied.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.model.precision import no_autocast
from memamba_core.model.scan.cpu.convolution_function import conv_backward, conv_forward
from memamba_core.model.scan.cpu.passes import ScanInputs, scan_backward, scan_forward

__all__ = ["MixerWeights", "cpu_mixer"]


class MixerWeights(NamedTuple):
    """Parameters of a block between its projections; R is dt_rank, M = R + 2 N and, in this module, X = 2 E."""

    conv_weight_E1W: Float[Tensor, "E 1 W"]
    conv_bias_E: Float[Tensor, " E"]
    x_proj_ME: Float[Tensor, "M E"]
    dt_proj_ER: Float[Tensor, "E R"]
    dt_bias_E: Float[Tensor, " E"]
    A_log_EN: Float[Tensor, "E N"]
    D_E: Float[Tensor, " E"]


def cpu_mixer(
    xz_BLX: Float[Tensor, "B L X"], weights: MixerWeights, order_BL: Int[Tensor, "B L"] | None
) -> Float[Tensor, "B L E"]:
    """Compute convolution, SiLU, step sizes, scan and gate of a block; differentiable once.

    Args:
        xz_BLX: output of `in_proj`: x in the first half of the channels, the gate z in the second; float32 on a CPU.
        weights: float32 on a CPU.
        order_BL: place of step t of convolution and scan in `xz` and in the output; None: t.
    """
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (xz_BLX, *weights)):
        y_BLE: Tensor = _Mixer.apply(xz_BLX, order_BL, *weights)  # type: ignore[no-untyped-call]
        return y_BLE
    return scan_forward(_prepare(xz_BLX, order_BL, weights)[0])[0]


class _Mixer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xz_BLX: Tensor, order_BL: Tensor | None, *weights: Tensor) -> Tensor:
        inputs, dt_B_C_BLM = _prepare(xz_BLX, order_BL, MixerWeights(*weights))
        y_BLE, checkpoints = scan_forward(inputs, keep=True)
        ctx.save_for_backward(xz_BLX, order_BL, *weights, inputs.u, dt_B_C_BLM, checkpoints)
        return y_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_BLE: Tensor) -> tuple[Tensor | None, ...]:
        xz_BLX, order_BL, *saved = ctx.saved_tensors
        weights = MixerWeights(*saved[:7])
        u_BLE, dt_B_C_BLM, checkpoints = saved[7:]
        inputs = _scan_inputs(xz_BLX, order_BL, weights, u_BLE, dt_B_C_BLM)
        # Contiguous whatever the strides of xz are: kernels write to the halves, and `empty_like` keeps strides.
        grad_xz_BLX, grad_dt_B_C_BLM = xz_BLX.new_empty(xz_BLX.shape), dt_B_C_BLM.new_empty(dt_B_C_BLM.shape)
        grad_x_BLE, grad_z_BLE = grad_xz_BLX.chunk(2, dim=2)
        dt_BLR, grad_dt_BLR = (_split(joined_BLM, weights)[0] for joined_BLM in (dt_B_C_BLM, grad_dt_B_C_BLM))
        _, grad_B_BLN, grad_C_BLN = _split(grad_dt_B_C_BLM, weights)
        grad = scan_backward(
            inputs,
            checkpoints,
            grad_y_BLE,
            grad_delta_BLE=inputs.delta,  # not read again
            grad_z_BLE=grad_z_BLE,
            grad_B_BLN=grad_B_BLN,
            grad_C_BLN=grad_C_BLN,
        )
        with no_autocast(xz_BLX.device):
            grad_dt_BLR.copy_(grad.delta @ weights.dt_proj_ER)
            grad_dt_proj_ER = grad.delta.flatten(0, 1).t() @ dt_BLR.flatten(0, 1)
            grad_x_proj_ME = grad_dt_B_C_BLM.flatten(0, 1).t() @ u_BLE.flatten(0, 1)
            grad.u.flatten(0, 1).addmm_(grad_dt_B_C_BLM.flatten(0, 1), weights.x_proj_ME)
        x_BLE = xz_BLX.chunk(2, dim=2)[0]
        conv = conv_backward(
            x_BLE, weights.conv_weight_E1W, weights.conv_bias_E, order_BL, grad.u, grad_x_BLE=grad_x_BLE
        )
        return (
            grad_xz_BLX,
            None,
            *MixerWeights(
                conv_weight_E1W=conv.weight,
                conv_bias_E=conv.bias,
                x_proj_ME=grad_x_proj_ME,
                dt_proj_ER=grad_dt_proj_ER,
                dt_bias_E=grad.delta_bias,
                A_log_EN=grad.A * inputs.A,  # A is -exp(A_log)
                D_E=grad.D,
            ),
        )


def _prepare(xz_BLX: Tensor, order_BL: Tensor | None, weights: MixerWeights) -> tuple[ScanInputs, Tensor]:
    """Return the inputs of the scan, and step sizes before their projection, B and C in one tensor."""
    x_BLE = xz_BLX.detach().chunk(2, dim=2)[0]
    u_BLE = conv_forward(x_BLE, weights.conv_weight_E1W, weights.conv_bias_E, order_BL)
    with no_autocast(xz_BLX.device), torch.no_grad():
        dt_B_C_BLM = u_BLE @ weights.x_proj_ME.t()
    return _scan_inputs(xz_BLX, order_BL, weights, u_BLE, dt_B_C_BLM), dt_B_C_BLM


def _scan_inputs(
    xz_BLX: Tensor, order_BL: Tensor | None, weights: MixerWeights, u_BLE: Tensor, dt_B_C_BLM: Tensor
) -> ScanInputs:
    """Return the inputs of the scan. Step sizes are not kept between the passes: recomputing their product is fast."""
    dt_BLR, B_BLN, C_BLN = _split(dt_B_C_BLM, weights)
    with no_autocast(xz_BLX.device), torch.no_grad():
        delta_BLE = dt_BLR @ weights.dt_proj_ER.t()
        A_EN = -weights.A_log_EN.exp()
    z_BLE = xz_BLX.detach().chunk(2, dim=2)[1]
    return ScanInputs(u_BLE, delta_BLE, A_EN, B_BLN, C_BLN, weights.D_E, z_BLE, weights.dt_bias_E, True, order_BL)


def _split(joined_BLM: Tensor, weights: MixerWeights) -> tuple[Tensor, Tensor, Tensor]:
    """Split into step sizes before their projection, B and C."""
    states = weights.A_log_EN.shape[1]
    dt_BLR, B_BLN, C_BLN = torch.split(joined_BLM, [weights.dt_proj_ER.shape[1], states, states], dim=2)
    return dt_BLR, B_BLN, C_BLN
