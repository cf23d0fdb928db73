"""Compiler settings: turn functions into machine code and keep it for the next process."""

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
"""Decorator of a function that kernels call and that Python can call uncompiled."""
inlined = njit(forceinline=True, **_OPTIONS)
"""Decorator of a function that is inlined into each kernel that calls it, as every function of vectors must be."""


def digest_of_sources(folder: Path) -> str:
    """Return a short digest that changes with any Python file of a folder."""
    sha = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


_SOURCES: Final = digest_of_sources(Path(__file__).parent)


def kernel(function: Callable[..., None]) -> Any:
    """Compile a function now for the types that annotate its parameters, or load the code of an earlier process.

    numba keeps the code next to this file, in $NUMBA_CACHE_DIR or in the user's cache folder, by processor. It compares
    the source of the kernel's own file but does not notice changes of helpers in other files; the digest in the name
    makes up for that.
    """
    signature = types.void(*(parameter.annotation for parameter in inspect.signature(function).parameters.values()))
    function.__qualname__ = f"{function.__name__}_{_SOURCES}"
    try:
        return njit(signature, cache=True, **_OPTIONS)(function)
    except (RuntimeError, OSError):  # none of these folders is writable
        return njit(signature, **_OPTIONS)(function)
