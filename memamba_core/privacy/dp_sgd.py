"""Patient-level DP-SGD (Abadi et al. 2016): one patient per backward pass, on Opacus' `DPOptimizer`.

A step draws each patient independently, clips the gradient of each patient to norm C, sums the gradients, adds noise of
standard deviation sigma C to every parameter, and divides by an agreed number that does not depend on who was drawn.
With one patient per backward pass the model needs no hooks: every kernel, every length of a bag and every missing
modality is supported. The neighbouring data set has one patient more or less, all slides of this patient included.

A step without patients is a step like any other and consists of noise alone. A gradient that is not finite counts as
zero.

Norms, sums and noise are float64. In float32 the rounding of a sum depends on who is in it: among 4,000 patients one
more moved the sum by up to 1.24 C (the attack of Casacuberta et al. 2022). In float64 the rounding of a sum of n
clipped gradients adds at most n^2 2^-53 C to that distance, 1.1e-6 C for 99,999 patients, less than the margin below C.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from memamba_core.privacy.opacus_imports import DPOptimizer
from memamba_core.privacy.secure_random import SecureRandom

__all__ = ["PatientOptimizer"]

_CLIP_MARGIN: Final = 2e-6
"""Margin below C for clipping: more than rounding in float64 can add."""


class PatientOptimizer(DPOptimizer):  # type: ignore[misc]  # Opacus has no types
    """Optimizer that sums clipped gradients of single patients and then takes one noisy step.

    ::

        for patient in drawn:
            loss(model, patient).backward()
            optimizer.add_patient()
        optimizer.noisy_step()

    Args:
        optimizer: optimizer that takes the step; plain SGD in this project.
        noise_multiplier: sigma; noise has standard deviation sigma x `max_norm` before the division.
        max_norm: C, the largest norm of one patient's gradient over all parameters.
        divisor: the agreed expected number of patients in a step; public.
        random: source of the noise.

    Attributes:
        num_not_finite: patients whose gradient counted as zero. Only for the log of the site; never disclosed.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        noise_multiplier: float,
        max_norm: float,
        divisor: float,
        random: SecureRandom,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_multiplier,
            max_grad_norm=max_norm * (1.0 - _CLIP_MARGIN),
            expected_batch_size=divisor,
        )
        self._noise_std = noise_multiplier * max_norm
        self._random = random
        self.num_not_finite = 0
        self.zero_grad(set_to_none=True)

    def add_patient(self) -> None:
        """Clip the gradient of the last backward pass, which is that of one patient, and add it to the sum."""
        gradients: Sequence[Tensor | None] = [parameter.grad for parameter in self.params]
        finite = all(g is None or bool(torch.isfinite(g).all()) for g in gradients)
        self.num_not_finite += not finite
        for parameter, gradient in zip(self.params, gradients, strict=True):
            # parameters that the patient does not reach (a missing modality) have a gradient of zero and get noise too
            kept = torch.zeros_like(parameter) if gradient is None or not finite else gradient.detach()
            parameter.grad_sample = kept.unsqueeze(0)
        self.signal_skip_step(True)
        self.step()
        self.zero_grad(set_to_none=True)

    def leave_out(self) -> None:
        """Count the patient at hand as a gradient of zero: forget what a backward pass has left, finished or not."""
        for parameter in self.params:
            parameter.grad = None
            parameter.grad_sample = None

    def noisy_step(self) -> None:
        """Add noise to the sum, divide, and step; also if no patient was added."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.signal_skip_step(False)
        self.step()
        self.zero_grad(set_to_none=True)

    def clip_and_accumulate(self) -> None:
        """Clip the gradient of one patient, or of none, and add it to the sum (hook of Opacus), in float64."""
        samples: list[Tensor] = [sample.double() for sample in self.grad_samples]
        square = sum(float(sample.square().sum()) for sample in samples)
        factor = min(1.0, self.max_grad_norm / square**0.5) if square else 1.0
        for parameter, sample in zip(self.params, samples, strict=True):
            if parameter.summed_grad is None:
                parameter.summed_grad = sample.new_zeros(parameter.shape)
            for gradient in sample:
                parameter.summed_grad += gradient * factor

    def add_noise(self) -> None:
        """Add noise between sum and division (hook of Opacus), in float64 and rounded once; then replace the key."""
        for parameter in self.params:
            total: Tensor = parameter.summed_grad
            noise = torch.from_numpy(self._random.normal(parameter.numel()) * self._noise_std).view(parameter.shape)
            parameter.grad = (total + noise.to(parameter.device)).to(parameter.dtype)
        self._random.rekey()
