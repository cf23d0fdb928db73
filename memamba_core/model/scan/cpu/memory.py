"""A setting of the C library's allocator that large tensors on a CPU want."""

import ctypes
import functools
import os
from typing import Final

__all__ = ["keep_freed_memory"]

# From malloc.h: free memory at the end of the heap above the first goes back to the system; allocations from the second
# on are mapped anew each time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT: Final = 2**30
_MAPPED: Final = 2**26 + 2**16  # a tensor of 64 MiB, which is a little more with what malloc adds, is not
_MAPPED_BY_OLD_GLIBC: Final = 2**25  # the most that it takes before 2.35
_CHOSEN_BY_A_PERSON: Final = ("GLIBC_TUNABLES", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")


@functools.cache
def keep_freed_memory() -> bool:
    """Lets the process keep up to 1 GiB of freed memory for its next allocation, if its C library is glibc.

    glibc maps an allocation of 32 MiB or more anew, page by page, each time. With long bags every tensor is that large:
    four blocks at 16,384 tokens spend more than a tenth of one thread's time on it. The price is a tenth more resident
    memory, and that it stays with the process; so what is larger than 64 MiB is still mapped, because there memory is
    what one runs out of: kept pieces of a few hundred MB fit the next tensor badly. Only the main thread gains, the
    heaps of others are too small. Whoever has set one of glibc's own variables keeps what they chose.

    Returns:
        Whether the setting was made.
    """
    if not _is_glibc() or any(name in os.environ for name in _CHOSEN_BY_A_PERSON):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mapped = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (_MAPPED, _MAPPED_BY_OLD_GLIBC))
    return mapped and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError, OSError):  # not Unix; another C library
        return False
