"""Randomness that nobody can replay: for the noise and the sampling of differential privacy.

Never seeded: a coordinator that knew the seed could subtract the noise and keep the gradient. `seeding` is for
everything that must be repeatable, this is for what must not be.
"""

import math
import os

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

__all__ = ["SecureRandom"]

_SUMMANDS = 4
"""Normal numbers that are added for each one returned: the low bits of a single Box-Muller number tell of its
inputs, so that its exact value could betray what it was added to (Holohan & Braghin 2021, arXiv 2107.10138)."""


class SecureRandom:
    """AES-256 in counter mode under a key of the operating system, renewed by `rekey`."""

    def __init__(self) -> None:
        self.rekey()

    def rekey(self) -> None:
        """Forget the key: what was drawn before cannot be computed again, even from this process's memory."""
        self._stream: CipherContext = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def bernoulli(self, num: int, probability: float) -> npt.NDArray[np.bool_]:
        """`num` independent coins that show True with `probability`, to within 2^-64."""
        if not 0.0 <= probability <= 1.0:
            raise ValueError(f"probability must be in [0, 1], got {probability}")
        if probability == 1.0:
            return np.ones(num, dtype=np.bool_)
        return self._words(num) < np.uint64(int(probability * 2**64))

    def seed(self) -> int:
        """63 bits, for a generator that has to be seeded. What that one puts out is independent of all else here."""
        return int(self._words(1)[0] >> np.uint64(1))

    def normal(self, num: int) -> npt.NDArray[np.float64]:
        """`num` independent standard normal numbers (Box-Muller in float64, the sum of four by two)."""
        total = np.zeros(num)
        for _ in range(_SUMMANDS):
            total += self._box_muller(num)
        return total / math.sqrt(_SUMMANDS)

    def _box_muller(self, num: int) -> npt.NDArray[np.float64]:
        half = (num + 1) // 2
        words = self._words(2 * half) >> np.uint64(11)  # 53 bits, as many as a float64 holds
        radius = np.sqrt(-2.0 * np.log((words[:half].astype(np.float64) + 1.0) * 2.0**-53))  # of (0, 1]: finite
        angle = words[half:].astype(np.float64) * (2.0**-52 * math.pi)
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:num]

    def _words(self, num: int) -> npt.NDArray[np.uint64]:
        return np.frombuffer(self._stream.update(bytes(8 * num)), dtype="<u8")
