"""Deferred loading: numba is imported and kernels are compiled at the first scan, not before."""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["load_kernels", "numba_is_installed"]


@functools.cache
def numba_is_installed() -> bool:
    """Return True if numba can be imported. The first call takes half a second, for the import itself."""
    try:
        with _without_garbage_collection():
            import numba  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def load_kernels() -> ModuleType:
    """Return the compiled kernels: in seconds after an installation, later from the disk in a fraction of a second."""
    with _without_garbage_collection():
        from memamba_core.model.scan.cpu import kernels
    return kernels


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Suspend garbage collection: it would walk all of torch's objects several times, a quarter of the loading time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
