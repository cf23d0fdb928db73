"""How the coordinator combines the sites' weights."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from memamba_core.config.choice import Choice

__all__ = ["StrategyConfig", "StrategyName"]

StrategyName = Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"]


class StrategyConfig(Choice):
    """One of Flower's strategies, with its own settings."""

    own_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fedavg": {},
        "fedprox": {"proximal_mu": 0.01},
        "fedavgm": {"server_learning_rate": 1.0, "server_momentum": 0.9},
        "fedadam": {"server_learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        "fedyogi": {"server_learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
        "fedmedian": {},
        "fedtrimmedavg": {"trim_fraction": 0.2},
        "krum": {"num_malicious_sites": 0},
    }
    name: StrategyName = "fedavg"
    proximal_mu: float | None = Field(None, gt=0)
    """FedProx: weight of the proximal term at the sites. It acts from the second step of a round on, so where a site
    takes one step it changes nothing."""
    server_learning_rate: float | None = Field(None, gt=0)
    """FedAvgM, FedAdam, FedYogi."""
    server_momentum: float | None = Field(None, ge=0, lt=1)
    """FedAvgM."""
    beta_1: float | None = Field(None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the first moment."""
    beta_2: float | None = Field(None, ge=0, lt=1)
    """FedAdam, FedYogi: decay of the second moment."""
    tau: float | None = Field(None, gt=0)
    """FedAdam, FedYogi: added to the root of the second moment."""
    trim_fraction: float | None = Field(None, ge=0, lt=0.5)
    """Trimmed mean: share cut off at either end."""
    num_malicious_sites: int | None = Field(None, ge=0)
    """Krum: how many sites may be hostile. For f of them a run needs 2f + 3 hospitals, and a round as many answers."""

    @property
    def fewest_answers(self) -> int:
        """Answers that a round needs.

        Krum withstands f hostile sites among 2f + 3 or more (Blanchard et al. 2017). With f + 2 or fewer, no update has
        a neighbour to be judged by, and the first in the alphabet becomes the model.
        """
        return 2 * self.num_malicious_sites + 3 if self.num_malicious_sites else 1
