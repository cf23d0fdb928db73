"""Optimizers with their weight-decay groups, and the learning rate over a run."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from memamba_core.config.training import AdamWConfig, OptimizerConfig, TrainingConfig

__all__ = ["SGD", "AdamW", "build_optimizer", "learning_rate_factor", "set_learning_rate"]


class _WithoutCompiler(Optimizer):
    """Optimizer whose first step does not import torch's compiler.

    torch wraps these three methods so that `torch.compile` skips them. The wrappers import the compiler: a thousand
    modules, two to three seconds in every process that trains. This class calls the wrapped methods directly. The
    wrapper of `step` also turns gradients off, and so does this class.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # no closure is ever passed
        inspect.unwrap(super().step.__func__)(self, closure)  # type: ignore[attr-defined]


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """AdamW with the same bits as torch's."""


class SGD(_WithoutCompiler, torch.optim.SGD):
    """SGD with the same bits as torch's."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Build the optimizer of a model's parameters.

    Weight decay is zero on vectors (biases, norms, absent tokens) and on parameters marked `_no_weight_decay` (`A_log`
    and `D` of the Mamba block), `skip_weight_decay` on parameters marked `_skip_weight_decay`, and `weight_decay` on
    the rest.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    skip: list[nn.Parameter] = []
    for parameter in model.parameters():
        if getattr(parameter, "_skip_weight_decay", False):
            skip.append(parameter)
        elif parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False):
            free.append(parameter)
        else:
            decayed.append(parameter)
    groups = [
        {"params": parameters, "weight_decay": decay}
        for parameters, decay in ((decayed, config.weight_decay), (free, 0.0), (skip, config.skip_weight_decay))
        if parameters
    ]
    if isinstance(config, AdamWConfig):
        return AdamW(groups, lr=config.learning_rate, fused=True)  # one pass over a parameter instead of ten
    return SGD(groups, lr=config.learning_rate, momentum=config.momentum)


def learning_rate_factor(config: TrainingConfig, progress: float) -> float:
    """Compute the factor of the peak learning rate after a share `progress` (0...1) of the whole run.

    The factor rises linearly over `warmup_fraction`; then it falls as half a cosine to zero, or stays constant. The
    rise begins at a thousandth of the run, because a rate of zero would waste the first step.
    """
    if config.warmup_fraction and progress < config.warmup_fraction:
        return min(1.0, max(progress, 1e-3) / config.warmup_fraction)
    if config.schedule == "constant":
        return 1.0
    done = (progress - config.warmup_fraction) / (1.0 - config.warmup_fraction)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Set the learning rate of all parameter groups."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
