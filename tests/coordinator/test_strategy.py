"""Each strategy by name against a plain formula in numpy; groups that a site did not train; resuming from a state."""

import numpy as np
import pytest
from pydantic import TypeAdapter

from memamba_core.config.strategy import STRATEGY_NAMES, StrategyConfig
from memamba_core.errors import CheckpointError, FederationError
from memamba_core.wire.protocol import TrainReply
from server.federation.strategy import GroupedStrategy
from simulation.grid.local import LocalGrid

SHAPES = {"genomics.a": (2, 3), "head.b": (4,), "genomics.c": (3,), "head.scalar": ()}
SITES = ("a", "b", "c", "d", "e")
NOBODY = LocalGrid([], runner=None)  # Flower's strategies ask the grid for its nodes, and no more
COUNTS = {"a": 10, "b": 30, "c": 5, "d": 20, "e": 35}


def some_weights(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def replies(seed, counts=COUNTS, sites=SITES):
    return {
        site: TrainReply(
            weights=some_weights(seed * 100 + index),
            trained={"genomics": counts[site], "head": counts[site]},
            counts={},
        )
        for index, site in enumerate(sites)
    }


def strategy_of(config):
    return GroupedStrategy(TypeAdapter(StrategyConfig).validate_python(config), list(SHAPES))


def run(config, num_rounds, start=0):
    """Weights after each round of a federation whose sites send the same random weights whatever they get."""
    strategy, weights, seen = strategy_of(config), some_weights(999), []
    for server_round in range(start + 1, start + num_rounds + 1):
        strategy.configure(server_round, weights, NOBODY)
        weights = strategy.aggregate(server_round, replies(server_round), weights)
        seen.append(weights)
    return seen


def stacked(server_round, name):
    return np.stack([reply.weights[name].astype(np.float64) for _, reply in sorted(replies(server_round).items())])


def weighted_mean(server_round, name):
    counts = np.array([COUNTS[site] for site in sorted(COUNTS)], dtype=np.float64)
    return np.tensordot(counts / counts.sum(), stacked(server_round, name), axes=1)


def fedavg_twin(config):
    for server_round in (1, 2):
        yield {name: weighted_mean(server_round, name) for name in SHAPES}


def median_twin(config):
    for server_round in (1, 2):
        yield {name: np.median(stacked(server_round, name), axis=0) for name in SHAPES}


def trimmed_twin(config):
    """A fifth of five sites is one site at either end."""
    for server_round in (1, 2):
        yield {name: np.sort(stacked(server_round, name), axis=0)[1:-1].mean(axis=0) for name in SHAPES}


def momentum_twin(config):
    """Hsu et al. 2019: v <- beta v + (w - mean), w <- w - eta v."""
    weights, velocity = some_weights(999), dict.fromkeys(SHAPES, 0.0)
    for server_round in (1, 2):
        for name in SHAPES:
            velocity[name] = (
                config["server_momentum"] * velocity[name] + weights[name] - weighted_mean(server_round, name)
            )
            weights[name] = weights[name] - config["server_learning_rate"] * velocity[name]
        yield dict(weights)


def adaptive_twin(config):
    """Reddi et al. 2021, algorithm 2; Adam with the bias-corrected rate of Kingma & Ba, in Flower from round 2's on."""
    eta, tau = config["server_learning_rate"], config["tau"]
    beta_1, beta_2 = config["beta_1"], config["beta_2"]
    weights = some_weights(999)
    m, v = dict.fromkeys(SHAPES, 0.0), dict.fromkeys(SHAPES, 0.0)
    for server_round in (1, 2):
        rate = eta
        if config["name"] == "fedadam":
            rate = eta * np.sqrt(1 - beta_2 ** (server_round + 1)) / (1 - beta_1 ** (server_round + 1))
        for name in SHAPES:
            delta = weighted_mean(server_round, name) - weights[name]
            m[name] = beta_1 * m[name] + (1 - beta_1) * delta
            if config["name"] == "fedadam":
                v[name] = beta_2 * v[name] + (1 - beta_2) * delta**2
            else:
                v[name] = v[name] - (1 - beta_2) * delta**2 * np.sign(v[name] - delta**2)
            weights[name] = weights[name] + rate * m[name] / (np.sqrt(v[name]) + tau)
        yield dict(weights)


ADAPTIVE = {"server_learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "tau": 0.01}
CASES = {
    "fedavg": ({}, fedavg_twin),
    "fedprox": ({"proximal_mu": 0.1}, fedavg_twin),
    "fedmedian": ({}, median_twin),
    "fedtrimmedavg": ({"trim_fraction": 0.2}, trimmed_twin),
    "fedavgm": ({"server_learning_rate": 0.7, "server_momentum": 0.9}, momentum_twin),
    "fedadam": (ADAPTIVE, adaptive_twin),
    "fedyogi": (ADAPTIVE, adaptive_twin),
}


def assert_close(got, wanted):
    assert got.keys() == wanted.keys()
    for name, array in got.items():
        assert (array.dtype, array.shape) == (np.float32, SHAPES[name])
        np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_two_rounds_are_what_the_formula_says(name):
    settings, twin = CASES[name]
    config = {"name": name, **settings}
    for got, wanted in zip(run(config, 2), twin(config), strict=True):
        assert_close(got, wanted)


def test_every_strategy_is_tried():
    assert {*CASES, "krum"} == set(STRATEGY_NAMES)


def test_krum_picks_the_site_in_the_middle_of_the_crowd():
    """Site e is far away, c lies between the others: its whole model is taken, in all groups."""
    places = {"a": -0.3, "b": -0.1, "c": 0.0, "d": 0.15, "e": 50.0}
    answers = {
        site: TrainReply(
            weights={name: np.full(shape, place, np.float32) for name, shape in SHAPES.items()},
            trained={"genomics": 1, "head": 1},
            counts={},
        )
        for site, place in places.items()
    }
    strategy = strategy_of({"name": "krum", "num_malicious_sites": 1})
    strategy.configure(1, some_weights(0), NOBODY)
    new = strategy.aggregate(1, answers, some_weights(0))
    assert_close(new, answers["c"].weights)


def test_krum_refuses_answers_too_few_to_tell_a_hostile_one():
    """Among three sites, one of them possibly hostile, none has a neighbour: the alphabetically first would win."""
    strategy = strategy_of({"name": "krum", "num_malicious_sites": 1})
    strategy.configure(1, some_weights(0), NOBODY)
    for number in (1, 3, 4):
        with pytest.raises(FederationError, match=rf"needs 5 answers, got {number}.*federation\.min_results=5"):
            strategy.aggregate(1, replies(1, sites=SITES[:number]), some_weights(0))
    strategy.aggregate(1, replies(1), some_weights(0))


def test_krum_refuses_sites_that_trained_different_experts():
    answers = replies(1)
    answers["b"] = answers["b"].model_copy(update={"trained": {"head": 3}})
    strategy = strategy_of({"name": "krum"})
    strategy.configure(1, some_weights(0), NOBODY)
    with pytest.raises(FederationError, match=r"krum judges whole updates.* b trained fewer .*fedmedian"):
        strategy.aggregate(1, answers, some_weights(0))


def test_a_site_counts_only_for_the_groups_it_trained():
    answers = replies(1)
    answers["e"] = answers["e"].model_copy(update={"trained": {"head": 35, "genomics": 0}})
    answers["d"] = answers["d"].model_copy(update={"trained": {"head": 20}})
    strategy = strategy_of({"name": "fedavg"})
    strategy.configure(1, some_weights(0), NOBODY)
    new = strategy.aggregate(1, answers, some_weights(0))
    three = {"a": 10, "b": 30, "c": 5}
    for name in SHAPES:
        counts = three if name.startswith("genomics") else COUNTS
        wanted = sum(answers[s].weights[name] * n for s, n in counts.items()) / sum(counts.values())
        np.testing.assert_allclose(new[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_a_group_that_nobody_trained_stays_as_it_was(name):
    config = {"name": name, **CASES[name][0]}
    strategy, weights = strategy_of(config), some_weights(5)
    strategy.configure(1, weights, NOBODY)
    answers = {s: r.model_copy(update={"trained": {"head": 3}}) for s, r in replies(1).items()}
    new = strategy.aggregate(1, answers, weights)
    for parameter in SHAPES:
        assert np.array_equal(new[parameter], weights[parameter]) == parameter.startswith("genomics")


@pytest.mark.parametrize("name", [*CASES, "krum"])
def test_a_group_may_be_trained_for_the_first_time_in_a_later_round(name):
    config = {"name": name, **CASES.get(name, ({}, None))[0]}
    strategy, weights = strategy_of(config), some_weights(5)
    first = {s: r.model_copy(update={"trained": {"head": 3}}) for s, r in replies(1).items()}
    for server_round, answers in enumerate((first, replies(2)), start=1):
        strategy.configure(server_round, weights, NOBODY)
        weights = strategy.aggregate(server_round, answers, weights)
    assert all(np.isfinite(array).all() for array in weights.values())


@pytest.mark.parametrize("name", [*CASES, "krum"])
def test_the_order_of_replies_plays_no_part(name):
    config = {"name": name, **CASES.get(name, ({}, None))[0]}
    results = []
    for order in (SITES, SITES[::-1]):
        strategy, answers = strategy_of(config), replies(1)
        strategy.configure(1, some_weights(999), NOBODY)
        results.append(strategy.aggregate(1, {site: answers[site] for site in order}, some_weights(999)))
    for parameter in SHAPES:
        np.testing.assert_array_equal(results[0][parameter], results[1][parameter])


@pytest.mark.parametrize("name", [*CASES, "krum"])
def test_a_restored_strategy_goes_on_bit_by_bit(name):
    config = {"name": name, **CASES.get(name, ({}, None))[0]}
    undisturbed = run(config, 3)
    before, weights = strategy_of(config), some_weights(999)
    for server_round in (1, 2):
        before.configure(server_round, weights, NOBODY)
        weights = before.aggregate(server_round, replies(server_round), weights)
    after = strategy_of(config)
    after.restore(before.state(), weights)
    after.configure(3, weights, NOBODY)
    weights = after.aggregate(3, replies(3), weights)
    for parameter in SHAPES:
        np.testing.assert_array_equal(weights[parameter], undisturbed[2][parameter])


@pytest.mark.parametrize(
    ("config", "num_arrays"),
    [({"name": "fedavg"}, 0), ({"name": "fedavgm"}, len(SHAPES)), ({"name": "fedadam"}, 2 * len(SHAPES))],
)
def test_only_what_is_carried_is_state(config, num_arrays):
    strategy = strategy_of(config)
    assert strategy.state() == {}
    strategy.configure(1, some_weights(0), NOBODY)
    strategy.aggregate(1, replies(1), some_weights(0))
    assert len(strategy.state()) == num_arrays


@pytest.mark.parametrize(
    "state",
    [
        {"head/m_t/head.b": np.zeros(4)},
        {"head/m_t/other": np.zeros(4), "head/m_t/head.scalar": np.zeros(())},
        {"pathology/m_t/pathology.a": np.zeros(4)},
        {"head/momentum/head.b": np.zeros(4), "head/momentum/head.scalar": np.zeros(())},
    ],
    ids=["half a group", "another name", "another group", "another strategy"],
)
def test_the_state_of_another_strategy_or_model_is_refused(state):
    with pytest.raises(CheckpointError, match="settings of the interrupted run"):
        strategy_of({"name": "fedadam"}).restore(state, some_weights(0))


def test_only_fedprox_asks_the_sites_for_a_proximal_term():
    asked = {}
    for name in [*CASES, "krum"]:
        settings = CASES.get(name, ({}, None))[0]
        asked[name] = strategy_of({"name": name, **settings}).configure(1, some_weights(0), NOBODY)
    assert asked.pop("fedprox") == {"proximal-mu": 0.1}
    assert not any(asked.values())


def test_one_site_alone_is_taken_as_it_is():
    for name in ("fedavg", "fedmedian", "fedtrimmedavg", "krum"):
        strategy, answers = strategy_of({"name": name}), replies(1, sites=("b",))
        strategy.configure(1, some_weights(0), NOBODY)
        assert_close(strategy.aggregate(1, answers, some_weights(0)), answers["b"].weights)


@pytest.mark.parametrize("name", [*CASES, "krum"])
def test_nothing_that_was_sent_or_received_is_written_to(name):
    """The arrays are handed to Flower's strategies without a copy."""
    strategy = strategy_of({"name": name, **CASES.get(name, ({}, None))[0]})
    weights = some_weights(5)
    for server_round in (1, 2):
        answers = replies(server_round)
        strategy.configure(server_round, weights, NOBODY)
        strategy.aggregate(server_round, answers, weights)
        for site, answer in answers.items():
            for parameter, array in replies(server_round)[site].weights.items():
                np.testing.assert_array_equal(answer.weights[parameter], array)
    for parameter, array in some_weights(5).items():
        np.testing.assert_array_equal(weights[parameter], array)
