"""Optimizers with their groups of weight decay, and the learning rate over a run."""

import inspect
import math
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from memamba_core.config.training import AdamWConfig, OptimizerConfig, TrainingConfig

__all__ = ["SGD", "AdamW", "build_optimizer", "learning_rate_factor", "set_learning_rate"]


class _WithoutCompiler(Optimizer):
    """An optimizer whose first step does not import torch's compiler.

    torch wraps these three methods so that `torch.compile` leaves them alone, and the wrappers import it: a thousand
    modules, two to three seconds of every process that trains. Here they are called as they are inside. The wrapper of
    `step` also turns gradients off.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        inspect.unwrap(Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        inspect.unwrap(Optimizer.zero_grad)(self, set_to_none)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here is computed again
        inspect.unwrap(super().step.__func__)(self, closure)  # type: ignore[attr-defined]


class AdamW(_WithoutCompiler, torch.optim.AdamW):
    """torch's, to the last bit."""


class SGD(_WithoutCompiler, torch.optim.SGD):
    """torch's, to the last bit."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer of a model's parameters.

    Weight decay: none on vectors (biases, norms, absent tokens) and on parameters marked `_no_weight_decay` (`A_log`,
    `D` of the Mamba block), `skip_weight_decay` on those marked `_skip_weight_decay`, `weight_decay` on the rest.
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
    """What the peak learning rate is multiplied with after a share `progress` (0...1) of the whole run.

    Linear warm-up over `warmup_fraction`, from a thousandth of the run on because a rate of zero would waste the first
    step; then half a cosine to zero, or constant.
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
