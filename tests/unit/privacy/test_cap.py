"""Cap of a ledger: a plan that costs all of it runs to its end; adaptively chosen plans never exceed it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("opacus", reason="differential privacy needs the extra `privacy`")

from memamba_core.config.compose import compose_experiment
from memamba_core.errors import BudgetError
from memamba_core.privacy.accounting import calibrate_noise, epsilon_of
from memamba_core.privacy.cap import Cap
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.noisy_step import NoisyStep
from memamba_core.privacy.plan import plan_of
from memamba_core.privacy.renyi import renyi_budget, renyi_cost

DELTA = 1e-5
STEP = NoisyStep(1.27, 0.9)  # of the default plan: five steps cost epsilon 8
OTHER = NoisyStep(3.0, 0.5)


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path, "st-elsewhere", DELTA)


def charged(ledger, run, step, rounds, cap=8.0, planned=None):
    """Charge rounds of one step until the cap refuses one; return how many were charged."""
    for server_round in range(1, rounds + 1):
        try:
            ledger.charge(run, server_round, step, 1, cap, planned or rounds)
        except BudgetError:
            return server_round - 1
    return rounds


def test_the_default_run_ends_under_a_cap_of_its_own_epsilon(ledger):
    plan = plan_of(compose_experiment(["privacy=dp_sgd"]))
    assert plan.epsilon == 8.0
    assert charged(ledger, "run", plan.step, plan.num_steps, plan.epsilon) == plan.num_steps
    assert 7.9 < ledger.epsilon() <= 8.0
    assert charged(ledger, "another", plan.step, 1) == 0


def test_what_an_interrupted_run_left_is_for_steps_of_its_kind(ledger):
    assert charged(ledger, "run", STEP, 2, planned=5) == 2
    assert charged(ledger, "other noise", NoisyStep(1.28, 0.9), 1) == 0
    assert charged(ledger, "much noise", NoisyStep(900.0, 0.01), 1) == 0
    assert charged(ledger, "again", STEP, 5) == 3


def test_a_plan_that_leaves_room_leaves_it_for_any_kind(ledger):
    assert charged(ledger, "run", NoisyStep(2.25, 0.9), 5) == 5  # epsilon 4
    assert charged(ledger, "another", OTHER, 5) == 5
    assert charged(ledger, "third", NoisyStep(2.25, 0.9), 5) == 5
    assert charged(ledger, "fourth", NoisyStep(2.25, 0.9), 5) < 5
    assert ledger.epsilon() <= 8.0


def test_a_plan_beyond_the_cap_gets_what_the_filter_admits(ledger):
    """PRV would admit five steps of this kind; the plan of a hundred was not among those it is proven for."""
    assert charged(ledger, "run", STEP, 100) == 4


@given(
    runs=st.lists(
        st.tuples(st.sampled_from([0.8, 1.27, 2.0, 5.0]), st.sampled_from([0.05, 0.5, 0.9]), st.integers(1, 9))
    ),
    cap=st.sampled_from([1.0, 4.0, 8.0]),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_choice_of_plans_exceeds_the_budget_of_one_order(tmp_path_factory, runs, cap):
    """The condition of the theorem, for every history: one order, fixed with the first charge, and one budget."""
    book = Ledger(tmp_path_factory.mktemp("ledger"), "st-elsewhere", DELTA)
    for number, (noise, rate, rounds) in enumerate(runs):
        charged(book, f"run-{number}", NoisyStep(noise, rate), rounds, cap)
    charges = book.charges()
    if not charges:
        return
    (order,) = {charge.order for charge in charges}
    spent = [charge.spent for charge in charges]
    if renyi_cost(spent, order) > renyi_budget(order, cap, DELTA):
        assert len({step for step, _ in spent}) == 1
        assert sum(count for _, count in spent) <= charges[0].planned_steps
        assert epsilon_of([(spent[0][0], charges[0].planned_steps)], DELTA) <= cap
    assert book.epsilon() <= cap


def test_the_order_stays_when_the_cap_is_changed(ledger):
    charged(ledger, "run", OTHER, 3, cap=8.0)
    (first,) = {charge.order for charge in ledger.charges()}
    assert Cap.choose(OTHER, 3, 2.0, DELTA).order != first
    charged(ledger, "more", OTHER, 3, cap=2.0)
    charged(ledger, "yet more", OTHER, 3, cap=16.0)
    assert {charge.order for charge in ledger.charges()} == {first}


def test_a_cap_below_what_is_spent_admits_nothing(ledger):
    charged(ledger, "run", STEP, 5)
    assert charged(ledger, "another", NoisyStep(900.0, 0.01), 1, cap=4.0) == 0
    assert charged(ledger, "another", STEP, 1, cap=0.01) == 0


def test_a_higher_cap_opens_a_ledger_of_one_kind_for_others(ledger):
    assert charged(ledger, "run", STEP, 5) == 5
    assert charged(ledger, "another", OTHER, 1, cap=8.0) == 0
    assert charged(ledger, "another", OTHER, 1, cap=12.0) == 1


def test_charges_of_an_older_version_count(ledger, monkeypatch):
    """They have neither a planned number of steps nor an order."""
    from dataclasses import asdict

    old = lambda charge: {k: v for k, v in asdict(charge).items() if k not in ("planned_steps", "order")}  # noqa: E731
    monkeypatch.setattr("memamba_core.privacy.ledger.asdict", old)
    ledger.charge("old", 1, STEP, 3, 8.0, 5)
    monkeypatch.undo()
    assert "order" not in json.loads(ledger._log.path.read_text().splitlines()[1])
    assert charged(ledger, "new", STEP, 5) == 1  # the filter admits four in all
    assert ledger.charges()[-1].order


def test_the_share_of_the_cap_grows_with_each_charge(ledger):
    shares = [ledger.charge("run", number, NoisyStep(2.25, 0.9), 1, 8.0, 5) for number in range(1, 6)]
    assert shares == pytest.approx([shares[-1] * number / 5 for number in range(1, 6)])
    assert ledger.cap(8.0).share([charge.spent for charge in ledger.charges()]) == pytest.approx(shares[-1])
    assert "of the cap is spent" in ledger.cap(8.0).explain([charge.spent for charge in ledger.charges()])


def test_an_empty_ledger_has_no_cap_yet(ledger):
    assert ledger.cap(8.0) is None


def test_two_plans_of_half_the_budget_fit(ledger):
    """The filter admits less than PRV finds, and not so little that a second study would be refused."""
    half = NoisyStep(calibrate_noise(4.0, DELTA, 0.9, 5), 0.9)
    assert [charged(ledger, run, half, 5) for run in ("a", "b")] == [5, 5]


def test_a_rate_so_small_that_nobody_is_drawn_has_a_cap():
    """A coordinator may send any rate above zero; the divergence of 1e-300 is zero in float64."""
    cap = Cap.choose(NoisyStep(0.3, 1e-300), 5, 8.0, 1e-5)
    assert cap.share([(NoisyStep(0.3, 1e-300), 5)]) == pytest.approx(0.0, abs=1e-12)
