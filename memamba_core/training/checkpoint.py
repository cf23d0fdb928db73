"""Trained models on disk: weights as safetensors, and a JSON file with everything needed to use them. No pickle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydantic
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from memamba_core.config.experiment import Experiment, settings_digest
from memamba_core.data.agreement import Agreement
from memamba_core.errors import CheckpointError, ConfigError, MissingBackendError
from memamba_core.io.atomic import write_atomically
from memamba_core.io.json_model import JsonModel
from memamba_core.model import MEMamba, build_model
from memamba_core.model.scan import choose_backend

__all__ = [
    "Checkpoint",
    "ModelDigests",
    "ModelFile",
    "code_digest",
    "count_parameters",
    "initial_model",
    "load_arrays",
    "load_checkpoint",
    "model_from",
    "save_checkpoint",
    "weights_of",
]

Weights = dict[str, npt.NDArray[Any]]
_FORMAT = 1


class ModelDigests(JsonModel):
    """SHA-256 digests (hex) that hold the two files of a model together and show changes by hand."""

    weights: str
    """Bytes of the `.safetensors` file."""
    experiment: str
    """Settings."""
    agreement: str
    """Time bins, genes and scaling."""
    code: str
    """Sources of `memamba_core` that trained the model."""


class ModelFile(JsonModel):
    """Contents of `model.json`."""

    format: int
    """Version of this layout."""
    experiment: dict[str, Any]
    """Settings that the model was trained with."""
    agreement: dict[str, Any]
    """Time bins, gene columns and groups, encoder and feature columns that the model expects."""
    scaling: dict[str, list[float]]
    """Center and scale of gene values and features; empty where values are not scaled."""
    server_round: int
    """Rounds of training behind the model (epochs, if it was not federated)."""
    digests: ModelDigests
    """Digests over weights, settings, agreement and code."""


@dataclass(frozen=True)
class Checkpoint:
    """Model with all that is needed to use it.

    Attributes:
        weights: float32 arrays by parameter name.
        experiment: the settings of training.
        agreement: the bins, genes and scaling that the model expects.
        server_round: number of rounds of training (epochs, if not federated).
        code: `code_digest` of the code that trained the model.
    """

    weights: Weights
    experiment: Experiment
    agreement: Agreement
    server_round: int
    code: str

    def build(self, device: torch.device | None = None) -> MEMamba:
        """Build the model with these weights, in evaluation mode, on a device (None: the CPU).

        The model uses the scan backend of training. If that backend does not run here, the model uses `auto`; the
        results agree.
        """
        device, experiment = device or torch.device("cpu"), self.experiment
        try:
            choose_backend(experiment.model.scan_backend, torch.empty(0, device=device))
        except (ConfigError, MissingBackendError):
            here = experiment.model.model_copy(update={"scan_backend": "auto"})
            experiment = experiment.model_copy(update={"model": here})
        return model_from(self.weights, experiment, self.agreement).eval().to(device)


def model_from(weights: Mapping[str, npt.NDArray[Any]], experiment: Experiment, agreement: Agreement) -> MEMamba:
    """Build the experiment's model and load weights into it.

    Raises:
        CheckpointError: names or shapes differ from those of the model.
    """
    model = initial_model(experiment, agreement)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    got = {name: tuple(array.shape) for name, array in weights.items()}
    if expected != got:
        differences = sorted(set(got.items()) ^ set(expected.items()))[:3]
        raise CheckpointError(f"these are not weights of this model; first differences (name, shape): {differences}")
    model.load_state_dict(
        {name: torch.from_numpy(np.array(array, dtype=np.float32)) for name, array in weights.items()}
    )
    return model


def initial_model(experiment: Experiment, agreement: Agreement) -> MEMamba:
    """Build the experiment's model before training; its weights are the same on every machine."""
    return build_model(
        experiment.model,
        agreement.input_spec(),
        seed=experiment.seed,
        expert_heads=experiment.training.loss.expert_weight > 0,
    )


def count_parameters(experiment: Experiment, agreement: Agreement) -> int:
    """Return the number of parameters of the experiment's model, without the memory that they would take."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in initial_model(experiment, agreement).parameters())


def weights_of(model: MEMamba) -> Weights:
    """Copy a model's weights as float32 arrays on the CPU."""
    return {name: tensor.detach().float().cpu().numpy().copy() for name, tensor in model.state_dict().items()}


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint) -> tuple[Path, Path]:
    """Write `name.safetensors` and `name.json` into `folder`, each whole or not at all."""
    experiment, agreement = checkpoint.experiment, checkpoint.agreement
    weights_path, json_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    blob = save(dict(checkpoint.weights))
    about = ModelFile(
        format=_FORMAT,
        experiment=experiment.model_dump(mode="json"),
        agreement=json.loads(agreement.to_json()),
        scaling={key: array.tolist() for key, array in agreement.scaling().items()},
        server_round=checkpoint.server_round,
        digests=ModelDigests(
            weights=hashlib.sha256(blob).hexdigest(),
            experiment=experiment.digest(),
            agreement=agreement.digest(),
            code=checkpoint.code,
        ),
    )
    with write_atomically(weights_path) as partial:
        partial.write_bytes(blob)
    with write_atomically(json_path) as partial:
        partial.write_text(json.dumps(about.model_dump(mode="json"), indent=1), encoding="utf-8")
    return weights_path, json_path


def load_checkpoint(folder: Path, name: str = "model") -> Checkpoint:
    """Read a checkpoint that `save_checkpoint` wrote.

    Raises:
        CheckpointError: a file is absent or damaged, or the two files do not belong together.
    """
    weights_path, json_path = folder / f"{name}.safetensors", folder / f"{name}.json"
    try:
        about = _read_about(json_path)
        if about.digests.weights != hashlib.sha256(weights_path.read_bytes()).hexdigest():
            raise CheckpointError(
                f"{weights_path} is not the file that {json_path.name} describes. Copy both files again"
            )
        scaling = {key: np.asarray(values, dtype=np.float64) for key, values in about.scaling.items()}
        agreement = Agreement.from_json(json.dumps(about.agreement), scaling)
        if about.digests.agreement != agreement.digest():
            raise CheckpointError(f"{json_path}: bins, genes or scaling were changed by hand. Copy the file again")
        if about.digests.experiment != settings_digest(about.experiment):
            raise CheckpointError(f"{json_path}: the settings were changed by hand. Copy the file again")
        return Checkpoint(
            weights=load_arrays(weights_path),
            experiment=Experiment.parse(about.experiment, str(json_path)),
            agreement=agreement,
            server_round=about.server_round,
            code=about.digests.code,
        )
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: {name}.json or {name}.safetensors is damaged ({error}). Copy both files again"
        ) from None


def _read_about(path: Path) -> ModelFile:
    """Read `model.json`.

    Raises:
        CheckpointError: the file is of another format or is damaged.
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    got = values.get("format") if isinstance(values, dict) else None
    if got != _FORMAT:
        raise CheckpointError(f"{path}: format is {got}; expected {_FORMAT}, which this version reads")
    try:
        return ModelFile.model_validate(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path} is damaged ({key}: {first['msg']}). Copy the file again") from None


def load_arrays(path: Path) -> Weights:
    """Read a safetensors file as numpy arrays.

    Raises:
        CheckpointError: the file is absent or damaged.
    """
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file: {error}") from None


@cache
def code_digest() -> str:
    """Compute SHA-256 (hex) over the Python sources of `memamba_core`, in the order of their relative names."""
    root = Path(__file__).resolve().parents[1]
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(str(path.relative_to(root)).encode())
        sha.update(path.read_bytes())
    return sha.hexdigest()
