"""The scans for a GPU on a GPU: values and gradients against float64, long sequences, memory, the block around them."""

import pytest
import torch

from memamba_core.model import scan
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import choose_backend, selective_scan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]


def need(*backends):
    for name in backends:
        if (missing := scan.missing_requirement(name)) is not None:
            pytest.skip(missing)


@pytest.fixture(params=["triton", "mamba_ssm"])
def backend(request):
    need(request.param)
    return request.param


def arguments(batch, channels, states, length, seed=0):
    """Draw arguments as in a trained block: steps between 0.001 and 1, rates between 0.1 and 16."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    tensors = {
        "u": draw(batch, channels, length),
        "delta": draw(batch, channels, length) - 3,
        "A": -(1.5 * draw(channels, states)).exp().clamp(0.1, 16),
        "B": draw(batch, states, length),
        "C": draw(batch, states, length),
        "D": draw(channels),
        "z": draw(batch, channels, length),
        "delta_bias": draw(channels),
    }
    return {name: tensor.cuda().requires_grad_() for name, tensor in tensors.items()}


NEAR = 2e-5
"""Bounds relative to float64. Both backends use the hardware's exp2, whose error is about 2^-22 in every step."""


def run(tensors, backend, softplus=True):
    """Return the output, and the gradient of a fixed, uneven weighting of it at every argument."""
    y = selective_scan(**tensors, delta_softplus=softplus, backend=backend)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    gradients = torch.autograd.grad((y * weights).sum(), tensors.values())
    return {"y": y.detach(), **dict(zip(tensors, gradients, strict=True))}


def in_float64(tensors):
    return {name: tensor.detach().double().requires_grad_() for name, tensor in tensors.items()}


def assert_near(got, wanted, bound):
    """Return the norm of the difference relative to that of the expected value; only 0 is near 0."""
    least = torch.finfo(torch.float64).tiny
    found = {n: ((got[n] - value).norm() / value.norm().clamp(min=least)).item() for n, value in wanted.items()}
    assert all(error < bound for error in found.values()), found


def test_the_choice_on_this_machine():
    assert choose_backend("auto", torch.zeros(1, device="cuda")) in ("mamba_ssm", "triton", "chunked")


@pytest.mark.parametrize(
    ("batch", "channels", "states", "length"),
    [
        (1, 1, 1, 1),
        (2, 32, 16, 16),
        (3, 33, 16, 17),
        (1, 100, 5, 300),
        (2, 16, 40, 97),
        (40, 64, 16, 14),
        (1, 512, 16, 1000),
    ],
)
def test_equals_the_reference(backend, batch, channels, states, length):
    tensors = arguments(batch, channels, states, length)
    assert_near(run(tensors, backend), run(in_float64(tensors), "reference"), NEAR)


@pytest.mark.parametrize("absent", [(), ("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("softplus", [True, False])
def test_optional_arguments(backend, absent, softplus):
    tensors = {name: tensor for name, tensor in arguments(2, 40, 8, 50).items() if name not in absent}
    if not softplus:
        for name in {"delta", "delta_bias"} & tensors.keys():
            tensors[name] = tensors[name].detach().abs().mul(0.1).requires_grad_()
    assert_near(run(tensors, backend, softplus), run(in_float64(tensors), "reference", softplus), NEAR)


def test_a_long_sequence(backend):
    tensors = arguments(1, 64, 16, 16_384)
    assert_near(run(tensors, backend), run(in_float64(tensors), "chunked"), NEAR)


def test_a_bag_of_two_hundred_thousand(backend):
    """No array of length x channels x states is kept, which alone would be 16 tensors."""
    tensors = arguments(1, 512, 16, 200_000)
    weights = torch.randn_like(tensors["u"])
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    y = selective_scan(**tensors, delta_softplus=True, backend=backend)
    gradients = torch.autograd.grad(y, tensors.values(), weights)
    one = 4 * 512 * 200_000
    assert (torch.cuda.max_memory_allocated() - before) / one < 11
    assert all(value.isfinite().all() for value in (y, *gradients))
    few = {name: t.detach()[..., :2000] if t.ndim == 3 else t.detach() for name, t in tensors.items()}
    wanted = selective_scan(**{n: t.double() for n, t in few.items()}, delta_softplus=True, backend="chunked")
    torch.testing.assert_close(y[..., :2000].double(), wanted, rtol=1e-4, atol=1e-4)


def test_extreme_steps_and_rates():
    need("triton")
    steps = torch.tensor([-200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4])
    pairs = torch.cartesian_prod(steps, torch.tensor([0.0, -1e-12, -1.0, -1e4]))
    tensors = arguments(1, len(pairs), 1, 40)
    tensors["delta"] = pairs[:, :1].repeat(1, 40)[None].cuda().requires_grad_()
    tensors["A"] = pairs[:, 1:].cuda().requires_grad_()
    got, wanted = run(tensors, "triton"), run(in_float64(tensors), "reference")
    for name, value in wanted.items():
        assert got[name].isfinite().all(), name
        assert (got[name] - value).abs().max() / max(1.0, value.abs().max()) < 1e-4, name


def test_two_runs_agree_to_the_last_bit():
    need("triton")
    tensors = arguments(2, 100, 16, 1000)
    first, second = run(tensors, "triton"), run(tensors, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_two_of_a_gpu_agree():
    need("triton", "mamba_ssm")
    tensors = arguments(2, 256, 16, 3000)
    assert_near(run(tensors, "triton"), run(tensors, "mamba_ssm"), NEAR)


def test_the_block_is_that_of_a_cpu(backend):
    torch.manual_seed(0)
    block, tokens = Mamba(64, scan_backend=backend), torch.randn(2, 333, 64)
    y = block.cuda()(tokens.cuda())
    y.square().mean().backward()
    on_cpu = Mamba(64, scan_backend="reference").double()
    on_cpu.load_state_dict(block.state_dict())
    wanted = on_cpu(tokens.double())
    wanted.square().mean().backward()
    torch.testing.assert_close(y.cpu().double(), wanted, rtol=1e-3, atol=1e-5)
    for (name, got), right in zip(block.named_parameters(), on_cpu.parameters(), strict=True):
        scale = right.grad.abs().max()
        assert (got.grad.cpu() - right.grad).abs().max() / scale < 1e-3, name


def test_under_autocast(backend):
    tensors = arguments(1, 64, 16, 200)
    plain = run(tensors, backend)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        mixed = run(tensors, backend)
    assert_near(mixed, plain, 1e-6)
