"""Compiled kernels on tensors of any memory layout: values and gradients are those of the reference scan."""

import pytest
import torch
from torch.nn import functional as F

from memamba_core.model.convolution import causal_conv
from memamba_core.model.scan.cpu.convolution_function import conv_backward, conv_forward
from memamba_core.model.scan.cpu.mixer import MixerWeights, cpu_mixer
from memamba_core.model.scan.cpu.passes import ScanInputs, scan_backward, scan_forward
from memamba_core.model.scan.reference import reference_scan

pytest.importorskip("numba")


def orders(batch, length):
    return torch.stack([torch.randperm(length) for _ in range(batch)])


def relative_error(got, wanted):
    return ((got - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels first": lambda x: x.permute(2, 0, 1).contiguous().permute(1, 2, 0),
    "every second": lambda x: torch.stack([x, torch.full_like(x, torch.nan)], dim=-1).flatten(-2)[..., ::2],
    "inside of wider rows": lambda x: F.pad(x, (3, 5), value=torch.nan)[..., 3:-5],
    "every second step": lambda x: torch.stack([x, torch.full_like(x, torch.nan)], dim=2).flatten(1, 2)[:, ::2],
}
"""Ways to lay the same (B, L, X) numbers out in memory."""


def reference_mixer(xz_BLX, weights, order_BL):
    """Compute the block between its projections, by the slow reference scan."""
    if order_BL is not None:
        xz_BLX = xz_BLX.gather(1, order_BL.unsqueeze(2).expand_as(xz_BLX))
    x_BLE, z_BLE = xz_BLX.chunk(2, dim=2)
    u_BLE = F.silu(causal_conv(x_BLE, weights.conv_weight_E1W, weights.conv_bias_E))
    states = weights.A_log_EN.shape[1]
    dt_BLR, B_BLN, C_BLN = (u_BLE @ weights.x_proj_ME.t()).split([weights.dt_proj_ER.shape[1], states, states], dim=2)
    delta_BLE, A_EN = dt_BLR @ weights.dt_proj_ER.t(), -weights.A_log_EN.exp()
    sequences = [x.transpose(1, 2) for x in (u_BLE, delta_BLE, B_BLN, C_BLN, z_BLE)]
    u, delta, B, C, z = sequences
    y_BLE = reference_scan(u, delta, A_EN, B, C, weights.D_E, z, weights.dt_bias_E, True).transpose(1, 2)
    if order_BL is None:
        return y_BLE
    return y_BLE.gather(1, order_BL.argsort(dim=1).unsqueeze(2).expand_as(y_BLE))


def mixer_weights(channels, states=4, rank=2, width=4):
    draw = torch.Generator().manual_seed(3)
    shapes = [
        (channels, 1, width),
        (channels,),
        (rank + 2 * states, channels),
        (channels, rank),
        (channels,),
        (channels, states),
        (channels,),
    ]
    return MixerWeights(*(torch.randn(shape, generator=draw) * 0.5 for shape in shapes))


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("grad_layout", ["contiguous", "transposed"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_inputs_of_any_memory_layout(layout, grad_layout, ordered):
    torch.manual_seed(0)
    weights, xz_BLX, grad_y_BLE = mixer_weights(20), torch.randn(3, 70, 40), torch.randn(3, 70, 20)
    order_BL = orders(3, 70) if ordered else None
    exact = [tensor.double().requires_grad_() for tensor in (xz_BLX, *weights)]
    wanted = reference_mixer(exact[0], MixerWeights(*exact[1:]), order_BL)
    wanted_gradients = torch.autograd.grad(wanted, exact, grad_y_BLE.double())

    given = LAYOUTS[layout](xz_BLX).requires_grad_()
    assert torch.equal(given, xz_BLX)
    y_BLE = cpu_mixer(given, MixerWeights(*(w.requires_grad_() for w in weights)), order_BL)
    gradients = torch.autograd.grad(y_BLE, (given, *weights), LAYOUTS[grad_layout](grad_y_BLE))
    assert relative_error(y_BLE, wanted) < 3e-6
    for name, got, value in zip(("xz", *MixerWeights._fields), gradients, wanted_gradients, strict=True):
        assert relative_error(got, value) < 3e-6, name


def test_weights_and_order_of_any_memory_layout():
    torch.manual_seed(0)
    weights, xz_BLX, order_BL = mixer_weights(20), torch.randn(2, 50, 40), orders(2, 50)
    strided = [w if w.ndim == 1 else w.transpose(0, -1).contiguous().transpose(0, -1) for w in weights]
    strided = [torch.stack([w, w], dim=-1)[..., 0] if w.ndim == 1 else w for w in strided]
    strided_order_BL = torch.stack([order_BL, order_BL], dim=-1)[..., 0]

    def run(weights, order_BL):
        given = [tensor.detach().requires_grad_() for tensor in (xz_BLX, *weights)]
        y_BLE = cpu_mixer(given[0], MixerWeights(*given[1:]), order_BL)
        return y_BLE, *torch.autograd.grad(y_BLE.square().sum(), given)

    for got, wanted in zip(run(strided, strided_order_BL), run(weights, order_BL), strict=True):
        assert relative_error(got, wanted) < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolution_of_any_memory_layout(layout):
    torch.manual_seed(0)
    x_BLE, grad_y_BLE, weight_E1W, bias_E = *torch.randn(2, 2, 40, 20), torch.randn(20, 1, 4), torch.randn(20)

    def run(layout):
        x, grad_y, grad_x = LAYOUTS[layout](x_BLE), LAYOUTS[layout](grad_y_BLE), torch.empty(x_BLE.shape)
        y_BLE = conv_forward(x, weight_E1W, bias_E)
        return y_BLE, *conv_backward(x, weight_E1W, bias_E, None, grad_y, grad_x_BLE=grad_x)

    assert all(torch.equal(got, wanted) for got, wanted in zip(run(layout), run("contiguous"), strict=True))


def test_a_gradient_buffer_that_kernels_cannot_write_to_is_refused():
    x_BLE = torch.randn(2, 8, 6)
    turned = torch.empty(2, 6, 8).transpose(1, 2)
    with pytest.raises(AssertionError, match="last axis"):
        conv_backward(x_BLE, torch.randn(6, 1, 4), torch.zeros(6), None, x_BLE, grad_x_BLE=turned)
    N = torch.randn(2, 8, 3)
    inputs = ScanInputs(x_BLE, x_BLE.clone(), -torch.ones(6, 3), N, N, None, x_BLE, None, True)
    checkpoints = scan_forward(inputs, keep=True)[1]
    for name, buffer in {
        "grad_delta_BLE": turned,
        "grad_z_BLE": turned,
        "grad_B_BLN": torch.empty(2, 3, 8).transpose(1, 2),
        "grad_C_BLN": torch.empty(2, 3, 8).transpose(1, 2),
    }.items():
        with pytest.raises(AssertionError, match="last axis"):
            scan_backward(inputs, checkpoints, x_BLE, **{name: buffer})
