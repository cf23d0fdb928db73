"""Renyi divergences against another program (Google's dp-accounting), and their conversion to epsilon."""

import pytest

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.privacy.accounting import epsilon_of
from memamba_core.privacy.noisy_step import NoisyStep
from memamba_core.privacy.renyi import ORDERS, best_order, epsilon_by_renyi, renyi_budget, renyi_cost

KINDS = [
    (NoisyStep(1.27, 0.9), 5),
    (NoisyStep(2.0, 0.5), 40),
    (NoisyStep(0.94, 0.0533), 380),
    (NoisyStep(0.8, 0.01), 900),
]


def by_google(kinds, orders):
    dp = pytest.importorskip("dp_accounting")
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders, dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for step, count in kinds:
        event = dp.PoissonSampledDpEvent(step.sampling_rate, dp.GaussianDpEvent(step.noise_multiplier))
        accountant.compose(dp.SelfComposedDpEvent(event, count))
    return accountant


@pytest.mark.parametrize("kinds", [KINDS[:1], KINDS[1:2], KINDS[2:3], KINDS])
def test_divergences_and_epsilon_are_those_of_another_program(kinds):
    orders = [2, 3, 4, 8, 16, 32]
    theirs = by_google(kinds, orders)
    for order, wanted in zip(orders, theirs._rdp, strict=True):
        assert renyi_cost(kinds, order) == pytest.approx(wanted, rel=1e-6)
    assert epsilon_by_renyi(kinds, 1e-5) == pytest.approx(by_google(kinds, list(ORDERS)).get_epsilon(1e-5), abs=1e-6)


def test_a_budget_is_the_divergence_that_means_epsilon():
    spent = [(NoisyStep(2.0, 0.5), 40)]
    epsilon = epsilon_by_renyi(spent, 1e-5)
    assert min(renyi_budget(order, epsilon, 1e-5) - renyi_cost(spent, order) for order in ORDERS) <= 0
    assert max(renyi_budget(order, epsilon, 1e-5) - renyi_cost(spent, order) for order in ORDERS) == pytest.approx(0)


@pytest.mark.parametrize(("step", "count"), KINDS)
def test_the_best_order_fits_most_steps(step, count):
    epsilon = epsilon_of([(step, count)], 1e-5)
    fits = {order: renyi_budget(order, epsilon, 1e-5) / renyi_cost([(step, 1)], order) for order in ORDERS}
    assert fits[best_order(step, epsilon, 1e-5)] == max(fits.values())
    assert 0.4 * count < max(fits.values()) < count  # PRV is tighter, and not by much
