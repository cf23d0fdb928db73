"""Strategies: how the coordinator combines the sites' weights. Each is one of Flower's, with its own settings."""

from typing import Annotated, Literal

from pydantic import Field

from memamba_core.config.base import Settings

__all__ = [
    "STRATEGY_NAMES",
    "FedAdamConfig",
    "FedAvgConfig",
    "FedAvgMConfig",
    "FedMedianConfig",
    "FedProxConfig",
    "FedTrimmedAvgConfig",
    "FedYogiConfig",
    "KrumConfig",
    "StrategyConfig",
    "StrategyName",
]

StrategyName = Literal["fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "fedmedian", "fedtrimmedavg", "krum"]
STRATEGY_NAMES: tuple[StrategyName, ...] = (
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadam",
    "fedyogi",
    "fedmedian",
    "fedtrimmedavg",
    "krum",
)


class _Strategy(Settings):
    @property
    def min_answers(self) -> int:
        """Fewest replies that a round needs."""
        return 1


class FedAvgConfig(_Strategy):
    """Mean of the sites' weights, each weighted by its number of patients (McMahan et al. 2017)."""

    name: Literal["fedavg"] = "fedavg"


class FedProxConfig(_Strategy):
    """FedAvg with a term at the sites that holds them near the weights they received (Li et al. 2020)."""

    name: Literal["fedprox"] = "fedprox"
    proximal_mu: float = Field(0.01, gt=0)
    """Weight of the proximal term at the sites. The term acts from the second step of a round on and changes nothing
    where a site takes one step: then lower `training.batch_size` or raise `federation.local_epochs`."""


class FedAvgMConfig(_Strategy):
    """FedAvg with momentum at the coordinator (Hsu et al. 2019)."""

    name: Literal["fedavgm"] = "fedavgm"
    server_learning_rate: float = Field(1.0, gt=0)
    """Factor of the mean update."""
    server_momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the last step that is repeated."""


class _Adaptive(_Strategy):
    server_learning_rate: float = Field(0.01, gt=0)
    """Step size at the coordinator."""
    beta_1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment."""
    beta_2: float = Field(0.99, ge=0, lt=1)
    """Decay of the second moment."""
    tau: float = Field(1e-3, gt=0)
    """Added to the root of the second moment."""


class FedAdamConfig(_Adaptive):
    """Adam at the coordinator, on the mean update (Reddi et al. 2021)."""

    name: Literal["fedadam"] = "fedadam"


class FedYogiConfig(_Adaptive):
    """Yogi at the coordinator, on the mean update (Reddi et al. 2021)."""

    name: Literal["fedyogi"] = "fedyogi"


class FedMedianConfig(_Strategy):
    """Median of the sites' weights, coordinate by coordinate (Yin et al. 2018). Ignores the numbers of patients."""

    name: Literal["fedmedian"] = "fedmedian"


class FedTrimmedAvgConfig(_Strategy):
    """Mean of the sites' weights without the largest and smallest, coordinate by coordinate (Yin et al. 2018)."""

    name: Literal["fedtrimmedavg"] = "fedtrimmedavg"
    trim_fraction: float = Field(0.2, ge=0, lt=0.5)
    """Share cut off at either end."""


class KrumConfig(_Strategy):
    """Krum: the one update that lies nearest to its neighbours (Blanchard et al. 2017). Not with missing modalities."""

    name: Literal["krum"] = "krum"
    num_malicious_sites: int = Field(0, ge=0)
    """Number f of sites that may be hostile. A run then needs 2f + 3 sites, and a round as many replies."""

    @property
    def min_answers(self) -> int:
        """Fewest replies that a round needs: 2f + 3 for f hostile sites (Blanchard et al. 2017), 1 for none.

        With f + 2 replies or fewer, no update has a neighbour to be compared with, and the first site in alphabetical
        order would become the model.
        """
        return 2 * self.num_malicious_sites + 3 if self.num_malicious_sites else 1


StrategyConfig = Annotated[
    FedAvgConfig
    | FedProxConfig
    | FedAvgMConfig
    | FedAdamConfig
    | FedYogiConfig
    | FedMedianConfig
    | FedTrimmedAvgConfig
    | KrumConfig,
    Field(discriminator="name"),
]
"""One strategy; `name` says which."""
