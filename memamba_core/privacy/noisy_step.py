"""One step of DP-SGD, in the terms of an accountant."""

from dataclasses import dataclass
from typing import Final

from memamba_core.errors import ConfigError

__all__ = ["NOISE_RANGE", "NoisyStep"]

NOISE_RANGE: Final = (0.3, 1000.0)
"""Accepted noise multipliers. Below this range an accountant takes very long to find that nothing is private."""


@dataclass(frozen=True, order=True)
class NoisyStep:
    """One step of DP-SGD, in the terms of an accountant.

    Attributes:
        noise_multiplier: sigma, standard deviation of the noise over the clipping norm.
        sampling_rate: q, probability with which each patient takes part.
    """

    noise_multiplier: float
    sampling_rate: float

    def __post_init__(self) -> None:
        low, high = NOISE_RANGE
        if not low <= self.noise_multiplier <= high:
            raise ConfigError(f"noise_multiplier must be in [{low}, {high}], got {self.noise_multiplier}")
        if not 0.0 < self.sampling_rate < 1.0:
            raise ConfigError(f"sampling_rate must be in (0, 1), got {self.sampling_rate}")
