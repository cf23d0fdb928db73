"""Transport plans: marginals, signs, costs, limits, and tokens carried along them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memamba_core.config.model import ModelConfig
from memamba_core.errors import ConfigError
from memamba_core.model.transport import barycentric_projection, cosine_cost, relaxed_plan, transport_plan

ot = pytest.importorskip("ot")


def cost(num_patches=7, num_genes=4, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    patches_BPD = torch.randn(batch, num_patches, 5, generator=generator, dtype=torch.float64)
    genes_BGD = torch.randn(batch, num_genes, 5, generator=generator, dtype=torch.float64)
    return cosine_cost(patches_BPD, genes_BGD)


def plan_of(method, cost_BPG, **options):
    return transport_plan(cost_BPG, ModelConfig(transport=method, **options))


def expense(plan_BPG, cost_BPG):
    return (plan_BPG * cost_BPG).sum((1, 2))


def test_cost_is_one_minus_cosine():
    patches_BPD = torch.tensor([[[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    genes_BGD = torch.tensor([[[3.0, 0.0], [-1.0, 0.0]]])
    wanted = torch.tensor([[[0.0, 2.0], [1.0, 1.0], [1 - 0.5**0.5, 1 + 0.5**0.5]]])
    torch.testing.assert_close(cosine_cost(patches_BPD, genes_BGD), wanted)


@settings(max_examples=10)
@given(sizes=st.tuples(st.integers(1, 9), st.integers(1, 6)), seed=st.integers(0, 99))
@pytest.mark.parametrize(("method", "atol"), [("sinkhorn", 1e-3), ("exact", 1e-9)])
def test_both_marginals(method, atol, sizes, seed):
    """Sinkhorn keeps one marginal exactly and approaches the other; if that is slow, its iterations end before."""
    plan_BPG = plan_of(method, cost(*sizes, seed=seed))
    assert plan_BPG.min() >= 0
    torch.testing.assert_close(plan_BPG.sum(2), torch.full_like(plan_BPG[:, :, 0], 1 / sizes[0]), atol=atol, rtol=0)
    torch.testing.assert_close(plan_BPG.sum(1), torch.full_like(plan_BPG[:, 0], 1 / sizes[1]), atol=atol, rtol=0)


@pytest.mark.parametrize(("anchor", "kept"), [("genes", 1), ("patches", 2)])
def test_relaxed_keeps_the_anchors_marginal(anchor, kept):
    plan_BPG = relaxed_plan(cost(), 0.1, anchor)
    assert plan_BPG.min() >= 0
    marginal = plan_BPG.sum(kept)
    torch.testing.assert_close(marginal, torch.full_like(marginal, 1 / marginal.shape[1]))


def test_unbalanced_nears_both_marginals_as_the_relaxation_ends():
    far, near = ((plan_of("unbalanced", cost(), transport_marginal=m).sum(2) - 1 / 7).abs().max() for m in (0.1, 100.0))
    assert near < 1e-2 < far
    assert plan_of("unbalanced", cost()).min() >= 0


def test_unbalanced_leaves_an_outlier_patch_out():
    genes_BGD = torch.tensor([[[1.0, 0.1], [1.0, -0.1]]])
    patches_BPD = torch.tensor([[[1.0, 0.0], [1.0, 0.05], [-1.0, 0.0]]])  # the last points the other way
    plan_BPG = plan_of("unbalanced", cosine_cost(patches_BPD, genes_BGD), transport_marginal=0.1)
    assert plan_BPG[0, 2].sum() < 0.1 * plan_BPG[0, 0].sum()


def test_costs_are_ordered_and_exact_is_the_cheapest_balanced_plan():
    cost_BPG = cost()
    exact = expense(plan_of("exact", cost_BPG), cost_BPG)
    for b in range(2):
        linear_program = ot.emd2([1 / 7] * 7, [1 / 4] * 4, cost_BPG[b].numpy())
        assert exact[b].item() == pytest.approx(linear_program)
    sinkhorn = expense(plan_of("sinkhorn", cost_BPG), cost_BPG)
    relaxed = expense(plan_of("relaxed", cost_BPG, transport_epsilon=1e-3), cost_BPG)
    assert (relaxed <= exact + 1e-9).all()  # one constraint fewer
    assert (exact <= sinkhorn + 1e-9).all()


def test_sinkhorn_tends_to_exact():
    cost_BPG = cost()
    exact = expense(plan_of("exact", cost_BPG), cost_BPG)
    gaps = [
        (expense(plan_of("sinkhorn", cost_BPG, transport_epsilon=e), cost_BPG) - exact).max() for e in (0.5, 0.1, 0.02)
    ]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-2


@pytest.mark.parametrize(("anchor", "other"), [("genes", 1), ("patches", 2)])
def test_relaxed_tends_to_the_nearest(anchor, other):
    cost_BPG = cost()
    plan_BPG = relaxed_plan(cost_BPG, 1e-5, anchor)
    nearest = torch.zeros_like(plan_BPG).scatter(other, cost_BPG.argmin(other, keepdim=True), 1.0)
    torch.testing.assert_close(plan_BPG, nearest / nearest.sum((1, 2), keepdim=True))


def test_relaxed_solves_its_problem():
    """No other plan with that marginal has a lower <plan, cost> - epsilon x entropy."""
    cost_BPG, epsilon = cost(), 0.1

    def objective(plan_BPG):
        return expense(plan_BPG, cost_BPG) + epsilon * (plan_BPG * plan_BPG.log()).sum((1, 2))

    best_BPG = relaxed_plan(cost_BPG, epsilon)
    for seed in range(5):
        noise_BPG = torch.randn(best_BPG.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other_BPG = best_BPG * (0.1 * noise_BPG).exp()
        other_BPG = other_BPG / other_BPG.sum(1, keepdim=True) / 4
        assert (objective(other_BPG) > objective(best_BPG)).all()


def test_only_relaxed_is_differentiable():
    cost_BPG = cost().requires_grad_()
    assert plan_of("relaxed", cost_BPG).requires_grad
    assert not any(plan_of(method, cost_BPG).requires_grad for method in ("sinkhorn", "unbalanced", "exact"))
    assert torch.autograd.gradcheck(lambda c: relaxed_plan(c, 0.3), cost_BPG)


def test_exact_has_a_limit():
    with pytest.raises(ConfigError, match=r"7 x 4 pairs of tokens; expected at most 27\. Set transport=relaxed"):
        plan_of("exact", cost(), transport_exact_limit=27)


def slow_unbalanced(cost_PG, epsilon, marginal):
    """Alternate updates of the two potentials in the log domain (Chizat et al. 2018)."""
    num_patches, num_genes = cost_PG.shape
    f_P, g_G, damping = cost_PG.new_zeros(num_patches), cost_PG.new_zeros(num_genes), marginal / (marginal + epsilon)
    for _ in range(2000):
        f_P = -damping * epsilon * (((g_G - cost_PG) / epsilon).logsumexp(1) - math.log(num_genes))
        g_G = -damping * epsilon * (((f_P[:, None] - cost_PG) / epsilon).logsumexp(0) - math.log(num_patches))
    return ((f_P[:, None] + g_G - cost_PG) / epsilon).exp() / (num_patches * num_genes)


@pytest.mark.parametrize("epsilon", [1.0, 0.1, 0.01, 0.003])
def test_unbalanced_equals_the_log_domain(epsilon):
    cost_BPG = cost(seed=1)
    plan_BPG = plan_of("unbalanced", cost_BPG, transport_epsilon=epsilon)
    for b in range(2):
        torch.testing.assert_close(plan_BPG[b], slow_unbalanced(cost_BPG[b], epsilon, 1.0), rtol=0, atol=2e-4)


@pytest.mark.parametrize("epsilon", [0.003, 0.1])
def test_unbalanced_is_a_plan_where_everything_points_the_other_way(epsilon):
    """With the highest cost and the least relaxation, the plan carries almost no mass and still spreads it evenly."""
    cost_BPG = torch.full((1, 50, 6), 2.0, dtype=torch.float64)
    plan_BPG = plan_of("unbalanced", cost_BPG, transport_epsilon=epsilon, transport_marginal=0.01)
    assert 0 < plan_BPG.sum() < 1e-6
    torch.testing.assert_close(plan_BPG / plan_BPG.sum(), torch.full_like(plan_BPG, 1 / 300))


def test_unbalanced_refuses_an_epsilon_that_underflows():
    with pytest.raises(ValueError, match=r"transport=unbalanced needs transport_epsilon >= 0\.003"):
        plan_of("unbalanced", cost(), transport_epsilon=1e-4)


@pytest.mark.parametrize("method", ["relaxed", "sinkhorn", "unbalanced", "exact"])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (5, 1)])
def test_single_tokens(method, sizes):
    plan_BPG = plan_of(method, cost(*sizes))
    assert plan_BPG.isfinite().all()
    assert (plan_BPG > 0).all()


def test_carry_is_the_weighted_mean():
    plan_BPG = torch.tensor([[[0.3, 0.0], [0.1, 0.6]]])
    patches_BPD = torch.tensor([[[4.0], [8.0]]])
    torch.testing.assert_close(barycentric_projection(plan_BPG, patches_BPD, "genes"), torch.tensor([[[5.0], [8.0]]]))
    genes_BGD = torch.tensor([[[7.0], [14.0]]])
    torch.testing.assert_close(barycentric_projection(plan_BPG, genes_BGD, "patches"), torch.tensor([[[7.0], [13.0]]]))


def test_carry_without_mass_gives_zeros():
    carried = barycentric_projection(torch.zeros(1, 2, 1), torch.ones(1, 2, 3), "genes")
    assert torch.equal(carried, torch.zeros(1, 1, 3))
