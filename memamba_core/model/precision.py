"""Where autocast must not reach (long sums, exponentials, what is sorted), and how exact products of matrices are."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["at_least_float32", "matmul_precision", "no_autocast"]


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """A region with torch's precision of float32 products: highest, high or medium. It holds for the whole process."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def no_autocast(device: torch.device) -> torch.autocast:
    """A region in which matrix products keep the type of their operands, whatever surrounds it."""
    return torch.autocast(device_type=device.type, enabled=False)


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or as it is where it is wider already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
