"""The loop over patients: loss, optimizer, schedule, precision."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from memamba_core.config.base import Settings

__all__ = ["AdamWConfig", "LossConfig", "OptimizerConfig", "SGDConfig", "TrainingConfig"]


class LossConfig(Settings):
    """Terms of the training loss."""

    alpha: float = Field(0.0, ge=0, le=1)
    """(1 - alpha) x all patients + alpha x patients with an event (Zadeh & Schmid 2020)."""
    censored_bin: Literal["through", "before"] = "through"
    """A patient censored in bin k is credited with surviving bins ...k (MCAT's convention) or ...k-1."""
    mmd_weight: float = Field(0.1, ge=0)
    """Weight of the fusion loss."""
    transport_weight: float = Field(0.0, ge=0)
    """Weight of <plan, cost>, through which gradient reaches the transport cost."""
    expert_weight: float = Field(0.0, ge=0)
    """Weight of the likelihood on each unimodal expert's own small head; 0 builds no such head."""


class _Optimizer(Settings):
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of the schedule."""
    weight_decay: float = Field(0.01, ge=0)
    """Weight decay, decoupled for AdamW. `A_log`, `D`, biases and norms have none."""
    skip_weight_decay: float = Field(0.3, ge=0)
    """Weight decay of the linear skip alone."""

    @model_validator(mode="after")
    def _decay_shrinks(self) -> Self:
        """Refuse a decay that turns weights around: each step would multiply them, and with them earlier gradients."""
        largest = max(self.weight_decay, self.skip_weight_decay)
        if self.learning_rate * largest > 1:
            raise ValueError(
                f"learning_rate x weight decay is {self.learning_rate * largest:g}; expected at most 1, because a "
                "larger product makes weights grow"
            )
        return self


class AdamWConfig(_Optimizer):
    """AdamW (Loshchilov & Hutter 2019)."""

    name: Literal["adamw"] = "adamw"


class SGDConfig(_Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    momentum: float = Field(0.0, ge=0, lt=1)
    """Share of the last step that is repeated."""


OptimizerConfig = Annotated[AdamWConfig | SGDConfig, Field(discriminator="name")]
"""One optimizer; `name` says which."""


class TrainingConfig(Settings):
    """The loop over patients, and the optimizer of pooled and single-site training."""

    optimizer: OptimizerConfig = AdamWConfig()
    batch_size: int = Field(64, ge=1)
    """Patients per optimizer step."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Schedule of the learning rate over the whole run (in a federation: over all rounds)."""
    warmup_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the run in which the learning rate rises linearly."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest gradient norm of a step."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast around the forward pass; weights and optimizer stay float32."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 matrix products in training: `medium` rounds their operands to bfloat16 where the processor
    has units for that, `high` to TF32 on a GPU (no effect on a CPU). Sums stay float32. Cost:
    docs/explanation/model.md."""
    max_patches: int | None = Field(None, ge=1)
    """Patches sampled per patient and epoch in training; None uses all. Evaluation uses all, up to a site's limit."""
    loss: LossConfig = LossConfig()
