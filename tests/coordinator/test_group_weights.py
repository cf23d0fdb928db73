"""A site weighs in each group of parameters by the patients who trained that group, and not by its size."""

import numpy as np

from memamba_core.config.strategy import FedAvgConfig
from memamba_core.wire.protocol import TrainReply
from server.federation.strategy import GroupedStrategy
from simulation.grid.local import LocalGrid

NAMES = ["genomics.a", "pathology.b", "head.c"]


def aggregate(trained):
    """Average the replies of sites whose weights are all 0.0, 1.0, 2.0 and so on."""
    sent = {name: np.full(3, -1.0, np.float32) for name in NAMES}
    replies = {
        f"site-{number}": TrainReply(
            weights={name: np.full(3, number, np.float32) for name in NAMES}, trained=counts, counts={}
        )
        for number, counts in enumerate(trained)
    }
    strategy = GroupedStrategy(FedAvgConfig(name="fedavg"), NAMES)
    strategy.configure(1, sent, LocalGrid([], runner=None))
    return {name: float(array[0]) for name, array in strategy.aggregate(1, replies, sent).items()}


def test_each_group_has_weights_of_its_own():
    """The second site has few genes and many slides."""
    averaged = aggregate([{"genomics": 30, "pathology": 10, "head": 40}, {"genomics": 10, "pathology": 90, "head": 80}])
    assert averaged == {
        "genomics.a": np.float32(10 / 40),
        "pathology.b": np.float32(90 / 100),
        "head.c": np.float32(80 / 120),
    }


def test_a_site_that_trained_nobody_in_a_group_has_no_weight_there():
    averaged = aggregate([{"genomics": 5, "pathology": 0, "head": 5}, {"pathology": 7, "head": 95}])
    assert averaged["genomics.a"] == 0.0
    assert averaged["pathology.b"] == 1.0
    assert averaged["head.c"] == np.float32(0.95)


def test_a_group_that_no_site_trained_stays_as_it_was_sent():
    assert aggregate([{"genomics": 5, "head": 5}, {"genomics": 7, "head": 7}])["pathology.b"] == -1.0
