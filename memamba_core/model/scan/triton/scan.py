"""Selective scan for a GPU, in kernels that triton compiles at their first use.

A bag is one long sequence of few channels, so only a sequence that is cut fills a GPU. It is cut into chunks of STEPS
steps, and each pass goes over them three times:

1. each chunk alone: compute the state in which the chunk ends if it begins with state 0;
2. from chunk to chunk, a short loop: compute the state after each chunk. A chunk multiplies a state by
   exp(A x sum of the chunk's step sizes), so no input has to be read again;
3. each chunk alone, from the state after the chunk before: compute the outputs.

The backward pass does the same from the end to the beginning with the adjoints (the gradients that a chunk passes back
to the state before it). Its third step recomputes the states of a chunk, from the state after the chunk before, and
then walks back. Kept between the passes are the inputs and the states after each chunk, (L / STEPS) x E x N numbers,
never L x E x N. Softplus, bias, D and the gate are computed on the way. All sums have a fixed order: two runs on one
GPU agree to the last bit.
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

__all__ = ["load_kernels", "triton_is_missing", "triton_scan"]

STEPS: Final = 8
"""Steps of a chunk. With more, less is carried over, but registers do not suffice for several programs at a time."""
CHANNELS: Final = 32
"""Channels of a program: one per lane of a warp."""
REGISTERS: Final[int | None] = 128
"""Limit of registers per thread of the last kernel: with fewer, more programs run at a time and wait less."""
GROUP: Final = 32
"""Chunks read at a time when states are carried over."""
_OLDEST: Final = (3, 4)
"""Oldest version of triton that compiles the kernels: they need tuples that a loop carries from step to step."""


@functools.cache
def triton_is_missing() -> str | None:
    """Return the missing requirement of the kernels, with a remedy; None if they can run.

    Triton compiles kernels itself, but compiles the small program that launches them with a C compiler and Python's
    headers. This function looks for these without trying them, which would take seconds.
    """
    try:
        import triton
    except ImportError:
        return "triton is not installed; pip install triton, or a CUDA build of torch, which brings it"
    if torch.version.hip:
        return "the triton kernels support only GPUs of NVIDIA"
    if tuple(map(int, triton.__version__.split(".")[:2])) < _OLDEST:
        return f"triton is {triton.__version__}; expected 3.4 or newer; pip install --upgrade torch"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton finds no C compiler; apt install gcc, or set the environment variable CC to one"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Python.h is missing, which triton's C compiler needs; apt install python3-dev"
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
    """Compute the selective scan (defined in `selective_scan`) on a GPU; float64 by `chunked_scan`."""
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    given = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given):
        y: Tensor = _Scan.apply(*given, delta_softplus)  # type: ignore[no-untyped-call]
        return y
    inputs = _Inputs.of(*given, softplus=delta_softplus)
    return inputs.outputs(inputs.states()[0])


class _Kernels(NamedTuple):
    """Kernels, which triton compiles at their first launch."""

    chunk_states: Any
    carry_over: Any
    outputs: Any
    chunk_adjoints: Any
    gradients: Any


@functools.cache
def load_kernels() -> _Kernels:
    """Load the kernels without compiling them. Importing triton takes a second, so the first scan does it."""
    from memamba_core.model.scan.triton import backward, forward

    return _Kernels(
        forward.chunk_states, forward.carry_over, forward.outputs, backward.chunk_adjoints, backward.gradients
    )


class _Sequence(NamedTuple):
    """A (B, L, ...) tensor whose last axis is contiguous, with the strides of patients and steps."""

    rows: Tensor | None
    patient: int
    step: int

    @classmethod
    def of(cls, sequence_BEL: Tensor | None) -> "_Sequence":
        """Transpose to (B, L, ...): a view if channels are contiguous, a copy otherwise."""
        if sequence_BEL is None:
            return cls(None, 0, 0)
        rows = sequence_BEL.detach().transpose(1, 2)
        if rows.stride(2) != 1:
            rows = rows.contiguous()
        return cls(rows, rows.stride(0), rows.stride(1))


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Arguments of a scan in the form that kernels take, and the three steps of the forward pass."""

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
        """Number of chunks of a sequence."""
        return -(-self.length // STEPS)

    @property
    def blocks(self) -> int:
        """Number of blocks of channels."""
        return -(-self.channels // CHANNELS)

    def empty(self, *shape: int) -> Tensor:
        """Return uninitialised memory of shape (batch, *shape) on the device of the inputs."""
        return torch.empty(self.batch, *shape, device=self.A_NE.device)

    def launch(self, kernel: Any, *arguments: object, registers: int | None = None) -> None:
        """Launch one program per chunk, block of channels and patient; `registers` limits those of a thread."""
        options = {"SOFTPLUS": self.softplus, "STEPS": STEPS, "maxnreg": registers}
        self._start(kernel, self.chunks, *arguments, *self.sizes, **options)

    def carry_over(self, totals: Tensor, ends: Tensor, *, reverse: bool) -> None:
        """Carry states from chunk to chunk, in place: one program per state, block of channels and patient."""
        arguments = (self.A_NE, totals, ends, self.chunks, *self.sizes[1:])
        self._start(load_kernels().carry_over, len(self.A_NE), *arguments, REVERSE=reverse, GROUP=GROUP)

    def _start(self, kernel: Any, programs: int, *arguments: object, **options: int | None) -> None:
        with torch.cuda.device_of(self.A_NE):  # type: ignore[no-untyped-call]
            kernel[programs, self.blocks, self.batch](*arguments, **options, CHANNELS=CHANNELS, num_warps=1)

    def states(self) -> tuple[Tensor, Tensor]:
        """Compute the state after each chunk, (B, chunks, N, E), and the sum of its step sizes, (B, chunks, E)."""
        states = self.empty(self.chunks, *self.A_NE.shape)
        totals = self.empty(self.chunks, self.channels)
        self.launch(load_kernels().chunk_states, *self.u, *self.delta, self.A_NE, *self.B, self.bias_E, states, totals)
        self.carry_over(totals, states, reverse=False)
        return states, totals

    def outputs(self, states: Tensor) -> Tensor:
        """Compute the outputs of the scan, (B, E, L)."""
        y_BLE = self.empty(self.length, self.channels)
        self.launch(
            load_kernels().outputs,
            *self.u, *self.delta, self.A_NE, *self.B, *self.C, self.D_E, *self.z, self.bias_E, states, y_BLE,
        )  # fmt: skip
        return y_BLE.transpose(1, 2)


class _Scan(torch.autograd.Function):
    """Scan with bias, softplus, bypass and gate fused into it; differentiable once."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        *given, ctx.softplus = arguments
        inputs = _Inputs.of(*given, softplus=ctx.softplus)
        states, totals = inputs.states()
        given[2] = inputs.A_NE.t()  # already transposed and contiguous
        ctx.save_for_backward(*given, states, totals)
        return inputs.outputs(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_BEL: Tensor) -> tuple[Tensor | None, ...]:
        *given, states, totals = ctx.saved_tensors
        i, kernels = _Inputs.of(*given, softplus=ctx.softplus), load_kernels()
        grad_y = _Sequence.of(grad_y_BEL)
        adjoints = torch.empty_like(states)  # overwritten by the parts of A's gradient
        i.launch(kernels.chunk_adjoints, *i.delta, i.A_NE, *i.C, *i.z, i.bias_E, *grad_y, adjoints)
        i.carry_over(totals, adjoints, reverse=True)
        grad_u_BLE, grad_delta_BLE = (i.empty(i.length, i.channels) for _ in range(2))
        grad_z_BLE = None if given[6] is None else i.empty(i.length, i.channels)
        parts_BC = torch.empty(2, i.blocks, i.batch, len(i.A_NE), i.length, device=states.device)
        parts_E = i.empty(i.chunks, 2, i.channels)  # parts of the gradients of D and of the bias
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
