"""Randomness = f(run seed, names): the same numbers for every order of arrival, process and node id."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["derive_seed", "seeded"]


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive a 63-bit seed for a purpose, for example `derive_seed(0, "st-elsewhere", 3, "order")`.

    The seed is a SHA-256 over the parts, so that neighbouring seeds and names give unrelated streams.
    """
    text = "\x1f".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators (CPU, and CUDA if present) within the block, and restore them after it."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed writes a stack trace for each absent accelerator
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield
