"""Differential privacy of what a site sends, patient by patient (docs/privacy.md)."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from memamba_core.config.choice import Choice

__all__ = ["PrivacyConfig"]


class PrivacyConfig(Choice):
    """With or without; `none` knows no settings."""

    own_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "none": {},
        "dp_sgd": {
            "epsilon": 8.0,
            "delta": 1e-5,
            "sampling_rate": 0.9,
            "steps_per_round": 1,
            "trained": "last_layers",
            "max_norm": 5.0,
        },
    }
    name: Literal["none", "dp_sgd"] = "none"
    epsilon: float | None = Field(None, gt=0, le=1000)
    """What the whole run may cost each patient; the noise follows from it."""
    delta: float | None = Field(None, gt=0, le=1e-3)
    """Public, and the same at every site; below one over the patients of the largest site."""
    sampling_rate: float | None = Field(None, gt=0, le=0.9)
    """Probability with which each patient takes part in a step. Public, not made from a site's number of patients."""
    steps_per_round: int | None = Field(None, ge=1, le=1000)
    """Noisy steps in a round; in this mode they take the place of `federation.local_epochs`."""
    trained: Literal["last_layers", "all"] | None = None
    """Which parameters learn; the others stay as they were drawn. `last_layers`: the linear skips and the last layer of
    the head. Noise falls on every trained parameter, and a hospital's patients can pay for few."""
    max_norm: float | None = Field(None, gt=0)
    """Norm C to which each patient's gradient is clipped. Where it is below most norms, all patients count alike, those
    with and without the event."""
