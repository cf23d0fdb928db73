"""When numba is imported and kernels are compiled: not before the first scan."""

import functools
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

__all__ = ["load_kernels", "numba_is_here"]


@functools.cache
def numba_is_here() -> bool:
    """Whether numba can be imported. The first answer takes half a second, for the import itself."""
    try:
        with _uncollected():
            import numba  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def load_kernels() -> ModuleType:
    """The compiled kernels: seconds after an installation, then a fraction of one from the disk."""
    with _uncollected():
        from memamba_core.model.scan.cpu import kernels
    return kernels


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection within: it would walk all of torch's objects several times, a quarter of the loading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
