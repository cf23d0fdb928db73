"""Changes of weights at half the size: what a site learned in a round, rounded to bfloat16.

The change is sent and not the weights, because bfloat16 keeps three digits: of a change they are enough, of a weight
that hardly moves they would be coarser than its step. Rounding is to the nearest, ties to even, as torch does it.
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
    """`weights - base`, each value as the 16 bits of a bfloat16.

    Args:
        weights: float32, of the names and shapes of `base`.
        base: float32.
    """
    return {
        name: torch.from_numpy(np.asarray(array - base[name])).to(torch.bfloat16).view(torch.uint16).numpy()
        for name, array in weights.items()
    }


def decode_delta(delta: Weights, base: Weights) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 weights that a delta leads to.

    Args:
        delta: of `encode_delta`.
        base: the same that it was made with.

    Raises:
        ProtocolError: names, shapes or types are not those of a delta of `base`.
    """
    if set(delta) != set(base):
        first = sorted(set(delta) ^ set(base))[:3]
        raise ProtocolError(f"a delta with {len(delta)} names, sent {len(base)}; first differences: {first}")
    weights = {}
    for name, reference in base.items():
        bits = delta[name]
        if bits.dtype != np.uint16 or bits.shape != reference.shape:
            raise ProtocolError(f"the delta of {name} is {bits.dtype} {bits.shape}, wanted uint16 {reference.shape}")
        weights[name] = reference + (bits.astype(np.uint32) << 16).view(np.float32)
    return weights
