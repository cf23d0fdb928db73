"""Half precision in a Mamba block: the plain path is as accurate as the compiled one where both compute the same."""

import copy

import pytest
import torch
from torch.nn import functional as F

from memamba_core.model import mamba
from memamba_core.model.convolution import causal_conv
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import selective_scan
from memamba_core.model.scan.cpu.convolution_function import conv_forward


def relative_error(got, wanted):
    return ((got - wanted).norm() / wanted.norm()).item()


def outputs(block, tokens_BLD):
    """Return the output, and the gradient of an uneven weighting of it at all parameters, by name."""
    y_BLD = block(tokens_BLD)
    weights = torch.randn(y_BLD.shape, generator=torch.Generator().manual_seed(1)).to(y_BLD.dtype)
    names = [name for name, _ in block.named_parameters()]
    gradients = torch.autograd.grad((y_BLD * weights).sum(), list(block.parameters()))
    return {"y": y_BLD.detach(), **dict(zip(names, gradients, strict=True))}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_plain_convolution_is_as_accurate_as_the_compiled_one_in_half_precision(dtype):
    """Both paths compute convolution and SiLU of half-precision inputs in float32."""
    pytest.importorskip("numba")
    x_BLE, weight_E1W, bias_E = torch.randn(2, 50, 20).to(dtype), torch.randn(20, 1, 4), torch.randn(20)
    wanted = F.silu(causal_conv(x_BLE.double(), weight_E1W.double(), bias_E.double()))
    plain = F.silu(causal_conv(x_BLE, weight_E1W, bias_E))
    assert plain.dtype == torch.float32
    assert relative_error(plain, wanted) < 3e-7
    assert relative_error(conv_forward(x_BLE.float(), weight_E1W, bias_E), wanted) < 3e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_the_scan_of_the_plain_path_reads_float32(dtype, monkeypatch):
    seen = []

    def spy(u, *arguments, **options):
        seen.append(u.detach().transpose(1, 2))
        return selective_scan(u, *arguments, **options)

    monkeypatch.setattr(mamba, "selective_scan", spy)
    block, tokens_BLD = Mamba(16, scan_backend="chunked"), torch.randn(2, 40, 16)
    with torch.autocast("cpu", dtype=dtype):
        x_BLE = block.in_proj(tokens_BLD).chunk(2, dim=2)[0]
        got = outputs(block, tokens_BLD)
    assert x_BLE.dtype == dtype
    assert torch.equal(seen[0], F.silu(causal_conv(x_BLE.float(), block.conv1d.weight, block.conv1d.bias)))
    for name, value in outputs(block, tokens_BLD).items():
        assert relative_error(got[name], value) < 0.03, name


def test_a_block_in_half_precision_runs_on_the_plain_path():
    block, tokens_BLD = Mamba(16), torch.randn(2, 40, 16)
    wanted = outputs(block, tokens_BLD)
    got = outputs(copy.deepcopy(block).bfloat16(), tokens_BLD.bfloat16())
    assert got["y"].dtype == torch.bfloat16
    assert relative_error(got["y"].float(), wanted["y"]) < 0.03
