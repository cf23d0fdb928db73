"""Randomness that cannot be replayed, for the noise and the sampling of differential privacy.

The generator is never seeded: a coordinator that knew the seed could subtract the noise and obtain the gradient. Use
`seeding` for everything that must be repeatable, and this module for everything that must not be.
"""

import math
import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

__all__ = ["SecureRandom"]

_SUMMANDS = 4
"""Normal numbers summed for each returned number: the low bits of a single Box-Muller number depend on its inputs, so
that the exact value of a sum could reveal the other summand (Holohan & Braghin 2021, arXiv 2107.10138)."""


class SecureRandom:
    """Random stream of AES-256 in counter mode under a key of the operating system, replaced by `rekey`."""

    def __init__(self) -> None:
        self.rekey()

    def rekey(self) -> None:
        """Replace the key: earlier numbers cannot be computed again, not even from the memory of this process."""
        self._stream: CipherContext = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def bernoulli(self, num: int, probability: float) -> npt.NDArray[np.bool_]:
        """Draw `num` independent booleans, True with `probability`, to within 2^-64."""
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        if probability == 1.0:
            return np.ones(num, dtype=np.bool_)
        return self._words(num) < np.uint64(int(probability * 2**64))

    def seed(self) -> int:
        """Draw 63 bits as the seed of another generator, whose output is independent of everything else drawn here."""
        return int(self._words(1)[0] >> np.uint64(1))

    def normal(self, num: int) -> npt.NDArray[np.float64]:
        """Draw `num` independent standard normal numbers (Box-Muller in float64: the sum of four, divided by two)."""
        total = np.zeros(num)
        for _ in range(_SUMMANDS):
            total += self._box_muller(num)
        return total / math.sqrt(_SUMMANDS)

    def _box_muller(self, num: int) -> npt.NDArray[np.float64]:
        half = (num + 1) // 2
        words = self._words(2 * half) >> np.uint64(11)  # 53 bits, the precision of a float64
        radius = np.sqrt(
            -2.0 * np.log((words[:half].astype(np.float64) + 1.0) * 2.0**-53)
        )  # arguments in (0, 1]: finite
        angle = words[half:].astype(np.float64) * (2.0**-52 * math.pi)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:num]

    def _words(self, num: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * num)), dtype="<u8")
