"""The fusion loss equals its definition."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.model import ModelConfig
from memamba_core.model.mmd import MMD_BANDWIDTHS, squared_mmd
from memamba_core.model.synergistic import SynergisticExpert


def tokens(batch, length, seed, width=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, width, generator=generator, dtype=torch.float64)


def slow_mmd(first, second, weights):
    """Compute double loops over two lists of vectors, after Gretton et al. 2012, eq. 5."""

    def normalised(vector):
        return (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()

    first, second = [normalised(v) for v in first], [normalised(v) for v in second]
    pooled = [*first, *second]
    between = sorted(((a - b) @ (a - b)).item() for i, a in enumerate(pooled) for b in pooled[:i])
    median = between[(len(between) - 1) // 2]

    def kernel(a, b):
        return sum(torch.exp(-((a - b) @ (a - b)) / (c * median)) for c in MMD_BANDWIDTHS)

    within_first = sum(v * w * kernel(a, b) for v, a in zip(weights, first) for w, b in zip(weights, first))  # noqa: B905
    within_second = sum(kernel(a, b) for a in second for b in second) / len(second) ** 2
    across = sum(w * kernel(a, b) for w, a in zip(weights, first) for b in second) / len(second)  # noqa: B905
    return within_first + within_second - 2 * across


@settings(max_examples=15)
@given(length=st.integers(2, 7), others=st.integers(2, 5), seed=st.integers(0, 99), weighted=st.booleans())
def test_equals_the_double_loop(length, others, seed, weighted):
    first_BLD, second_BGD = tokens(2, length, seed), tokens(2, others, seed + 1)
    weights_BL = tokens(2, length, seed + 2, width=1)[..., 0].softmax(1) if weighted else None
    got_B = squared_mmd(first_BLD, second_BGD, weights_BL)
    for b in range(2):
        weights = [1 / length] * length if weights_BL is None else weights_BL[b]
        torch.testing.assert_close(got_B[b], slow_mmd(first_BLD[b], second_BGD[b], weights))
    assert (got_B > 0).all()


def test_the_kernel_sums_five_bandwidths():
    """By hand: all tokens of a set are equal, so m is the squared distance between the sets and k = sum exp(-1 / c)."""
    assert MMD_BANDWIDTHS == (4.0, 2.0, 1.0, 0.5, 0.25)
    first_BLD = torch.tensor([[[1.0, -1.0], [1.0, -1.0]]], dtype=torch.float64)
    across = math.exp(-1 / 4) + math.exp(-1 / 2) + math.exp(-1) + math.exp(-2) + math.exp(-4)
    assert squared_mmd(first_BLD, -first_BLD).item() == pytest.approx(2 * (5 - across), rel=1e-12)


def test_no_gradient_passes_through_the_bandwidth():
    """The slow twin takes its median as a number."""
    first_BLD, second_BGD = tokens(1, 6, 0).requires_grad_(), tokens(1, 4, 1)
    (got,) = torch.autograd.grad(squared_mmd(first_BLD, second_BGD).sum(), first_BLD)
    (wanted,) = torch.autograd.grad(slow_mmd(first_BLD[0], second_BGD[0], [1 / 6] * 6), first_BLD)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_between_identical_sets(dtype):
    same = tokens(3, 5, 0).to(dtype)
    assert squared_mmd(same, same.flip(1)).abs().max() < 50 * torch.finfo(dtype).eps


def test_zero_where_a_set_has_fewer_than_two_tokens():
    assert torch.equal(squared_mmd(tokens(2, 1, 0), tokens(2, 4, 1)), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(squared_mmd(tokens(2, 4, 0), tokens(2, 1, 1)), torch.zeros(2, dtype=torch.float64))


def test_grows_with_the_shift_between_the_sets():
    shift = torch.linspace(-1, 1, 6, dtype=torch.float64)
    near, middle, far = (squared_mmd(tokens(1, 40, 0), tokens(1, 40, 1) + s * shift).item() for s in (0.0, 1.0, 5.0))
    assert near < middle < far


def test_finite_when_all_tokens_are_equal():
    ones = torch.ones(1, 3, 6, requires_grad=True)
    value = squared_mmd(ones, torch.ones(1, 2, 6))
    value.sum().backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert ones.grad.isfinite().all()


def fusion_loss(training=False, seed=0, num_patches=50, **options):
    torch.manual_seed(0)
    config = ModelConfig(d_model=6, d_state=2, mmd_max_tokens=8, **options)
    expert = SynergisticExpert(config).double().train(training)
    torch.manual_seed(seed)
    return expert(tokens(1, num_patches, 3), tokens(1, 4, 4)).mmd_B


def test_long_bags_are_subsampled_evenly_in_evaluation_and_at_random_in_training():
    even = tokens(1, 50, 3)[:, [0, 6, 12, 18, 25, 31, 37, 43]]
    torch.testing.assert_close(fusion_loss(), squared_mmd(even, tokens(1, 4, 4)))
    assert torch.equal(fusion_loss(), fusion_loss(seed=1))
    assert torch.equal(fusion_loss(training=True, seed=1), fusion_loss(training=True, seed=1))
    assert not torch.equal(fusion_loss(training=True, seed=1), fusion_loss(training=True, seed=2))


def test_weighted_by_the_plan():
    """All of a few patches take part, and an evenly spread plan gives them equal weights."""
    assert not torch.allclose(fusion_loss(num_patches=7), fusion_loss(num_patches=7, mmd_tokens="plan"))
    spread = fusion_loss(num_patches=7, mmd_tokens="plan", transport_epsilon=1e6)
    torch.testing.assert_close(spread, fusion_loss(num_patches=7))
    assert fusion_loss(num_patches=50, mmd_tokens="plan").isfinite()
