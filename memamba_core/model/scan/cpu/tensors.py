"""Conversion of tensors to the arrays that kernels read and write."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from memamba_core.model.scan.cpu.loading import load_kernels

__all__ = ["sum_of_parts", "to_array", "to_buffer"]


def to_array(tensor: Tensor | None, axes: int = 0) -> npt.NDArray[np.float32]:
    """Return the tensor as an array whose last axis is contiguous; None: an empty array of `axes` axes.

    The array shares the tensor's memory if the layout allows it, and is a copy otherwise.
    """
    if tensor is None:
        return np.empty((0,) * axes, np.float32)
    tensor = tensor.detach()
    array: npt.NDArray[np.float32] = (tensor if tensor.stride(-1) == 1 else tensor.contiguous()).numpy()
    return array


def to_buffer(tensor: Tensor | None, axes: int = 0) -> npt.NDArray[np.float32]:
    """Return the tensor's own memory as an array that kernels write to; None: an empty array of `axes` axes.

    Kernels take neighbours in memory for neighbours on the last axis. `to_array` would copy another layout, and what a
    kernel writes to a copy is lost.
    """
    assert tensor is None or tensor.stride(-1) == 1 or tensor.shape[-1] == 1, (
        f"a buffer has strides {tensor.stride()}; its last axis must be contiguous"
    )
    return to_array(tensor, axes)


def sum_of_parts(parts: Float[np.ndarray, "P ..."]) -> Float[Tensor, "..."]:
    """Sum over the first axis, in its order: torch's own sum may depend on the number of threads."""
    if len(parts) == 1:
        return torch.from_numpy(parts[0])
    total = torch.empty(parts.shape[1:])
    load_kernels().sum_parts(parts.reshape(len(parts), 1, 1, -1), total.view(1, 1, -1).numpy())
    return total
