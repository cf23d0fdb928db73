"""The science and the wire contract: data, model, survival, training and privacy.

Knows nothing of Flower, Ray, servers or clients. Rooms, from the bottom up: `errors`; `message`; `config`, `protocol`
and `records`; `survival`; `model`, `data` and `privacy`; `training`. Imports go down only.
"""

import os
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


# Settings of the process that are read once: by libgomp as torch is imported, by torch as it makes its first tensor. So
# every package of this project imports this one before torch. Who has set them keeps what they chose.

# The threads of libgomp, which computes torch's products, keep their processors busy for milliseconds after their work
# is done. Next to threads of our own, or another process, they are in the way.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Tensors of 2 MiB and more lie in huge pages, where Linux hands them out on request: fewer pages to map, and fewer
# addresses to look up for kernels that stride over rows.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
