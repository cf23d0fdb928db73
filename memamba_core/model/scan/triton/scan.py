"""The selective scan for a GPU, in kernels that triton compiles when they are first used.

A bag is one long sequence of few channels, so a GPU is filled only if a sequence is cut as well. It is cut into
chunks of STEPS steps, and each pass goes over them three times:

1. every chunk by itself: the state in which it would end if it began with none;
2. from chunk to chunk, a short loop: the state after each. What a state is worth a chunk later is
   exp(A x sum of the chunk's step sizes), so nothing has to be read again;
3. every chunk by itself, from its right beginning: the outputs.

The backward pass does the same from the end to the beginning with the adjoints (what a chunk passes back to the
state before it); its third step makes the states of a chunk again, from the state after the one before, and then
walks back. Kept between the passes are the inputs and those states, (L / STEPS) x E x N numbers, and never
L x E x N. Softplus, bias, D and the gate are computed on the way. All sums have a fixed order: two runs on one GPU
agree to the last bit.
"""

import functools
import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from memamba_core.model.scan.chunked import chunked_scan

__all__ = ["triton_is_missing", "triton_scan"]

STEPS: Final = 8
"""Steps of a chunk. With more there is less to carry over, and too few registers for programs side by side."""
CHANNELS: Final = 32
"""Channels of a program: one for each lane of a warp."""
REGISTERS: Final[int | None] = 128
"""Most that a thread of the last kernel may take: with fewer, more programs run side by side and wait less."""
GROUP: Final = 32
"""Chunks that are read at a time when states are carried over."""
_OLDEST: Final = (3, 4)
"""Version of triton from which on the kernels compile: they need tuples that a loop carries on."""


@functools.cache
def triton_is_missing() -> str | None:
    """What the kernels need and this installation lacks, with what to do; None if nothing.

    Triton compiles kernels by itself, but the small program that launches them with a C compiler and Python's
    headers. They are looked for and not tried: that would take seconds.
    """
    try:
        import triton
    except ImportError:
        return "triton is not installed; pip install triton, or a CUDA build of torch, which brings it"
    if torch.version.hip:
        return "the kernels have been made for GPUs of NVIDIA only"
    if tuple(map(int, triton.__version__.split(".")[:2])) < _OLDEST:
        return f"triton is {triton.__version__}, and the kernels need 3.4; pip install --upgrade torch"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton finds no C compiler; apt install gcc, or name one in the environment variable CC"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "a C compiler would not find Python.h; apt install python3-dev"
    return None


def triton_scan(
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
    """The selective scan (`selective_scan` says what it means) on a GPU; float64 goes to `chunked_scan`."""
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        y: Tensor = _Scan.apply(*given, delta_softplus)  # type: ignore[no-untyped-call]
        return y
    inputs = _Inputs.of(*given, softplus=delta_softplus)
    return inputs.outputs(inputs.states()[0])


class _Kernels(NamedTuple):
    """What triton compiles, at the first launch."""

    chunk_states: Any
    carry_over: Any
    outputs: Any
    chunk_adjoints: Any
    gradients: Any


@functools.cache
def _load_kernels() -> _Kernels:
    """The kernels, not yet compiled. Importing triton takes a second, so it waits for the first scan."""
    from memamba_core.model.scan.triton import backward, forward

    return _Kernels(
        forward.chunk_states, forward.carry_over, forward.outputs, backward.chunk_adjoints, backward.gradients
    )


class _Sequence(NamedTuple):
    """A (B, L, ...) tensor whose last axis is contiguous, and how far apart patients and steps lie."""

    rows: Tensor | None
    patient: int
    step: int

    @classmethod
    def of(cls, sequence_BEL: Tensor | None) -> "_Sequence":
        """A view wherever channels lie beside each other."""
        if sequence_BEL is None:
            return cls(None, 0, 0)
        rows = sequence_BEL.detach().transpose(1, 2)
        if rows.stride(2) != 1:
            rows = rows.contiguous()
        return cls(rows, rows.stride(0), rows.stride(1))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """The arguments of a scan as the kernels take them, and the three steps of the forward pass."""

    u: _Sequence
    delta: _Sequence
    A_NE: Tensor
    B: _Sequence
    C: _Sequence
    D_E: Tensor | None
    z: _Sequence
    bias_E: Tensor | None
    softplus: bool
    batch: int
    channels: int
    length: int

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
        *,
        softplus: bool,
    ) -> "_Inputs":
        batch, channels, length = u.shape
        return cls(
            _Sequence.of(u),
            _Sequence.of(delta),
            A.detach().t().contiguous(),
            _Sequence.of(B),
            _Sequence.of(C),
            None if D is None else D.detach().contiguous(),
            _Sequence.of(z),
            None if delta_bias is None else delta_bias.detach().contiguous(),
            softplus,
            batch,
            channels,
            length,
        )

    @property
    def sizes(self) -> tuple[int, int, int]:
        """L, E, N."""
        return self.length, self.channels, len(self.A_NE)

    @property
    def chunks(self) -> int:
        """In how many the sequence is cut."""
        return -(-self.length // STEPS)

    @property
    def blocks(self) -> int:
        """In how many the channels are."""
        return -(-self.channels // CHANNELS)

    def empty(self, *shape: int) -> Tensor:
        """Memory where the inputs are."""
        return torch.empty(self.batch, *shape, device=self.A_NE.device)

    def launch(self, kernel: Any, *arguments: object, registers: int | None = None) -> None:
        """One program for each chunk, block of channels and patient; registers: most of a thread."""
        options = {"SOFTPLUS": self.softplus, "STEPS": STEPS, "maxnreg": registers}
        self._start(kernel, self.chunks, *arguments, *self.sizes, **options)

    def carry_over(self, totals: Tensor, ends: Tensor, *, reverse: bool) -> None:
        """From chunk to chunk, in place: one program for each state, block of channels and patient."""
        arguments = (self.A_NE, totals, ends, self.chunks, *self.sizes[1:])
        self._start(_load_kernels().carry_over, len(self.A_NE), *arguments, REVERSE=reverse, GROUP=GROUP)

    def _start(self, kernel: Any, programs: int, *arguments: object, **options: int | None) -> None:
        with torch.cuda.device_of(self.A_NE):  # type: ignore[no-untyped-call]
            kernel[programs, self.blocks, self.batch](*arguments, **options, CHANNELS=CHANNELS, num_warps=1)

    def states(self) -> tuple[Tensor, Tensor]:
        """The state after each chunk, (B, chunks, N, E), and the sum of its step sizes, (B, chunks, E)."""
        states = self.empty(self.chunks, *self.A_NE.shape)
        totals = self.empty(self.chunks, self.channels)
        self.launch(_load_kernels().chunk_states, *self.u, *self.delta, self.A_NE, *self.B, self.bias_E, states, totals)
        self.carry_over(totals, states, reverse=False)
        return states, totals

    def outputs(self, states: Tensor) -> Tensor:
        """What the scan returns, (B, E, L)."""
        y_BLE = self.empty(self.length, self.channels)
        self.launch(
            _load_kernels().outputs,
            *self.u, *self.delta, self.A_NE, *self.B, *self.C, self.D_E, *self.z, self.bias_E, states, y_BLE,
        )  # fmt: skip
        return y_BLE.transpose(1, 2)


class _Scan(torch.autograd.Function):
    """The scan with all that is fused into it; differentiable once."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, ctx.softplus = arguments
        inputs = _Inputs.of(*given, softplus=ctx.softplus)
        states, totals = inputs.states()
        given[2] = inputs.A_NE.t()  # once turned is enough
        ctx.save_for_backward(*given, states, totals)
        return inputs.outputs(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_BEL: Tensor) -> tuple[Tensor | None, ...]:
        *given, states, totals = ctx.saved_tensors
        i, kernels = _Inputs.of(*given, softplus=ctx.softplus), _load_kernels()
        grad_y = _Sequence.of(grad_y_BEL)
        adjoints = torch.empty_like(states)  # parts of A's gradient take their place
        i.launch(kernels.chunk_adjoints, *i.delta, i.A_NE, *i.C, *i.z, i.bias_E, *grad_y, adjoints)
        i.carry_over(totals, adjoints, reverse=True)
        grad_u_BLE, grad_delta_BLE = (i.empty(i.length, i.channels) for _ in range(2))
        grad_z_BLE = None if given[6] is None else i.empty(i.length, i.channels)
        parts_BC = torch.empty(2, i.blocks, i.batch, len(i.A_NE), i.length, device=states.device)
        parts_E = i.empty(i.chunks, 2, i.channels)  # of D and of the bias
        i.launch(
            kernels.gradients,
            *i.u, *i.delta, i.A_NE, *i.B, *i.C, i.D_E, *i.z, i.bias_E, *grad_y, states, adjoints,
            grad_u_BLE, grad_delta_BLE, grad_z_BLE, *parts_BC, parts_E, registers=REGISTERS,
        )  # fmt: skip
        grad_D_E, grad_bias_E = parts_E.sum((0, 1))
        return (
            grad_u_BLE.transpose(1, 2),
            grad_delta_BLE.transpose(1, 2),
            adjoints.sum((0, 1)).t(),
            *parts_BC.sum(1),
            None if i.D_E is None else grad_D_E,
            None if grad_z_BLE is None else grad_z_BLE.transpose(1, 2),
            None if i.bias_E is None else grad_bias_E,
            None,
        )
