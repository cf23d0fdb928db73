"""How a function becomes machine code, and where that is kept for the next process."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from numba import njit, types
from numba.extending import register_jitable

__all__ = [
    "FLAG",
    "GROUPS",
    "INTEGER",
    "MATRIX",
    "PLACES",
    "ROW",
    "SEQUENCE",
    "digest_of_sources",
    "helper",
    "inlined",
    "kernel",
]

INTEGER: Final = types.int64
FLAG: Final = types.boolean
ROW: Final = types.float32[:]
MATRIX: Final = types.float32[:, :]
SEQUENCE: Final = types.float32[:, :, :]
GROUPS: Final = types.float32[:, :, :, :]
PLACES: Final = types.int64[:, :]

# No `fastmath`: sums keep their order, and NaN stays NaN. Divisions by zero give infinity, as in torch.
_OPTIONS: Final[dict[str, Any]] = {"nogil": True, "error_model": "numpy"}

helper = register_jitable(**_OPTIONS)
"""A function that kernels call, and Python as it is."""
inlined = njit(forceinline=True, **_OPTIONS)
"""A function that becomes a part of each kernel that calls it, as every function of vectors has to."""


def digest_of_sources(folder: Path) -> str:
    """A few letters that change with any Python file of a folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


_SOURCES: Final = digest_of_sources(Path(__file__).parent)


def kernel(function: Callable[..., None]) -> Any:
    """Compiles for the types that annotate the parameters, now, or takes what an earlier process has left on the disk.

    numba keeps the code beside this file, in $NUMBA_CACHE_DIR or in the user's cache folder, by processor, and
    compares the source of the kernel's own file. It does not see the helpers in other files change: hence the digest
    in the name.
    """
    signature = types.void(*(parameter.annotation for parameter in inspect.signature(function).parameters.values()))
    function.__qualname__ = f"{function.__name__}_{_SOURCES}"
    try:
        return njit(signature, cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError):  # none of these folders can be written to
        return njit(signature, **_OPTIONS)(function)
