"""Process settings for speed: environment variables and the C library's allocator.

Entry points call `set_up_process()` before anything imports torch; an import of a package never does. A library user
gets the same speed by the same call. This module therefore imports nothing that imports torch.
"""

import ctypes
import os
from typing import Final

__all__ = ["keep_freed_memory", "set_up_process"]

# Parameters of mallopt, from glibc's malloc.h. M_TRIM_THRESHOLD: free memory above this size at the end of the heap
# goes back to the system. M_MMAP_THRESHOLD: an allocation of at least this size is mapped separately each time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 2**30
_MAPPED: Final = 2**26 + 2**16  # a tensor of 64 MiB, which malloc's own data make a little larger, stays below it
_MAPPED_BY_OLD_GLIBC: Final = 2**25  # the largest value that glibc before 2.35 accepts
_GLIBC_VARIABLES: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


def set_up_process() -> None:
    """Set the environment variables that torch and libgomp read once, and the allocator.

    Call this function before torch is imported. Variables that are already set keep their values. Child processes
    inherit the variables, but not the allocator's setting: each process that computes calls this function itself. A
    second call changes nothing.
    """
    # libgomp reads its variables when torch is imported. Its threads compute torch's products and keep their processors
    # busy for milliseconds after the work is done, which slows this project's own threads and other processes.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    # torch reads this variable when it makes its first tensor. Tensors of 2 MiB and more then lie in huge pages, where
    # Linux hands them out on request: fewer pages to map, and fewer address look-ups for kernels that stride over rows.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    keep_freed_memory()


def keep_freed_memory() -> bool:
    """Let the process keep up to 1 GiB of freed memory for later allocations, if its C library is glibc.

    By default glibc maps every allocation of 32 MiB or more separately, page by page. With long bags every tensor is
    that large: four blocks at 16,384 tokens spend more than a tenth of one thread's time on mapping. The price is a
    tenth more resident memory, which stays with the process. Allocations above 64 MiB are still mapped separately,
    because memory is scarce at those sizes and a kept piece of a few hundred MB rarely fits the next tensor. Only the
    main thread gains; the heaps of other threads are too small. If one of glibc's own variables is set, this function
    changes nothing.

    Returns:
        True if the setting was made.
    """
    if not _is_glibc() or any(name in os.environ for name in _GLIBC_VARIABLES):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mapped = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_MAPPED, _MAPPED_BY_OLD_GLIBC))
    return mapped and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # not Unix, or another C library
        return False
