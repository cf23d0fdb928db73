"""How exact products of matrices are: a region that says so, and what it costs."""

import copy

import pytest
import torch

from memamba_core.model.mamba import Mamba
from memamba_core.model.precision import matmul_precision


def test_a_region_ends_whatever_happens():
    def fail():
        with matmul_precision("medium"):
            assert torch.get_float32_matmul_precision() == "medium"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("name", "bound"), [("highest", 2e-6), ("high", 2e-6), ("medium", 1e-2)])
def test_the_error_that_the_docs_state(name, bound):
    """Of output and every gradient of a block, relative to float64. Without units for bfloat16 all three are exact."""
    torch.manual_seed(0)
    block, tokens_BLD, weights_BLD = Mamba(128), torch.randn(1, 500, 128), torch.randn(1, 500, 128)

    def run(block, tokens_BLD):
        y_BLD = block(tokens_BLD)
        return [y_BLD, *torch.autograd.grad((y_BLD * weights_BLD).sum(), list(block.parameters()))]

    with matmul_precision(name):
        got = run(block, tokens_BLD)
    for value, wanted in zip(got, run(copy.deepcopy(block).double(), tokens_BLD.double()), strict=True):
        assert (value - wanted).norm() < bound * wanted.norm()
