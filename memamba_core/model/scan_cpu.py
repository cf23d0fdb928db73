"""The selective scan on a CPU, compiled by numba: float32, forward and backward.

It is bound by the exponentials that the formula asks for, and by little else.

The algorithm, once (`scan_cpu_kernels` is its code; `scan` says what is computed):

* Inside, time is the second axis and channels the last, which is how the Mamba block has them: the transposed views
  that it passes cost nothing. A vector is 16 channels; what is one number in the formula is one vector here.
* Work is cut into blocks: some sequences x up to 64 channels. A block runs through its sequences in tiles of 32 steps,
  and through the vectors of a tile. First bias, softplus, and delta u are made for all steps of the tile; then, for two
  states at a time, the recurrence runs over the steps with the states in registers, and adds to y; then the gate is
  applied. Nothing of size L x E x N is ever made, not even for a tile. exp(delta A) is 2 to the power of
  delta (A log2 e), by rounding and a polynomial.
* Between the passes the inputs are kept, and the state behind every tile but the last (the checkpoints): N / 32 times
  the size of u.
* The backward pass takes the tiles from the last to the first. It makes the tile's decays and states again from the
  checkpoint before it, two states at a time, and runs the adjoint recurrence over them in reverse; what it passes to
  the tile before is carried in memory, N vectors per vector of channels. y before the gate, which the gradient of z
  needs, is made again on the way.
* Sums over channels (for B and C) are added up vector by vector in a block, then over the lanes, then block by block;
  sums over time and sequences (A, D, bias) tile by tile with Kahan's correction, then block by block. Blocks depend on
  shapes only, so the number of threads changes no bit.

Threads are our own (`_Crew`): kernels release the interpreter's lock and take disjoint ranges of blocks.
"""

import functools
import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.errors import ConfigError
from memamba_core.model.scan_chunked import chunked_scan

__all__ = ["cpu_scan", "numba_is_here"]

_MOST_VECTORS: Final = 4
"""Vectors of channels in a block: more share the reading of B and C, fewer leave blocks for more threads."""
_ENOUGH_BLOCKS: Final = 8
"""Blocks are narrower where there would be fewer than about this many."""
_BLOCK_STEPS: Final = 512
"""Short sequences share a block until it has about this many steps."""
_WORTH_A_THREAD: Final = 2**20
"""Elements of (batch, time, channel, state) below which another thread costs more than it saves."""

_Array = npt.NDArray[np.float32]
_NO_ROW: Final[_Array] = np.empty(0, np.float32)
_NO_SEQUENCE: Final[_Array] = np.empty((0, 0, 0), np.float32)
_NO_CHECKPOINTS: Final[_Array] = np.empty((0, 0, 0, 0), np.float32)


@functools.cache
def numba_is_here() -> bool:
    """Whether numba can be imported. The first answer takes half a second, for the import itself."""
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def _load_kernels() -> ModuleType:
    """The compiled kernels: seconds after an installation, then a fraction of one from the disk."""
    from memamba_core.model import scan_cpu_kernels

    return scan_cpu_kernels


def cpu_scan(
    u: Float[Tensor, "B E L"],
    delta: Float[Tensor, "B E L"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B N L"],
    C: Float[Tensor, "B N L"],
    D: Float[Tensor, " E"] | None,
    z: Float[Tensor, "B E L"] | None,
    delta_bias: Float[Tensor, " E"] | None,
    delta_softplus: bool,
) -> Float[Tensor, "B E L"]:
    """The selective scan (`selective_scan` says what it means) in compiled code; float64 goes to `chunked_scan`.

    Raises:
        ConfigError: the tensors are not on a CPU.
    """
    if u.device.type != "cpu":
        raise ConfigError(f"scan_backend is 'cpu' and the tensors are on {u.device}; choose auto, or device=cpu")
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        y: Tensor = _Scan.apply(*given, delta_softplus)  # type: ignore[no-untyped-call]
        return y
    return _forward(_Inputs.of(*given), delta_softplus, _NO_CHECKPOINTS)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The arguments of a scan as arrays: channels or states last and contiguous, time before them."""

    u_BLE: _Array
    delta_BLE: _Array
    A_EN: _Array
    B_BLN: _Array
    C_BLN: _Array
    D_E: _Array
    z_BLE: _Array
    delta_bias_E: _Array

    @classmethod
    def of(
        cls,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
    ) -> "_Inputs":
        return cls(
            _time_first(u),
            _time_first(delta),
            A.detach().numpy(),
            _time_first(B),
            _time_first(C),
            _NO_ROW if D is None else D.detach().numpy(),
            _NO_SEQUENCE if z is None else _time_first(z),
            _NO_ROW if delta_bias is None else delta_bias.detach().numpy(),
        )

    def arguments(self) -> tuple[_Array, ...]:
        """In the order in which the kernels take them."""
        return (
            self.u_BLE,
            self.delta_BLE,
            self.A_EN,
            self.B_BLN,
            self.C_BLN,
            self.D_E,
            self.z_BLE,
            self.delta_bias_E,
            _load_kernels().EXP2_TABLE,
        )


def _time_first(sequence_BEL: Tensor) -> _Array:
    """A sequence as (B, L, E); a view wherever channels lie beside each other."""
    array: _Array = sequence_BEL.detach().numpy().transpose(0, 2, 1)
    return array if array.strides[2] == array.itemsize else np.ascontiguousarray(array)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How work is cut into blocks: by shapes alone, because the order of sums follows from it."""

    rows: int
    vectors: int
    row_blocks: int
    channel_blocks: int
    work: int

    @staticmethod
    @functools.lru_cache(maxsize=256)
    def of(batch: int, length: int, channels: int, states: int) -> "_Plan":
        vectors_in_all = -(-channels // _load_kernels().LANES)
        vectors = max(1, min(_MOST_VECTORS, batch * vectors_in_all // _ENOUGH_BLOCKS))
        rows = max(1, min(batch, _BLOCK_STEPS // length))
        work = batch * length * channels * states
        return _Plan(rows, vectors, -(-batch // rows), -(-vectors_in_all // vectors), work)

    def run(self, kernel: Callable[..., None], *arguments: object) -> None:
        """All blocks, on as many threads as torch may use and the work is worth."""
        blocks = self.row_blocks * self.channel_blocks
        threads = min(blocks, self.work // _WORTH_A_THREAD, torch.get_num_threads())
        if threads <= 1:
            kernel(0, blocks, self.rows, self.vectors, *arguments)
            return
        bounds = [blocks * i // threads for i in range(threads + 1)]
        _crew.run(
            [
                functools.partial(kernel, first, last, self.rows, self.vectors, *arguments)
                for first, last in itertools.pairwise(bounds)
            ]
        )


def _forward(inputs: _Inputs, delta_softplus: bool, checkpoints: _Array) -> Tensor:
    """Y, with the checkpoints filled in."""
    batch, length, channels = inputs.u_BLE.shape
    y_BLE = torch.empty(batch, length, channels)
    plan = _Plan.of(batch, length, channels, inputs.A_EN.shape[1])
    plan.run(_load_kernels().scan_forward, delta_softplus, *inputs.arguments(), y_BLE.numpy(), checkpoints)
    return y_BLE.transpose(1, 2)


class _Scan(torch.autograd.Function):
    """The scan with all that is fused into it; differentiable once."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, delta_softplus = arguments
        kernels, inputs = _load_kernels(), _Inputs.of(*given)
        batch, length, channels = inputs.u_BLE.shape
        tiles, vectors = -(-length // kernels.TILE), -(-channels // kernels.LANES)
        checkpoints = torch.empty(batch, tiles - 1, vectors, kernels.state_size(inputs.A_EN.shape[1]))
        ctx.save_for_backward(*given, checkpoints)
        ctx.delta_softplus = delta_softplus
        return _forward(inputs, delta_softplus, checkpoints.numpy())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        *given, checkpoints = ctx.saved_tensors
        kernels, inputs = _load_kernels(), _Inputs.of(*given)
        (batch, length, channels), states = inputs.u_BLE.shape, inputs.A_EN.shape[1]
        plan = _Plan.of(batch, length, channels, states)
        grad_u_BLE, grad_delta_BLE = torch.empty(batch, length, channels), torch.empty(batch, length, channels)
        grad_z_BLE = None if given[6] is None else torch.empty(batch, length, channels)
        parts_A, parts_D, parts_bias = (torch.empty(plan.row_blocks, channels, *more) for more in ((states,), (), ()))
        parts_B, parts_C = (torch.empty(plan.channel_blocks, batch, length, states) for _ in "BC")
        plan.run(
            kernels.scan_backward,
            ctx.delta_softplus,
            *inputs.arguments(),
            checkpoints.numpy(),
            _time_first(grad_y),
            grad_u_BLE.numpy(),
            grad_delta_BLE.numpy(),
            _NO_SEQUENCE if grad_z_BLE is None else grad_z_BLE.numpy(),
            *(parts.numpy() for parts in (parts_A, parts_B, parts_C, parts_D, parts_bias)),
        )
        return (
            grad_u_BLE.transpose(1, 2),
            grad_delta_BLE.transpose(1, 2),
            _total(parts_A),
            _total(parts_B).transpose(1, 2),
            _total(parts_C).transpose(1, 2),
            None if given[5] is None else _total(parts_D),
            None if grad_z_BLE is None else grad_z_BLE.transpose(1, 2),
            None if given[7] is None else _total(parts_bias),
            None,
        )


def _total(parts: Tensor) -> Tensor:
    """The sum over the first axis, in its order: torch's own may depend on the number of threads."""
    if len(parts) == 1:
        return parts[0]
    total = torch.empty(parts.shape[1:])
    _load_kernels().sum_parts(parts.flatten(1).numpy(), total.flatten().numpy())
    return total


class _Crew:
    """Threads that run kernels: as many as were ever needed at a time, made anew in a forked process.

    Not OpenMP and not numba's own, which do not survive a fork beside torch.
    """

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
                self._pool, self._size = ThreadPoolExecutor(count, thread_name_prefix="memamba-scan"), count
            return self._pool


_crew = _Crew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_crew.dismiss)
