"""Weight deltas: the change of the weights in a round, rounded to bfloat16, at half the size of the weights.

A site sends the change and not the weights, because bfloat16 keeps three digits. Three digits suffice for a change; for
a weight that hardly moves, they would be coarser than the step. Rounding is to the nearest, ties to even, as in torch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.errors import ProtocolError

__all__ = ["decode_delta", "encode_delta"]

Weights = Mapping[str, npt.NDArray[Any]]


def encode_delta(weights: Weights, base: Weights) -> dict[str, npt.NDArray[np.uint16]]:
    """Return `weights - base`, each value as the 16 bits of a bfloat16.

    Args:
        weights: float32, of the names and shapes of `base`.
        base: float32.
    """
    return {
        name: torch.from_numpy(np.asarray(array - base[name])).to(torch.bfloat16).view(torch.uint16).numpy()
        for name, array in weights.items()
    }


def decode_delta(delta: Weights, base: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """Return the float32 weights `base + delta`.

    Args:
        delta: result of `encode_delta`.
        base: the weights that `encode_delta` subtracted.

    Raises:
        ProtocolError: names, shapes or dtypes do not match `base`.
    """
    if set(delta) != set(base):
        first = sorted(set(delta) ^ set(base))[:3]
        raise ProtocolError(f"the delta has {len(delta)} names; expected {len(base)}. First differences: {first}")
    weights = {}
    for name, reference in base.items():
        bits = delta[name]
        if bits.dtype != np.uint16 or bits.shape != reference.shape:
            raise ProtocolError(f"the delta of {name} is {bits.dtype} {bits.shape}; expected uint16 {reference.shape}")
        weights[name] = reference + (bits.astype(np.uint32) << 16).view(np.float32)
    return weights
