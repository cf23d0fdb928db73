"""Every reply is checked before it is averaged.

Flower's strategies believe whatever arrives: one NaN poisons a mean and a median, a huge count takes the model over.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memamba_core.config.experiment import FederationConfig
from memamba_core.model import parameter_group
from memamba_core.protocol import SIZE_BANDS, FactsReply, TrainReply

__all__ = ["objection_to"]

Weights = Mapping[str, npt.NDArray[Any]]


def objection_to(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> str | None:
    """Why a training reply may not be averaged, in words for the coordinator's log; None if it may.

    Checks the set of names, shapes, dtypes and finiteness of the weights; counts that are negative, of unknown groups,
    or larger than the size band the site declared; and the norm of the update where a bound is set.
    """
    return _objection_to_counts(reply, sent, config, facts) or _objection_to_weights(reply.weights, sent, config)


def _objection_to_counts(reply: TrainReply, sent: Weights, config: FederationConfig, facts: FactsReply) -> str | None:
    known = {parameter_group(name) for name in sent}
    strange = sorted(set(reply.trained) - known)
    if strange:
        return f"counts for parameter groups that the model does not have: {strange[:3]}"
    above = [lower for lower in SIZE_BANDS if lower > facts.size_band]
    most = min(min(above) - 1 if above else config.max_patients_per_site, config.max_patients_per_site)
    for group, count in reply.trained.items():
        if not 0 <= count <= most:
            return f"claims {count} patients for {group}; it declared a band that ends at {most}"
    if not any(reply.trained.values()):
        return "trained on nobody"
    return None


def _objection_to_weights(got: Weights, sent: Weights, config: FederationConfig) -> str | None:
    if set(got) != set(sent):
        first = sorted(set(got) ^ set(sent))[:3]
        return f"weights with {len(got)} names, sent {len(sent)}; first differences: {first}"
    square = 0.0
    for name, reference in sent.items():
        array = got[name]
        if array.shape != reference.shape or array.dtype != np.float32:
            return f"{name} is {array.dtype} {array.shape}, sent float32 {reference.shape}"
        if not np.isfinite(array).all():
            return f"{name} holds values that are not finite"
        square += float(((array.astype(np.float64) - reference) ** 2).sum())
    norm = math.sqrt(square)
    if config.max_update_norm is not None and norm > config.max_update_norm:
        return f"the update has norm {norm:.3g}, federation.max_update_norm is {config.max_update_norm:g}"
    return None
