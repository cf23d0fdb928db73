"""The science and the wire contract: data, model, survival, training and privacy.

The package knows nothing of Ray, servers or clients, and of Flower only its public messages. From the bottom up it
holds `errors`; `io`; `figures`; `patient`, `wire` and `config`; `survival`; `model`, `data` and `privacy`; `training`.
Imports go down only. Importing the package changes nothing of the process: `io.process_setup` is for entry points.
"""

from typing import TYPE_CHECKING, Any

from memamba_core.errors import MemambaError

if TYPE_CHECKING:
    from memamba_core.inference import PatchAttention, PatientPredictions, SurvivalModel, load_model, load_patients

__all__ = ["MemambaError", "PatchAttention", "PatientPredictions", "SurvivalModel", "load_model", "load_patients"]


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that importing the package does not import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from memamba_core import inference

    return getattr(inference, name)
