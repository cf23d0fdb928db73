"""Open a `.pt` file of patch features without running code from it."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.errors import DataError

from .causes import explain_failure
from .content import ATTRIBUTE_NAMES, FEATURE_NAMES, RawContent, without_features

__all__ = ["open_torch"]


@contextmanager
def open_torch(path: Path, dataset: str | None) -> Iterator[RawContent]:
    """Open a file for a `with` block: a tensor, or a dictionary with tensors `features` (or `feats`) and `coords`.

    A file in the zip format is mapped, so that a limited bag touches only its own pages; an older file is loaded whole.

    Raises:
        DataError: the file is damaged, is a pickle with code, or holds other objects.
        OSError: the file cannot be opened.
    """
    loaded, coords, attributes, name = _load(path), None, {}, ""
    if isinstance(loaded, dict):
        coords = loaded.get("coords")
        attributes = {key: loaded[key] for key in ATTRIBUTE_NAMES if key in loaded}
        chosen = next((n for n in ((dataset,) if dataset else FEATURE_NAMES) if n in loaded), None)
        if chosen is None:
            others = [str(n) for n, value in loaded.items() if isinstance(value, torch.Tensor) and value.ndim in (2, 3)]
            raise without_features(path, list(map(str, loaded)), [n for n in others if n not in ("coords", dataset)])
        name, loaded = chosen, loaded[chosen]
    for value, expected in ((loaded, torch.Tensor), (coords, torch.Tensor | None)):
        if not isinstance(value, expected):
            raise DataError(
                f"{path}: holds a {type(value).__name__}; expected a tensor. Save a tensor, or a "
                "dictionary of tensors `features` and `coords`"
            )
    yield RawContent(_as_array(path, loaded), None if coords is None else _as_array(path, coords), attributes, name)


class _BFloat16:
    """Tensor of a type that numpy lacks; the slices that are read become float32."""

    dtype = np.dtype(np.float32)
    type_in_file = "bfloat16"

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.shape = tuple(tensor.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[np.float32]:
        return self.tensor[index].float().numpy()


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    try:
        with warnings.catch_warnings():
            # Before torch refuses a foreign pickle, it warns of a missing feature and asks for a report.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        cause = explain_failure(path, error)
        if "truncated or damaged" not in str(cause):
            raise cause from None
        raise DataError(
            f"{path}: is not a file of tensors alone; a pickle of other objects can run code and is not "
            "opened. Save it again with torch.save, from a tensor or from a dictionary of tensors "
            "`features` and `coords`"
        ) from None
    except Exception as error:  # for a damaged file torch raises errors of any type
        raise explain_failure(path, error) from error


def _as_array(path: Path, tensor: torch.Tensor) -> Any:
    """Return a view of the tensor for numpy; nothing is copied."""
    tensor = tensor.detach()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise DataError(f"{path}: holds a sparse or quantized tensor, or none with values. Save a dense tensor")
    needed, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if needed > stored:
        raise DataError(
            f"{path}: a tensor of shape {list(tensor.shape)} needs {needed:,} bytes, but {stored:,} are stored; it "
            "repeats rows. Save it again with `.contiguous()`"
        )
    return _BFloat16(tensor) if tensor.dtype == torch.bfloat16 else tensor.resolve_conj().resolve_neg().numpy()
