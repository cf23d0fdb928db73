"""The compiled block: convolution, and all between the projections, against the plain torch twins in float64."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from memamba_core.model.convolution import causal_conv
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan.cpu import thread_pool as thread_pool
from memamba_core.model.scan.cpu.convolution_function import conv_backward, conv_forward

pytest.importorskip("numba")


def orders(batch, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)])


def relative_error(got, wanted):
    return ((got - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()


# ---------------------------------------------------------------------------------------------- convolution


def check_conv(batch, length, channels, width, ordered, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_BLE, grad_y_BLE = torch.randn(2, batch, length, channels, generator=generator)
    weight_E1W = torch.randn(channels, 1, width, generator=generator)
    bias_E = torch.randn(channels, generator=generator)
    order_BL = orders(batch, length, seed) if ordered else None

    x, weight, bias = (tensor.double().requires_grad_() for tensor in (x_BLE, weight_E1W, bias_E))
    scanned = x if order_BL is None else torch.stack([row[order] for row, order in zip(x, order_BL, strict=True)])
    wanted = F.silu(causal_conv(scanned, weight, bias))
    gradients = torch.autograd.grad(wanted, (x, weight, bias), grad_y_BLE.double())

    wide = torch.full((batch, length, 2 * channels), torch.nan)  # x as half of a row, its gradient as the other
    wide[..., :channels] = x_BLE
    x_half, grad_half = wide.chunk(2, dim=2)
    assert relative_error(conv_forward(x_half, weight_E1W, bias_E, order_BL), wanted) < 3e-7
    got = conv_backward(x_half, weight_E1W, bias_E, order_BL, grad_y_BLE, grad_x_BLE=grad_half)
    assert got.x is grad_half
    assert torch.equal(x_half, x_BLE)
    for name, value in zip(("x", "weight", "bias"), gradients, strict=True):
        # Sums over time may cancel: their terms are as large as the incoming gradient.
        scale = max(value.norm(), grad_y_BLE.norm())
        assert (getattr(got, name) - value).norm() < 1e-6 * scale, name


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width"),
    [(1, 1, 1, 4), (2, 3, 16, 4), (1, 256, 16, 4), (1, 257, 20, 4), (2, 259, 33, 3), (1, 515, 16, 2), (90, 6, 8, 4)],
)
def test_convolution_at_the_ends_of_spans_and_chunks(batch, length, channels, width, ordered):
    check_conv(batch, length, channels, width, ordered)


@settings(max_examples=20)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 300),
    channels=st.integers(1, 40),
    width=st.integers(1, 4),
    ordered=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_convolution_of_any_shape(batch, length, channels, width, ordered, seed):
    check_conv(batch, length, channels, width, ordered, seed)


def test_an_infinite_input_reaches_only_the_steps_that_a_tap_leads_to():
    x_BLE = torch.ones(1, 8, 4)
    x_BLE[0, 3] = torch.inf
    y_BLE = conv_forward(x_BLE, torch.ones(4, 1, 2), torch.zeros(4))
    assert y_BLE.isfinite().all(dim=2)[0].tolist() == [True] * 3 + [False] * 2 + [True] * 3


# ---------------------------------------------------------------------------------------------------- block


def gradients_of(block, tokens_BLD, order_BL=None):
    """Return the output, and the gradient of an uneven weighting of it at the tokens and all parameters."""
    tokens_BLD = tokens_BLD.clone().requires_grad_()
    y_BLD = block(tokens_BLD, order_BL)
    weights = torch.randn(y_BLD.shape, generator=torch.Generator().manual_seed(1)).to(y_BLD.dtype)
    names = ["tokens", *(name for name, _ in block.named_parameters())]
    gradients = torch.autograd.grad((y_BLD * weights).sum(), [tokens_BLD, *block.parameters()])
    return {"y": y_BLD.detach(), **dict(zip(names, gradients, strict=True))}


def block_and_tokens(d_model, batch, length, d_state=16, d_conv=4, backend="cpu"):
    torch.manual_seed(0)
    block = Mamba(d_model, d_state, d_conv, scan_backend=backend)
    return block, torch.randn(batch, length, d_model)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    ("d_model", "batch", "length", "d_state", "d_conv"),
    [(12, 2, 1, 16, 4), (12, 3, 9, 3, 2), (20, 1, 301, 16, 4), (32, 70, 6, 16, 4), (8, 1, 2050, 4, 3)],
)
def test_the_block_equals_its_plain_twin(d_model, batch, length, d_state, d_conv, ordered):
    block, tokens_BLD = block_and_tokens(d_model, batch, length, d_state, d_conv)
    order_BL = orders(batch, length) if ordered else None
    got = gradients_of(block, tokens_BLD, order_BL)
    plain = copy.deepcopy(block).double()
    plain.scan_backend = "chunked"
    for name, value in gradients_of(plain, tokens_BLD.double(), order_BL).items():
        assert relative_error(got[name], value) < 3e-6, name


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_an_order_is_a_permutation_before_and_after(backend):
    block, tokens_BLD = block_and_tokens(8, 2, 20, backend=backend)
    order_BL = orders(2, 20)
    got = block(tokens_BLD, order_BL)
    for tokens_LD, order_L, mixed_LD in zip(tokens_BLD, order_BL, got, strict=True):
        wanted_LD = torch.empty_like(mixed_LD)
        wanted_LD[order_L] = block(tokens_LD[order_L].unsqueeze(0))[0]
        torch.testing.assert_close(mixed_LD, wanted_LD)


def test_the_backward_pass_leaves_what_it_reads():
    block, tokens_BLD = block_and_tokens(8, 1, 50)
    loss = block(tokens_BLD).square().sum()
    first = torch.autograd.grad(loss, list(block.parameters()), retain_graph=True)
    second = torch.autograd.grad(loss, list(block.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_without_gradients_and_with_some():
    block, tokens_BLD = block_and_tokens(8, 2, 40)
    wanted = gradients_of(block, tokens_BLD)
    for region in (torch.no_grad, torch.inference_mode):
        with region():
            assert torch.equal(block(tokens_BLD), wanted["y"])
    block.requires_grad_(False)
    block.dt_proj.weight.requires_grad_(True)
    block(tokens_BLD).sum().backward()
    assert [name for name, p in block.named_parameters() if p.grad is not None] == ["dt_proj.weight"]


def test_second_derivatives_are_refused():
    block, tokens_BLD = block_and_tokens(8, 1, 5)
    (gradient,) = torch.autograd.grad(block(tokens_BLD).square().sum(), block.D, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("ordered", [False, True])
def test_threads_change_no_bit(ordered, monkeypatch):
    """Only the compiled steps: a product of torch may sum in another order."""
    monkeypatch.setattr(thread_pool, "MIN_WORK_PER_THREAD", 1)
    x_BLE, grad_y_BLE = torch.randn(2, 2, 700, 40)
    weight_E1W, bias_E = torch.randn(40, 1, 4), torch.randn(40)
    order_BL = orders(2, 700) if ordered else None

    def run(threads):
        torch.set_num_threads(threads)
        grad_x_BLE = torch.empty_like(x_BLE)
        return [
            conv_forward(x_BLE, weight_E1W, bias_E, order_BL),
            *conv_backward(x_BLE, weight_E1W, bias_E, order_BL, grad_y_BLE, grad_x_BLE=grad_x_BLE),
        ]

    before = torch.get_num_threads()
    try:
        wanted = run(1)
        for threads in (2, 3, 8):
            assert all(torch.equal(got, value) for got, value in zip(run(threads), wanted, strict=True))
    finally:
        torch.set_num_threads(before)


def test_under_autocast_the_inside_stays_float32():
    block, tokens_BLD = block_and_tokens(16, 2, 40)
    wanted = gradients_of(block, tokens_BLD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = gradients_of(block, tokens_BLD)
    for name, value in wanted.items():
        assert relative_error(got[name], value) < 0.03, name


def test_a_wider_convolution_goes_the_plain_way():
    block, tokens_BLD = block_and_tokens(8, 1, 20, d_conv=6)
    got = gradients_of(block, tokens_BLD)
    for name, value in gradients_of(copy.deepcopy(block).double(), tokens_BLD.double()).items():
        assert relative_error(got[name], value) < 3e-6, name


@pytest.mark.parametrize("name", ["tokens", "conv1d.weight", "x_proj.weight", "dt_proj.bias", "A_log", "D"])
def test_nan_in_gives_nan_out(name):
    block, tokens_BLD = block_and_tokens(8, 1, 40)
    with torch.no_grad():
        (tokens_BLD if name == "tokens" else block.get_parameter(name)).view(-1)[5] = torch.nan
    assert block(tokens_BLD).isnan().any()
