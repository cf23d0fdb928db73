"""The step that a site accepts between two rounds covers whatever a strategy can do, and hardly more."""

import math

import numpy as np
import pytest

from client.step_bounds import path_bound, step_bound
from memamba_core.config.strategy import (
    FedAdamConfig,
    FedAvgConfig,
    FedAvgMConfig,
    FedMedianConfig,
    FedProxConfig,
    FedTrimmedAvgConfig,
    FedYogiConfig,
    KrumConfig,
)
from memamba_core.model import parameter_group
from memamba_core.wire.protocol import TrainReply
from server.federation.strategy import GroupedStrategy
from simulation.grid.local import LocalGrid

STRATEGIES = [
    FedAvgConfig(),
    FedProxConfig(),
    FedAvgMConfig(),
    FedAvgMConfig(server_learning_rate=0.5, server_momentum=0.0),
    FedMedianConfig(),
    FedTrimmedAvgConfig(),
    FedTrimmedAvgConfig(trim_fraction=0.34),
    FedTrimmedAvgConfig(trim_fraction=0.49),
    FedTrimmedAvgConfig(trim_fraction=0.0),
    KrumConfig(),
    KrumConfig(num_malicious_sites=1),
    FedAdamConfig(),
    FedAdamConfig(beta_1=0.5, beta_2=0.9),
    FedAdamConfig(tau=0.5),
    FedYogiConfig(),
    FedYogiConfig(beta_1=0.5, beta_2=0.2),
]
U = 2.0
SHAPES = {"head.0.weight": (3, 4), "genomics.a": (6,), "genomics.b": (1,), "pathology.c": (2, 2)}
ROUNDING = 1 + 1e-5
GRID = LocalGrid([], runner=None)  # Flower's strategies ask the grid for its nodes, and no more


def updates(rng, kind):
    """The updates of 1 to 6 sites, each of norm U at most: random, aligned, against each other, or a single weight."""
    number = int(rng.integers(1, 7))
    size = sum(math.prod(shape) for shape in SHAPES.values())
    vectors = rng.normal(size=(number, size))
    if kind == "sparse":
        vectors *= rng.random((number, size)) < 0.1
    elif kind == "aligned":
        vectors = np.repeat(np.sign(vectors[:1]), number, axis=0)
    elif kind == "half":
        vectors = np.where(np.arange(number)[:, None] % 2 == 0, np.abs(vectors), 0)
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return U * vectors / norms


def replies(weights, vectors, rng, *, whole):
    groups = sorted({parameter_group(name) for name in weights})
    made = {}
    for number, vector in enumerate(vectors):
        got, start = {}, 0
        for name, array in weights.items():
            got[name] = (array + vector[start : start + array.size].reshape(array.shape)).astype(np.float32)
            start += array.size
        trained = {group: int(rng.integers(1, 100)) for group in groups if whole or rng.random() < 0.8}
        made[f"site-{number}"] = TrainReply(weights=got, trained=trained or {"head": 1}, counts={})
    return made


def distance(new, old, names):
    change = np.concatenate([(new[n].astype(np.float64) - old[n]).ravel() for n in names])
    return np.linalg.norm(change), np.abs(change).max()


@pytest.mark.parametrize("config", STRATEGIES, ids=repr)
def test_no_step_of_a_strategy_is_longer_than_its_bound(config):
    rng = np.random.default_rng(0)
    whole = config.name == "krum"
    for kind in ("dense", "sparse", "aligned", "half"):
        weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
        start, strategy = weights, GroupedStrategy(config, list(weights))
        groups = {"model": list(weights)} if whole else {}
        for name in weights if not whole else ():
            groups.setdefault(parameter_group(name), []).append(name)
        for server_round in range(1, 15):
            vectors = updates(rng, kind)
            if len(vectors) < config.min_answers:
                vectors = np.repeat(vectors, config.min_answers, axis=0)
            strategy.configure(server_round, weights, GRID)
            new = strategy.aggregate(server_round, replies(weights, vectors, rng, whole=whole), weights)
            step = step_bound(config, U, server_round)
            path = path_bound(config, U, 1, server_round)
            for names in groups.values():
                for (norm, coordinate), bound in (
                    (distance(new, weights, names), step),
                    (distance(new, start, names), path),
                ):
                    assert norm <= bound.norm * ROUNDING + 1e-5
                    assert coordinate <= bound.coordinate * ROUNDING + 1e-5
            weights = new


@pytest.mark.parametrize(
    ("config", "reached"),
    [
        (FedAvgConfig(), 0.99),
        (FedAvgMConfig(), 0.99),
        (KrumConfig(), 0.99),
        (FedMedianConfig(), 0.7),  # one site: U of sqrt(2) U
        (FedTrimmedAvgConfig(), 0.7),
    ],
    ids=lambda v: getattr(v, "name", v),
)
def test_bounds_are_reached_by_sites_that_agree(config, reached):
    """A bound that is far too large would protect no patient."""
    weights = {"genomics.a": np.zeros(6, np.float32)}
    strategy = GroupedStrategy(config, list(weights))
    direction = np.full(6, U / math.sqrt(6), np.float32)
    for server_round in range(1, 8):
        strategy.configure(server_round, weights, GRID)
        answer = TrainReply(
            weights={"genomics.a": weights["genomics.a"] + direction}, trained={"genomics": 5}, counts={}
        )
        new = strategy.aggregate(server_round, {"a": answer}, weights)
        norm, _ = distance(new, weights, ["genomics.a"])
        assert reached <= norm / step_bound(config, U, server_round).norm <= ROUNDING
        weights = new


def test_the_default_adaptive_steps_are_small_whatever_the_sites_send():
    assert step_bound(FedAdamConfig(), U, 1000).coordinate < 0.025
    assert step_bound(FedYogiConfig(), U, 1000).coordinate < 0.11
    assert step_bound(FedAdamConfig(), 100 * U, 5).coordinate == step_bound(FedAdamConfig(), U, 5).coordinate


def test_a_path_is_the_sum_of_its_steps():
    config = FedAvgMConfig()
    assert path_bound(config, U, 3, 2).norm == 0
    assert path_bound(config, U, 4, 4) == step_bound(config, U, 4)
    assert path_bound(config, U, 2, 4).norm == pytest.approx(sum(step_bound(config, U, r).norm for r in (2, 3, 4)))
    assert path_bound(FedAvgConfig(), U, 1, 10).coordinate == math.inf


@pytest.mark.parametrize("config", [FedAdamConfig(beta_1=0.99, beta_2=0.0), FedYogiConfig(beta_1=0.99, beta_2=0.0)])
def test_without_a_second_moment_only_the_norm_is_bounded(config):
    bound = step_bound(config, U, 10_000)
    assert bound.coordinate == math.inf
    assert math.isfinite(bound.norm)
