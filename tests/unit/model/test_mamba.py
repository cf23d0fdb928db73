"""The Mamba block is the published one: equations, parameter names, shapes, initial values."""

import math

import pytest
import torch
from torch.nn import functional as F

from memamba_core.model.convolution import causal_conv
from memamba_core.model.mamba import Mamba


def slow_block(state, tokens_LD, d_state, d_conv):
    """One sequence through the block, from the equations: section 3.4 and algorithm 2 of arXiv 2312.00752."""
    length = len(tokens_LD)
    x_LE, z_LE = torch.split(tokens_LD @ state["in_proj.weight"].T, len(state["D"]), dim=1)
    kernel_EW = state["conv1d.weight"][:, 0]
    convolved = []
    for t in range(length):
        total_E = state["conv1d.bias"].clone()
        for back in range(min(d_conv, t + 1)):
            total_E += kernel_EW[:, d_conv - 1 - back] * x_LE[t - back]
        convolved.append(total_E * torch.sigmoid(total_E))
    A_EN = -torch.exp(state["A_log"])
    h_EN, outputs = torch.zeros_like(A_EN), []
    for t in range(length):
        dt_R, B_N, C_N = torch.split(
            state["x_proj.weight"] @ convolved[t],
            [state["dt_proj.weight"].shape[1], d_state, d_state],
        )
        delta_E = torch.log1p(torch.exp(state["dt_proj.weight"] @ dt_R + state["dt_proj.bias"]))
        h_EN = torch.exp(delta_E[:, None] * A_EN) * h_EN + torch.outer(delta_E * convolved[t], B_N)
        y_E = h_EN @ C_N + state["D"] * convolved[t]
        outputs.append(state["out_proj.weight"] @ (y_E * z_LE[t] * torch.sigmoid(z_LE[t])))
    return torch.stack(outputs)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize(("length", "d_conv"), [(1, 4), (2, 4), (9, 4), (9, 2)])
def test_equals_the_equations(backend, length, d_conv):
    torch.manual_seed(0)
    block = Mamba(20, d_state=3, d_conv=d_conv, scan_backend=backend).double()
    state = {name: p.detach().clone().requires_grad_() for name, p in block.named_parameters()}
    tokens_BLD = torch.randn(2, length, 20, dtype=torch.float64)
    wanted = torch.stack([slow_block(state, tokens_LD, 3, d_conv) for tokens_LD in tokens_BLD])
    got = block(tokens_BLD)
    torch.testing.assert_close(got, wanted)
    weights = torch.randn_like(got)
    (got * weights).sum().backward()
    (wanted * weights).sum().backward()
    for name, parameter in block.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, msg=lambda m, n=name: f"{n}: {m}")


def test_names_and_shapes_are_those_of_mamba_ssm():
    """Written down from mamba_ssm.modules.mamba_simple.Mamba(d_model=40), mamba-ssm 2.x."""
    assert {name: tuple(p.shape) for name, p in Mamba(40).state_dict().items()} == {
        "A_log": (80, 16),
        "D": (80,),
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 4),
        "conv1d.bias": (80,),
        "x_proj.weight": (35, 80),
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "out_proj.weight": (40, 80),
    }


def test_initial_values():
    torch.manual_seed(0)
    block = Mamba(64, d_state=5, expand=4)
    torch.testing.assert_close(block.A_log.exp(), torch.arange(1.0, 6.0).expand(256, 5))
    assert torch.equal(block.D, torch.ones(256))
    step_E = F.softplus(block.dt_proj.bias)
    assert 1e-3 * 0.999 <= step_E.min() < 2e-3
    assert 0.05 < step_E.max() <= 0.1 * 1.001
    assert abs(step_E.log().mean() - math.log(1e-2)) < 0.2  # log-uniform
    bound = block.dt_proj.in_features**-0.5
    assert 0.9 * bound < block.dt_proj.weight.abs().max() <= bound


def test_free_of_weight_decay():
    block = Mamba(8).double()
    marked = {name for name, p in block.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D"}


def test_causal():
    torch.manual_seed(0)
    block, tokens_BLD = Mamba(8), torch.randn(1, 10, 8)
    changed_BLD = tokens_BLD.clone()
    changed_BLD[:, 6:] += 1
    before, after = block(tokens_BLD), block(changed_BLD)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


@pytest.mark.parametrize(("length", "width"), [(1, 4), (3, 4), (4, 4), (11, 4), (5, 2)])
def test_convolution_equals_torch(length, width):
    conv = torch.nn.Conv1d(6, 6, width, groups=6, padding=width - 1).double()
    inputs = (torch.randn(2, length, 6, dtype=torch.float64, requires_grad=True), conv.weight, conv.bias)
    wanted = conv(inputs[0].transpose(1, 2))[..., :length].transpose(1, 2)
    torch.testing.assert_close(causal_conv(*inputs), wanted)
    assert torch.autograd.gradcheck(causal_conv, inputs)
