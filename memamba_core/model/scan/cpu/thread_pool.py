"""The threads that run kernels: our own, because neither OpenMP nor numba's survive a fork beside torch."""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import torch

__all__ = ["run_blocks"]

_WORTH_A_THREAD: Final = 2**20
"""Exponentials below which another thread costs more than it saves."""


def run_blocks(kernel: Callable[..., None], blocks: int, work: int, **arguments: Any) -> None:
    """Runs a kernel over all blocks, on as many threads as torch may use and the work is worth.

    Kernels release the interpreter's lock and each call takes a range of blocks of its own, so that the number of
    threads changes nothing but the time.

    Args:
        kernel: takes the first block, and the block after the last, before the other arguments.
        blocks: number of blocks.
        work: number of exponentials in all of them.
        arguments: of the kernel, by name.
    """
    threads = min(blocks, work // _WORTH_A_THREAD, torch.get_num_threads())
    if threads <= 1:
        kernel(0, blocks, **arguments)
        return
    bounds = [blocks * i // threads for i in range(threads + 1)]
    _thread_pool.run(
        [functools.partial(kernel, first, last, **arguments) for first, last in itertools.pairwise(bounds)]
    )


class _ThreadPool:
    """As many threads as were ever needed at a time, made anew in a forked process."""

    def __init__(self) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """Forgets all threads. In a forked child they do not exist, though lock and queue say so."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._size = 0

    def run(self, jobs: list[Callable[[], None]]) -> None:
        """Runs all jobs, the first in the calling thread. Returns when the last has ended."""
        first, *others = jobs
        pool = self._threads(len(others))
        futures = [pool.submit(job) for job in others]
        first()
        for future in futures:
            future.result()

    def _threads(self, count: int) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._size < count:
                # The pool before it ends with its last job, because nobody holds it any more.
                self._pool, self._size = ThreadPoolExecutor(count, thread_name_prefix="memamba"), count
            return self._pool


_thread_pool = _ThreadPool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_thread_pool.dismiss)
