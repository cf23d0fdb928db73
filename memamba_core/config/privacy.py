"""Differential privacy of what a site sends, for each of its patients (docs/explanation/privacy.md)."""

from typing import Annotated, Literal

from pydantic import Field

from memamba_core.config.base import Settings

__all__ = ["DPSGDConfig", "NoPrivacyConfig", "PrivacyConfig"]


class NoPrivacyConfig(Settings):
    """No differential privacy: the coordinator is trusted with aggregates, not with patients."""

    name: Literal["none"] = "none"


class DPSGDConfig(Settings):
    """Patient-level DP-SGD at every site."""

    name: Literal["dp_sgd"] = "dp_sgd"
    epsilon: float = Field(8.0, gt=0, le=1000)
    """Privacy loss of the whole run for each patient; the noise follows from it."""
    delta: float = Field(1e-5, ge=1e-9, le=1e-5)
    """Public, and the same at every site; at most one over ten times the patients of the largest site. A site refuses a
    run whose delta is above its own."""
    sampling_rate: float = Field(0.9, gt=0, le=0.9)
    """Probability with which each patient takes part in a step. Public, not made from a site's number of patients."""
    steps_per_round: int = Field(1, ge=1, le=1000)
    """Noisy steps in a round; in this mode they replace `federation.local_epochs`."""
    trained: Literal["last_layers", "all"] = "last_layers"
    """Parameters that learn; the others keep their initial values. `last_layers`: the linear skips and the last layer
    of the head. Noise falls on every trained parameter, and the patients of one site can pay for few."""
    max_norm: float = Field(5.0, gt=0)
    """Norm C to which each patient's gradient is clipped. Where C is below most norms, all patients count alike, those
    with and without the event."""


PrivacyConfig = Annotated[NoPrivacyConfig | DPSGDConfig, Field(discriminator="name")]
"""With or without differential privacy; `name` says which."""
