"""Precision of matrix products: the region that sets it, and the errors of each setting."""

import copy

import pytest
import torch

from memamba_core.model.attention import GatedAttention, attention_pool
from memamba_core.model.branches import LinearSkip
from memamba_core.model.mamba import Mamba
from memamba_core.model.mmd import squared_mmd
from memamba_core.model.precision import matmul_precision
from memamba_core.model.transport import barycentric_projection, cosine_cost, relaxed_plan


def test_a_region_ends_whatever_happens():
    def fail():
        with matmul_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"


def _skip(columns_BC):
    skip = LinearSkip(16)
    torch.nn.init.constant_(skip.weight, 0.3)
    return skip(columns_BC)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: attention_pool(a, b[..., 0]),
        cosine_cost,
        lambda a, b: barycentric_projection(relaxed_plan(cosine_cost(a, b), 0.1), a, "genes"),
        squared_mmd,
        lambda a, b: _skip(a[0]),
        lambda a, b: GatedAttention(16)(a),
    ],
    ids=["pool", "cost", "carried", "mmd", "skip", "scores"],
)
def test_autocast_does_not_reach_sums_and_sort_keys(function):
    a_BLD, b_BLD = torch.randn(2, 3, 40, 16, generator=torch.Generator().manual_seed(0))

    def run():
        torch.manual_seed(0)
        return function(a_BLD, b_BLD)

    with torch.autocast("cpu", torch.bfloat16):
        got = run()
        assert (a_BLD @ b_BLD.mT).dtype == torch.bfloat16
    assert got.dtype == torch.float32
    assert torch.equal(got, run())


@pytest.mark.parametrize(("name", "bound"), [("highest", 2e-6), ("high", 2e-6), ("medium", 1e-2)])
def test_the_error_that_the_docs_state(name, bound):
    """Errors of a block's output and gradients, relative to float64. Without bfloat16 units all three are exact."""
    torch.manual_seed(0)
    block, tokens_BLD, weights_BLD = Mamba(128), torch.randn(1, 500, 128), torch.randn(1, 500, 128)

    def run(block, tokens_BLD):
        y_BLD = block(tokens_BLD)
        return [y_BLD, *torch.autograd.grad((y_BLD * weights_BLD).sum(), list(block.parameters()))]

    with matmul_precision(name):
        got = run(block, tokens_BLD)
    for value, wanted in zip(got, run(copy.deepcopy(block).double(), tokens_BLD.double()), strict=True):
        assert (value - wanted).norm() < bound * wanted.norm()
