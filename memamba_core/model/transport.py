"""Optimal transport between patch tokens and gene tokens: a cost, a plan, and tokens carried along the plan.

The abstract of ME-Mamba (arXiv 2509.16900) says that it finds token-level correspondences by optimal transport. The
cost and the choice of plans are this project's.
"""

import warnings
from typing import Final, Literal, assert_never

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from memamba_core.config.model import ModelConfig
from memamba_core.errors import ConfigError
from memamba_core.model.precision import at_least_float32, no_autocast

__all__ = ["barycentric_projection", "cosine_cost", "relaxed_plan", "transport_plan"]

Anchor = Literal["genes", "patches"]

_MAX_ITERATIONS: Final = 1000
# Sinkhorn stops when the error of the marginals is below this; the plan is then used in float32.
_MARGINAL_TOLERANCE: Final = 1e-8


def cosine_cost(
    patch_tokens_BPD: Float[Tensor, "B P D"], gene_tokens_BGD: Float[Tensor, "B G D"]
) -> Float[Tensor, "B P G"]:
    """Return 1 - cosine of every patch token with every gene token, in [0, 2]; 1 if one of the two is zero."""
    with no_autocast(patch_tokens_BPD.device):
        patches_BPD = F.normalize(at_least_float32(patch_tokens_BPD), dim=2)
        genes_BGD = F.normalize(at_least_float32(gene_tokens_BGD), dim=2)
        return 1 - patches_BPD @ genes_BGD.mT


def transport_plan(cost_BPG: Float[Tensor, "B P G"], config: ModelConfig) -> Float[Tensor, "B P G"]:
    """Compute the mass between each patch token and each gene token; the total is 1, except for `unbalanced`.

    `relaxed` is differentiable. The other plans come from POT (Flamary et al. 2021) and pass no gradient to the cost:
    differentiating through a thousand iterations exhausts memory. If the iterations of an entropic plan end before
    convergence, the last plan is used.

    Raises:
        ConfigError: the plan is `exact` and there are more than `transport_exact_limit` pairs.
    """
    if config.transport == "relaxed":
        return relaxed_plan(cost_BPG, config.transport_epsilon, config.anchor)
    with torch.no_grad():
        plans = [_solve(cost_PG, config) for cost_PG in cost_BPG.double().unbind(0)]
        return torch.stack(plans).to(cost_BPG.dtype)


def relaxed_plan(cost_BPG: Float[Tensor, "B P G"], epsilon: float, anchor: Anchor = "genes") -> Float[Tensor, "B P G"]:
    """Compute the entropic plan that keeps the anchor's uniform marginal and leaves the other marginal free.

    The plan minimises <plan, cost> - epsilon x entropy(plan) under that one constraint. The problem separates by anchor
    token: each has a softmax of -cost / epsilon over the tokens of the other side. As epsilon goes to 0, each anchor
    token receives its nearest token; as epsilon grows, the mean of all.
    """
    own, other = (2, 1) if anchor == "genes" else (1, 2)
    return (-cost_BPG / epsilon).softmax(dim=other) / cost_BPG.shape[own]


def barycentric_projection(
    plan_BPG: Float[Tensor, "B P G"], other_BMD: Float[Tensor, "B M D"], anchor: Anchor
) -> Float[Tensor, "B A D"]:
    """Return, for each anchor token, the mean of the other side's tokens weighted by the plan.

    Args:
        plan_BPG: a plan.
        other_BMD: the tokens to carry: the patches if the anchor is `genes`, the genes if it is `patches`.
        anchor: the side to which they are carried, with A tokens. An anchor token without mass receives zeros.
    """
    plan_BAM = plan_BPG.mT if anchor == "genes" else plan_BPG
    with no_autocast(plan_BPG.device):
        # The plan is divided before the tokens are weighted, so that tiny masses stay in proportion.
        mass_BA1 = plan_BAM.sum(2, keepdim=True).clamp_min(torch.finfo(plan_BPG.dtype).tiny)
        return (plan_BAM / mass_BA1) @ at_least_float32(other_BMD)


def _solve(cost_PG: Tensor, config: ModelConfig) -> Tensor:
    """Solve one patient's plan by POT, in float64, with uniform marginals."""
    import ot  # here, because the import takes seconds

    num_patches, num_genes = cost_PG.shape
    patches_P = cost_PG.new_full((num_patches,), 1 / num_patches)
    genes_G = cost_PG.new_full((num_genes,), 1 / num_genes)
    epsilon = config.transport_epsilon
    plan_PG: Tensor
    match config.transport:
        case "sinkhorn":
            plan_PG = ot.sinkhorn(
                patches_P,
                genes_G,
                cost_PG,
                epsilon,
                method="sinkhorn_log",
                numItermax=_MAX_ITERATIONS,
                stopThr=_MARGINAL_TOLERANCE,
                warn=False,
            )
        case "unbalanced":
            with warnings.catch_warnings():  # this function has no `warn=False` for an early end
                warnings.simplefilter("ignore", UserWarning)
                # Not POT's `sinkhorn_stabilized`: at epsilon 0.01 its plans have a total mass of 0, 231 or 1e39.
                plan_PG = ot.unbalanced.sinkhorn_unbalanced(
                    patches_P,
                    genes_G,
                    cost_PG,
                    epsilon,
                    config.transport_marginal,
                    method="sinkhorn_translation_invariant",
                    numItermax=_MAX_ITERATIONS,
                    stopThr=_MARGINAL_TOLERANCE,
                )
        case "exact":
            if num_patches * num_genes > config.transport_exact_limit:
                raise ConfigError(
                    f"transport is exact, and a patient has {num_patches} x {num_genes} pairs of tokens; expected at "
                    f"most {config.transport_exact_limit}. Set transport=relaxed, or use fewer patches."
                )
            plan_PG = ot.emd(patches_P, genes_G, cost_PG)
        case "relaxed":
            raise AssertionError("relaxed has a closed form; relaxed_plan computes it")
        case _:
            assert_never(config.transport)
    return plan_PG
