"""Cache of one built model per process, shared by all its sites: a model per site would cost memory and time."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.experiment import Experiment
from memamba_core.data.agreement import Agreement
from memamba_core.model import MEMamba
from memamba_core.training.checkpoint import initial_model

__all__ = ["ModelCache"]

_log = logging.getLogger(__name__)


class ModelCache:
    """Cache of one built model; workers load their weights into it in turn."""

    def __init__(self) -> None:
        self._key: tuple[str, str] | None = None
        self._model: MEMamba | None = None

    def load(
        self,
        experiment: Experiment,
        agreement: Agreement,
        weights: Mapping[str, npt.NDArray[Any]],
        device: torch.device,
    ) -> MEMamba:
        """Return the experiment's model with these weights, on the device where it will compute.

        Raises:
            ValueError: names, shapes or dtypes differ from those of the model.
        """
        key = (experiment.digest(), agreement.digest())
        if self._model is None or self._key != key:
            self._key, self._model = key, initial_model(experiment, agreement).to(device)
            _log.info("on %s: %s", device, self._model.describe())
        expected = {name: (tuple(t.shape), "float32") for name, t in self._model.state_dict().items()}
        got = {name: (tuple(a.shape), str(a.dtype)) for name, a in weights.items()}
        if got != expected:
            differing = sorted(set(got) ^ set(expected)) or [n for n in got if got[n] != expected[n]]
            raise ValueError(f"weights do not fit the model; first differences: {differing[:3]}")
        with torch.no_grad():
            for name, tensor in self._model.state_dict().items():
                tensor.copy_(torch.from_numpy(np.array(weights[name])))
        return self._model
