"""Where autocast must not reach: sums over many terms, exponentials, and anything that is sorted."""

import torch

__all__ = ["no_autocast", "widen"]


def no_autocast(device: torch.device) -> torch.autocast:
    """A region in which matrix products keep the type of their operands, whatever surrounds it."""
    return torch.autocast(device_type=device.type, enabled=False)


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is where it is wider already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
