"""Hazards, survival and risk, against the plain product of probabilities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.survival import hazards_from_logits, risk_from_logits, survival_from_logits

LOGITS = st.integers(1, 7).flatmap(
    lambda num_bins: st.lists(st.lists(st.floats(-8, 8), min_size=num_bins, max_size=num_bins), min_size=1, max_size=5)
)


def _slow_survival(logits_BK: torch.Tensor) -> torch.Tensor:
    """Multiply the shares that survive each bin, as the definition says."""
    survival_BK = torch.empty_like(logits_BK)
    for b, logits in enumerate(logits_BK.tolist()):
        alive = 1.0
        for k, logit in enumerate(logits):
            alive *= 1 - 1 / (1 + math.exp(-logit))
            survival_BK[b, k] = alive
    return survival_BK


@given(LOGITS)
def test_survival_is_the_product_of_what_each_hazard_leaves(logits):
    logits_BK = torch.tensor(logits, dtype=torch.float64)
    survival_BK = survival_from_logits(logits_BK)
    torch.testing.assert_close(survival_BK, _slow_survival(logits_BK))
    torch.testing.assert_close(survival_BK, torch.cumprod(1 - hazards_from_logits(logits_BK), dim=1))


@given(LOGITS)
def test_survival_never_rises_and_risk_stays_in_its_range(logits):
    logits_BK = torch.tensor(logits, dtype=torch.float32)
    survival_BK = survival_from_logits(logits_BK)
    assert (survival_BK.diff(dim=1) <= 0).all()
    assert ((survival_BK >= 0) & (survival_BK <= 1)).all()
    risk_B = risk_from_logits(logits_BK)
    assert ((risk_B >= -logits_BK.shape[1]) & (risk_B <= 0)).all()


@given(LOGITS, st.data())
def test_a_higher_hazard_in_any_bin_is_a_higher_risk(logits, data):
    logits_BK = torch.tensor(logits, dtype=torch.float64)
    k = data.draw(st.integers(0, logits_BK.shape[1] - 1))
    worse_BK = logits_BK.clone()
    worse_BK[:, k] += 1
    assert (risk_from_logits(worse_BK) > risk_from_logits(logits_BK)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dtype_is_kept(dtype):
    logits_BK = torch.zeros(2, 3, dtype=dtype)
    assert hazards_from_logits(logits_BK).dtype == dtype
    assert survival_from_logits(logits_BK).dtype == dtype
    assert risk_from_logits(logits_BK).dtype == dtype
    assert risk_from_logits(logits_BK).shape == (2,)


def test_extreme_logits_are_finite_and_have_finite_gradients():
    logits_BK = torch.tensor([[-1e4, 1e4, -1e4], [90.0, 90.0, 90.0], [-90.0, 0.0, 20.0]], requires_grad=True)
    risk_B = risk_from_logits(logits_BK)
    assert torch.allclose(risk_B.detach()[:2], torch.tensor([-1.0, 0.0]))
    risk_B.sum().backward()
    assert logits_BK.grad is not None
    assert torch.isfinite(logits_BK.grad).all()
    assert logits_BK.grad[2, 2] > 0  # 1 - sigmoid(20) is 0 in float32, but the gradient is not


def test_no_patients_give_no_risks():
    assert risk_from_logits(torch.zeros(0, 4)).shape == (0,)
