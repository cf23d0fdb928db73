"""Likelihood, against a slow twin that multiplies probabilities."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memamba_core.survival import hazards_from_logits, nll_loss, survival_from_logits

NUM_BINS = 4
PATIENTS = st.lists(
    st.tuples(
        st.lists(st.floats(-6, 6), min_size=NUM_BINS, max_size=NUM_BINS),
        st.integers(0, NUM_BINS - 1),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)
CENSORED_BIN = st.sampled_from(["through", "before"])


def _tensors(patients):
    logits, time_bins, events = zip(*patients, strict=True)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(time_bins), torch.tensor(events)


def _slow_nll(patients, alpha=0.0, censored_bin="through") -> list[float]:
    """Compute minus the log of the probability of each patient's outcome."""
    losses = []
    for logits, time_bin, event in patients:
        hazards = [1 / (1 + math.exp(-logit)) for logit in logits]
        survived = time_bin if event or censored_bin == "before" else time_bin + 1
        probability = math.prod(1 - h for h in hazards[:survived])
        if event:
            probability *= hazards[time_bin]
        nll = -math.log(probability)
        losses.append((1 - alpha) * nll + alpha * (nll if event else 0.0))
    return losses


@given(PATIENTS, st.floats(0, 1), CENSORED_BIN)
def test_loss_is_minus_the_log_probability_of_what_was_seen(patients, alpha, censored_bin):
    loss = nll_loss(*_tensors(patients), alpha=alpha, censored_bin=censored_bin, reduction="none")
    expected = torch.tensor(_slow_nll(patients, alpha, censored_bin), dtype=torch.float64)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)


@given(PATIENTS)
def test_loss_fits_hazards_and_survival(patients):
    logits_BK, time_bins, events = _tensors(patients)
    survival_BK, hazards_BK = survival_from_logits(logits_BK), hazards_from_logits(logits_BK)
    loss = nll_loss(logits_BK, time_bins, events, reduction="none")
    for b, (k, event) in enumerate(zip(time_bins.tolist(), events.tolist(), strict=True)):
        before = survival_BK[b, k - 1] if k else torch.tensor(1.0, dtype=torch.float64)
        seen = before * hazards_BK[b, k] if event else survival_BK[b, k]
        torch.testing.assert_close(loss[b], -seen.log())


@given(PATIENTS, st.floats(0, 1), CENSORED_BIN)
def test_reductions_agree(patients, alpha, censored_bin):
    tensors = _tensors(patients)
    each, total, mean = (
        nll_loss(*tensors, alpha=alpha, censored_bin=censored_bin, reduction=reduction)
        for reduction in ("none", "sum", "mean")
    )
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(total / len(patients), mean)


def test_probabilities_of_all_outcomes_add_up_to_one():
    # An event in one of the bins, or survival of all bins: there is no other outcome.
    logits_BK = torch.randn(1, NUM_BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bins = torch.tensor([*range(NUM_BINS), NUM_BINS - 1])
    events = torch.tensor([True] * NUM_BINS + [False])
    loss = nll_loss(logits_BK.expand(NUM_BINS + 1, -1), bins, events, reduction="none")
    torch.testing.assert_close(torch.exp(-loss).sum(), torch.tensor(1.0, dtype=torch.float64))


@pytest.mark.parametrize("censored_bin", ["through", "before"])
@pytest.mark.parametrize("event", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_badly_wrong_patient_still_has_a_finite_gradient(dtype, event, censored_bin):
    # A certain survivor dies, or a certain death does not happen.
    logits_BK = torch.full((1, NUM_BINS), -80.0 if event else 80.0, dtype=dtype, requires_grad=True)
    loss = nll_loss(logits_BK, torch.tensor([2]), torch.tensor([event]), censored_bin=censored_bin)
    loss.backward()
    assert loss.dtype == dtype
    assert loss.isfinite()
    assert logits_BK.grad is not None
    assert torch.isfinite(logits_BK.grad).all()
    assert logits_BK.grad.abs().sum() >= 1


@pytest.mark.parametrize("censored_bin", ["through", "before"])
def test_a_batch_without_an_event_stays_on_the_graph(censored_bin):
    logits_BK = torch.zeros(2, NUM_BINS, requires_grad=True)
    loss = nll_loss(logits_BK, torch.tensor([0, 3]), torch.tensor([False, False]), alpha=1.0, censored_bin=censored_bin)
    loss.backward()
    assert logits_BK.grad is not None
    assert loss.item() == 0.0  # alpha=1 leaves only patients with an event


def test_gradients_are_those_of_finite_differences():
    logits_BK = torch.randn(6, NUM_BINS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    time_bins, events = (
        torch.tensor([0, 1, 2, 3, 0, 3]),
        torch.tensor([True, False, True, True, False, False]),
    )
    assert torch.autograd.gradcheck(
        lambda logits: nll_loss(logits, time_bins, events, alpha=0.3), logits_BK.requires_grad_()
    )


def test_the_mean_of_nobody_is_refused_and_their_sum_is_zero():
    nobody = torch.zeros(0, NUM_BINS), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
    with pytest.raises(ValueError, match="no patients"):
        nll_loss(*nobody)
    assert nll_loss(*nobody, reduction="sum").item() == 0.0


def test_a_bin_that_does_not_exist_is_an_error():
    for time_bin in (NUM_BINS, -1):
        with pytest.raises((RuntimeError, IndexError)):
            nll_loss(torch.zeros(1, NUM_BINS), torch.tensor([time_bin]), torch.tensor([False]))
