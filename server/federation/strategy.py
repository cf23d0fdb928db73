"""Flower's strategies, one instance per parameter group, so that a site counts only for the experts that it trained.

Only `configure_train` and `aggregate_train` of a strategy are used; the loop around them is `rounds`. A group that no
site trained in a round keeps its weights.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
)

from memamba_core.config.strategy import (
    FedAdamConfig,
    FedAvgConfig,
    FedAvgMConfig,
    FedMedianConfig,
    FedProxConfig,
    FedTrimmedAvgConfig,
    FedYogiConfig,
    KrumConfig,
    StrategyConfig,
)
from memamba_core.errors import CheckpointError, FederationError
from memamba_core.model import parameter_group
from memamba_core.wire.protocol import TrainReply

__all__ = ["GroupedStrategy"]

Weights = dict[str, npt.NDArray[Any]]
_log = logging.getLogger(__name__)
_WHOLE_UPDATE = frozenset({"krum"})
"""Strategies that judge a site's update as a whole: the model is one group for them, and every site must have
trained all of it."""
_WHOLE_MODEL = "model"


class GroupedStrategy:
    """Configured strategy, applied to each parameter group separately.

    Args:
        config: kind and settings of the strategy.
        names: parameter names of the model.
    """

    def __init__(self, config: StrategyConfig, names: Sequence[str]) -> None:
        self._config = config
        self._names: dict[str, list[str]] = {}
        for name in names:
            group = _WHOLE_MODEL if config.name in _WHOLE_UPDATE else parameter_group(name)
            self._names.setdefault(group, []).append(name)
        self._strategies = {group: _build_strategy(config) for group in self._names}
        self._untrained: set[str] = set()  # groups that the log has already named

    def configure(self, server_round: int, weights: Mapping[str, npt.NDArray[Any]], grid: Grid) -> dict[str, float]:
        """Pass the weights of this round to the strategies.

        Returns:
            Settings for the sites: `proximal-mu` of FedProx, else empty.
        """
        asked: dict[str, float] = {}
        for group, names in self._names.items():
            config = ConfigRecord()
            self._strategies[group].configure_train(server_round, _to_arrays(weights, names), config, grid)
            asked.update({key: float(value) for key, value in config.items() if key == "proximal-mu"})  # type: ignore[arg-type]
        return asked

    def aggregate(
        self,
        server_round: int,
        replies: Mapping[str, TrainReply],
        weights: Mapping[str, npt.NDArray[Any]],
        num_outliers: int = 0,
    ) -> Weights:
        """Aggregate the replies of a round.

        Args:
            server_round: from 1.
            replies: validated replies by site; they are added up in alphabetical order of the sites.
            weights: weights that were sent.
            num_outliers: replies that were left out, because their updates are too large. They count towards the
                replies that the strategy needs: each of them is one hostile site less.

        Raises:
            FederationError: the strategy judges whole updates and the sites trained different groups, or the replies
                are too few for the number of hostile sites that it must withstand.
        """
        self._refuse_partial_updates(replies)
        self._refuse_too_few(len(replies) + num_outliers)
        new: Weights = dict(weights)
        for group, names in self._names.items():
            counted = [(reply, _count(reply, group)) for _, reply in sorted(replies.items()) if _count(reply, group)]
            if not counted:
                if group not in self._untrained:
                    self._untrained.add(group)
                    _log.info(
                        "round %d: no site trained %s; its weights stay the same until one does", server_round, group
                    )
                continue
            self._untrained.discard(group)
            messages = [_to_message(reply, names, count) for reply, count in counted]
            aggregated, _ = self._strategies[group].aggregate_train(server_round, messages)
            assert aggregated is not None
            for name, array in aggregated.items():
                new[name] = np.asarray(array.numpy(), dtype=np.float32).reshape(weights[name].shape)
        return new

    def state(self) -> Weights:
        """Return what the strategies keep from round to round (momentum, moments), as arrays by `group/kind/name`."""
        state: Weights = {}
        for group, strategy in self._strategies.items():
            names = self._names[group]
            for kind in ("m_t", "v_t"):
                for name, array in (getattr(strategy, kind, None) or {}).items():
                    state[f"{group}/{kind}/{name}"] = np.asarray(array)
            momentum = getattr(strategy, "momentum_vector", None)
            for name, array in zip(names, momentum or [], strict=False):
                state[f"{group}/momentum/{name}"] = np.asarray(array)
        return state

    def restore(self, state: Mapping[str, npt.NDArray[Any]], weights: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what `state` returned, so that a resumed run computes the same numbers.

        Raises:
            CheckpointError: the state belongs to another strategy or model.
        """
        by_group: dict[str, dict[str, Weights]] = {}
        for key, array in state.items():
            group, kind, name = key.split("/", 2)
            by_group.setdefault(group, {}).setdefault(kind, {})[name] = array
        for group, kinds in by_group.items():
            strategy, names = self._strategies.get(group), self._names.get(group, [])
            for kind, arrays in kinds.items():
                attribute = "momentum_vector" if kind == "momentum" else kind
                if strategy is None or not hasattr(strategy, attribute) or set(arrays) != set(names):
                    raise CheckpointError(
                        f"the journal holds {kind} of {group}, which strategy {self._config.name} on this "
                        "model does not have. Resume with the settings of the interrupted run"
                    )
                ordered = {name: arrays[name] for name in names}
                setattr(strategy, attribute, list(ordered.values()) if kind == "momentum" else ordered)
        for group, strategy in self._strategies.items():
            if isinstance(strategy, FedAvgM):  # it keeps the weights that it returned last and never reads them again
                strategy.current_arrays = _to_arrays(weights, self._names[group])

    def _refuse_partial_updates(self, replies: Mapping[str, TrainReply]) -> None:
        if self._config.name not in _WHOLE_UPDATE:
            return
        trained = {site: frozenset(g for g, n in reply.trained.items() if n) for site, reply in replies.items()}
        if len(set(trained.values())) > 1:
            union = frozenset().union(*trained.values())
            partial = sorted(site for site, groups in trained.items() if groups != union)
            raise FederationError(
                f"strategy {self._config.name} judges whole updates, but modalities are missing: "
                f"{', '.join(partial[:5])} trained fewer experts than others. Use strategy=fedmedian or "
                "strategy=fedtrimmedavg, or sites with the same modalities"
            )

    def _refuse_too_few(self, number: int) -> None:
        """Refuse a round in which too few of the sites answered, or had a patient to train on."""
        needed = self._config.min_answers
        if number < needed:
            assert isinstance(self._config, KrumConfig), "the other strategies need one answer"
            raise FederationError(
                f"strategy krum with num_malicious_sites={self._config.num_malicious_sites} needs {needed} answers, "
                f"got {number}. Set federation.min_results={needed}, so that a round waits for them, or use "
                "strategy=fedmedian"
            )


def _count(reply: TrainReply, group: str) -> int:
    """Return the number of the site's patients who trained a group."""
    return max(reply.trained.values()) if group == _WHOLE_MODEL else reply.trained.get(group, 0)


def _build_strategy(config: StrategyConfig) -> FedAvg:
    """Build one of Flower's strategies; sampling of sites is left to the round loop."""
    all_sites: dict[str, Any] = {"min_train_nodes": 0, "min_evaluate_nodes": 0, "min_available_nodes": 0}
    match config:
        case FedProxConfig():
            return FedProx(proximal_mu=config.proximal_mu, **all_sites)
        case FedAvgMConfig():
            return FedAvgM(
                server_learning_rate=config.server_learning_rate, server_momentum=config.server_momentum, **all_sites
            )
        case FedAdamConfig() | FedYogiConfig():
            kind = FedAdam if isinstance(config, FedAdamConfig) else FedYogi
            return kind(
                eta=config.server_learning_rate,
                beta_1=config.beta_1,
                beta_2=config.beta_2,
                tau=config.tau,
                **all_sites,
            )
        case FedTrimmedAvgConfig():
            return FedTrimmedAvg(beta=config.trim_fraction, **all_sites)
        case KrumConfig():
            return Krum(num_malicious_nodes=config.num_malicious_sites, **all_sites)
        case FedMedianConfig():
            return FedMedian(**all_sites)
        case FedAvgConfig():
            return FedAvg(**all_sites)


class _ValuesInHand(Array):
    """Array for strategies in this process, whose `numpy()` returns the values without a copy.

    Flower's own `Array` is serialised when built and parsed when read: two or three copies of every site's weights
    between validation and average. This one is never sent, because it holds no bytes.
    """

    def __init__(self, values: npt.NDArray[Any]) -> None:
        super().__init__(dtype=str(values.dtype), shape=values.shape, stype="numpy.ndarray", data=b"")
        self._values = values

    def numpy(self) -> npt.NDArray[Any]:
        """Return the values themselves, which no strategy writes to."""
        return self._values


def _to_arrays(weights: Mapping[str, npt.NDArray[Any]], names: Sequence[str]) -> ArrayRecord:
    record = ArrayRecord()
    for name in names:  # one by one: given a dict, the record would build its own arrays
        record[name] = _ValuesInHand(weights[name])
    return record


def _to_message(reply: TrainReply, names: Sequence[str], count: int) -> Message:
    """Convert a reply to the form that the strategies expect: one group's arrays and `num-examples`."""
    content = RecordDict({"arrays": _to_arrays(reply.weights, names), "metrics": MetricRecord({"num-examples": count})})
    return Message(content=content, dst_node_id=0, message_type="train")
