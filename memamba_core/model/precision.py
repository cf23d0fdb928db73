"""Numerical precision: regions without autocast (long sums, exponentials, sort keys), and precise matrix products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["at_least_float32", "matmul_precision", "no_autocast"]


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set torch's precision of float32 products within the region: highest, high or medium.

    The setting applies to the whole process, other threads included.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def no_autocast(device: torch.device) -> torch.autocast:
    """Return a region in which matrix products keep the dtype of their operands, even inside of autocast."""
    return torch.autocast(device_type=device.type, enabled=False)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor in float32, or unchanged if it is float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
