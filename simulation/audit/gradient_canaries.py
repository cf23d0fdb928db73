"""Canaries with known gradients: made-up patients whose gradient is a chosen direction of the parameters.

The patients go through the training round of a site (`training.dp_training.train_dp_round`) like any other patient. The
model computes a loss for each whose gradient is known and longer than the clipping norm allows. No two canaries share a
coordinate, so each one is an experiment of its own: what the others do is no part of what is seen of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.data.dataset import PatientDataset
from memamba_core.errors import ConfigError
from memamba_core.model import MEMamba, ModelOutput
from memamba_core.patient import PatientInputs, SurvivalTarget

__all__ = ["Canary", "CanaryDataset", "CanaryModel", "Directions"]

_LENGTHS = (3.0, 10.0, 300.0, 10_000.0)
"""Norms of the canaries' gradients in clipping norms, one after the other: all of them have to be clipped."""
_GRADIENT_OF_LOSS = 0.5
"""Derivative of the loss of an event in the first bin by minus the logit of that bin, where the logit is 0."""


@dataclass(frozen=True)
class Canary(PatientInputs):
    """A made-up patient with an event in the first bin and no data.

    Attributes:
        number: index of its direction.
    """

    number: int = 0


@dataclass(frozen=True)
class Directions:
    """Unit vectors in the space of the trained parameters, no two with a common coordinate; together they cover it.

    Attributes:
        owner_P: the vector that each of the P coordinates belongs to.
        sign_P: sign of the coordinate in that vector.
        size_N: number of coordinates of each of the N vectors, all of the same magnitude.
    """

    owner_P: npt.NDArray[np.int64]
    sign_P: npt.NDArray[np.float32]
    size_N: npt.NDArray[np.int64]

    @classmethod
    def draw(cls, tensor_sizes: Sequence[int], num: int, rng: np.random.Generator) -> "Directions":
        """Draw the directions: one within each parameter tensor (up to half of them), the others across all tensors.

        A direction within one tensor shows a tensor without noise; one across all shows clipping of single tensors.

        Args:
            tensor_sizes: number of coordinates of each parameter tensor.
            num: number N of directions.
            rng: draws coordinates and signs.

        Raises:
            ConfigError: there are not enough coordinates.
        """
        total, local = sum(tensor_sizes), min(len(tensor_sizes), num // 2)
        owner_P = np.full(total, -1)
        start = 0
        for number, size in enumerate(tensor_sizes):
            if number < local:
                owner_P[start + rng.permutation(size)[: (size + 1) // 2]] = number
            start += size
        free = rng.permutation(np.flatnonzero(owner_P < 0))
        if len(free) < num - local:
            raise ConfigError(
                f"attacks.num_canaries is {num}; expected at most {len(free) + local} where {total} parameters are "
                "trained. Lower attacks.num_canaries"
            )
        owner_P[free] = local + np.arange(len(free)) % (num - local)
        sign_P = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), total)
        return cls(owner_P, sign_P, np.bincount(owner_P, minlength=num))

    def __len__(self) -> int:
        return len(self.size_N)

    def vector(self, number: int) -> npt.NDArray[np.float32]:
        """Return one unit vector, [P]."""
        return np.where(self.owner_P == number, self.sign_P / np.float32(np.sqrt(self.size_N[number])), np.float32(0))

    def project(self, values_P: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the components of a vector of the parameters along the directions, [N]."""
        sums_N = np.bincount(self.owner_P, weights=values_P * self.sign_P, minlength=len(self))
        return sums_N / np.sqrt(self.size_N)

    def spread(self, std_P: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the standard deviations of the components of noise with these deviations, [N]."""
        variances_N = np.bincount(self.owner_P, weights=np.asarray(std_P, np.float64) ** 2, minlength=len(self))
        return np.asarray(np.sqrt(variances_N / self.size_N))


class CanaryDataset(PatientDataset):
    """The canaries that a site has among its patients. Loads of each are counted: a load is a draw.

    Args:
        numbers: the canaries.
        draws_N: counts the loads of each canary; changed in place.
    """

    def __init__(self, numbers: Sequence[int], draws_N: npt.NDArray[np.int64]) -> None:  # a canary has no tables
        self._numbers = [int(number) for number in numbers]
        self._draws_N = draws_N
        self.max_patches = None

    def __len__(self) -> int:
        return len(self._numbers)

    def load(
        self, index: int, *, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> PatientInputs:
        """Return a canary and count it; a canary has no patches to choose from."""
        number = self._numbers[index]
        self._draws_N[number] += 1
        return Canary(SurvivalTarget(1.0, True, 0), number=number)


class CanaryModel(MEMamba):
    """ME-Mamba that computes a loss of known gradient for canaries. Parameters and names are those of the model.

    Attributes:
        trained: parameters that the run trains, in the order of the directions' coordinates; set before training.
        directions: set before training.
        max_norm: clipping norm, set before training.
    """

    trained: list[torch.nn.Parameter]
    directions: Directions
    max_norm: float

    def frozen(self) -> list[torch.nn.Parameter]:
        """Return the parameters that the run does not train."""
        trained = {id(parameter) for parameter in self.trained}
        return [parameter for parameter in self.parameters() if id(parameter) not in trained]

    def forward(self, patients: Sequence[PatientInputs]) -> ModelOutput:
        """Return a logit of 0 in each bin, whose derivative by the trained parameters is the canary's direction.

        Frozen parameters are offered a gradient, too: code that lets one of them learn shows it.
        """
        (canary,) = patients  # one patient per backward pass
        assert isinstance(canary, Canary)
        length = _LENGTHS[canary.number % len(_LENGTHS)] * self.max_norm / _GRADIENT_OF_LOSS
        values_P = self.directions.vector(canary.number) * np.float32(length)
        used, parts, start = [], [], 0
        for parameter in self.trained:
            values = values_P[start : start + parameter.numel()]
            start += parameter.numel()
            if values.any():  # a parameter that the direction does not reach has no gradient
                used.append(parameter)
                parts.append(torch.from_numpy(values).view_as(parameter).to(parameter))
        zero = self.trained[0].new_zeros(())
        for parameter in self.frozen():
            used.append(parameter)
            parts.append((zero + length).expand_as(parameter))
        logits_BK = torch.zeros(1, self._spec.num_bins).to(zero)
        logits_BK[0, 0] = -_Linear.apply(parts, *used)  # type: ignore[no-untyped-call]
        return ModelOutput(logits_BK, zero, zero, {})


class _Linear(torch.autograd.Function):
    """A number whose value is 0 and whose derivative by each parameter is given."""

    @staticmethod
    def forward(ctx: Any, parts: list[torch.Tensor], *parameters: torch.Tensor) -> torch.Tensor:
        ctx.parts = parts
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        needed = zip(ctx.parts, ctx.needs_input_grad[1:], strict=True)
        return (None, *(gradients[0] * part if wanted else None for part, wanted in needed))
