"""Thread pool that runs kernels. Neither OpenMP's nor numba's threads survive a fork of a process that uses torch."""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch

__all__ = ["MIN_WORK_PER_THREAD", "run_blocks"]

MIN_WORK_PER_THREAD: Final = 2**20
"""Number of exponentials below which another thread costs more than it saves."""


def run_blocks(kernel: Callable[..., None], blocks: int, work: int, **arguments: Any) -> None:
    """Run a kernel over all blocks, on as many threads as torch may use and the work justifies.

    Kernels release the interpreter's lock, and each call takes a range of blocks of its own. So the number of threads
    changes only the time.

    Args:
        kernel: function whose first arguments are the first block and the block after the last.
        blocks: number of blocks.
        work: number of exponentials in all blocks.
        arguments: other arguments of the kernel, by name.
    """
    threads = min(blocks, work // MIN_WORK_PER_THREAD, torch.get_num_threads())
    if threads <= 1:
        kernel(0, blocks, **arguments)
        return
    bounds = [blocks * i // threads for i in range(threads + 1)]
    _thread_pool.run(
        [functools.partial(kernel, first, last, **arguments) for first, last in itertools.pairwise(bounds)]
    )


class _ThreadPool:
    """Thread pool as large as the largest number of threads needed so far; a forked process makes its own."""

    def __init__(self) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Forget all threads. In a forked child they do not exist, although lock and queue were copied."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0

    def run(self, jobs: list[Callable[[], None]]) -> None:
        """Run all jobs, the first in the calling thread. Return when the last has ended."""
        first, *others = jobs
        pool = self._threads(len(others))
        futures = [pool.submit(job) for job in others]
        first()
        for future in futures:
            future.result()

    def _threads(self, count: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._size < count:
                # The previous pool ends with its last job, because no reference to it remains.
                self._pool, self._size = ThreadPoolExecutor(count, thread_name_prefix="memamba"), count
            return self._pool


_thread_pool = _ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread_pool.dismiss)
