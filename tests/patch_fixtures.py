"""Files of patch features as hospitals have them, and what a reader says of those that it refuses."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from memamba_core.errors import DataError

WIDTH = 4


def grid(num: int) -> np.ndarray:
    """Coordinates in slide order, three patches a row."""
    return np.stack([np.arange(num) % 3 * 256, np.arange(num) // 3 * 256], axis=1)


def values(num: int, first: int = 0) -> np.ndarray:
    """Row i of the slide is filled with first + i."""
    return np.repeat(np.arange(first, first + num, dtype=np.float32)[:, None], WIDTH, axis=1)


def write_h5(path: Path, features, coords=None, *, attributes=None, name="features", **storage) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset(name, data=features, **storage)
        if coords is not None:
            file["coords"] = coords
        for key, value in (attributes or {}).items():
            (file["coords"] if key == "target_magnification" else dataset).attrs[key] = value
    return path


def write_pt(path: Path, content) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def refusal(function, *arguments, **settings) -> str:
    with pytest.raises(DataError) as raised:
        function(*arguments, **settings)
    return str(raised.value)
