"""Selective scan in plain torch, in segments: for every device, with small memory.

Inside, time is the second axis and channels the last, so that the step from t-1 to t is one fused multiply-add over
contiguous rows. The sequence is cut into segments that fit into a cache. Within a segment, decays and inputs of all
steps are computed at once; only the recurrence itself is a loop, with one operation per step. Nothing is divided by a
product of decays, so a decay that underflows to 0 only makes the state forget its past.

The gradient is written by hand, because autograd would keep every step of the loop. Between the passes only the state
at the start of each segment is kept. The backward pass recomputes the rest of a segment, which takes about as long as
keeping it would.
"""

import math
import threading
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from memamba_core.model.precision import no_autocast

__all__ = ["SEGMENT_ELEMENTS", "chunked_scan"]

SEGMENT_ELEMENTS = 2**19
"""Elements of a (batch, time, state, channel) work tensor, chosen by timing: with fewer, calls dominate; with more,
memory traffic does."""


def chunked_scan(
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
    """Compute the selective scan (defined in `selective_scan`) segment by segment."""
    u_BLE, delta_BLE = u.transpose(1, 2), delta.transpose(1, 2)
    if delta_bias is not None:
        delta_BLE = delta_BLE + delta_bias
    if delta_softplus:
        delta_BLE = F.softplus(delta_BLE)
    y_BLE: Tensor = _Scan.apply(  # type: ignore[no-untyped-call]
        u_BLE, delta_BLE, A.t(), B.transpose(1, 2), C.transpose(1, 2)
    )
    if D is not None:
        y_BLE = torch.addcmul(y_BLE, u_BLE, D)
    if z is not None:
        y_BLE = y_BLE * F.silu(z.transpose(1, 2))
    return y_BLE.transpose(1, 2)


class _Scan(torch.autograd.Function):
    """Recurrence y[t] = sum over n of C[t] h[t], without bias, bypass or gate."""

    @staticmethod
    def forward(ctx: Any, u_BLE: Tensor, delta_BLE: Tensor, A_NE: Tensor, B_BLN: Tensor, C_BLN: Tensor) -> Tensor:
        A_NE = A_NE.contiguous()
        segments = _segments(u_BLE, A_NE)
        drive_BLE = delta_BLE * u_BLE
        y_BLE = torch.empty_like(drive_BLE, memory_format=torch.contiguous_format)
        decay, states = _work(2, u_BLE, segments[0], A_NE)
        starts: list[Tensor] = []
        with no_autocast(A_NE.device):
            for part in segments:
                steps = part.stop - part.start
                states_BSNE, start_BNE = states[:, :steps], starts[-1] if starts else None
                _run(
                    decay[:, :steps],
                    states_BSNE,
                    drive_BLE[:, part],
                    delta_BLE[:, part],
                    A_NE,
                    B_BLN[:, part],
                    start_BNE,
                )
                y_BLE[:, part] = torch.matmul(C_BLN[:, part].unsqueeze(2), states_BSNE).squeeze(2)
                if part is not segments[-1]:
                    starts.append(states_BSNE[:, -1].clone())
        ctx.save_for_backward(u_BLE, delta_BLE, A_NE, B_BLN, C_BLN, *starts)
        ctx.segments = segments
        return y_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y_BLE: Tensor) -> tuple[Tensor, ...]:
        u_BLE, delta_BLE, A_NE, B_BLN, C_BLN, *starts = ctx.saved_tensors
        segments: list[slice] = ctx.segments
        drive_BLE = delta_BLE * u_BLE
        grad_drive_BLE, grad_delta_BLE = torch.empty_like(drive_BLE), torch.empty_like(drive_BLE)
        grad_B_BLN, grad_C_BLN = torch.empty_like(B_BLN), torch.empty_like(C_BLN)
        grad_A_NE = torch.zeros_like(A_NE)
        buffers = _work(4, u_BLE, segments[0], A_NE)
        later_BNE: Tensor | None = None  # gradient that the steps after the segment pass back to its last state
        with no_autocast(A_NE.device):
            for part, start_BNE in zip(reversed(segments), [*reversed(starts), None], strict=True):
                decay_BSNE, states_BSNE, grad_BSNE, work_BSNE = (b[:, : part.stop - part.start] for b in buffers)
                drive_BSE, delta_BSE, B_BSN = drive_BLE[:, part], delta_BLE[:, part], B_BLN[:, part]
                _run(decay_BSNE, states_BSNE, drive_BSE, delta_BSE, A_NE, B_BSN, start_BNE)

                # The adjoint of the recurrence: the same loop, backwards in time.
                grad_y_B1SE = grad_y_BLE[:, part].unsqueeze(2)
                torch.mul(grad_y_B1SE, C_BLN[:, part].unsqueeze(3), out=grad_BSNE)
                grads, decays = grad_BSNE.unbind(1), decay_BSNE.unbind(1)
                if later_BNE is not None:
                    grads[-1].add_(later_BNE)
                for step in range(len(grads) - 2, -1, -1):
                    grads[step].addcmul_(decays[step + 1], grads[step + 1])
                later_BNE = decays[0] * grads[0]

                grad_C_BLN[:, part] = torch.matmul(grad_y_B1SE, states_BSNE.mT).squeeze(2)
                grad_B_BLN[:, part] = torch.matmul(drive_BSE.unsqueeze(2), grad_BSNE.mT).squeeze(2)
                grad_drive_BLE[:, part] = torch.matmul(B_BSN.unsqueeze(2), grad_BSNE).squeeze(2)

                # Gradient at the exponent delta A: state gradient x decay x state before.
                grad_BSNE.mul_(decay_BSNE)
                grad_BSNE[:, 1:].mul_(states_BSNE[:, :-1])
                if start_BNE is None:
                    grad_BSNE[:, 0].zero_()
                else:
                    grad_BSNE[:, 0].mul_(start_BNE)
                torch.mul(grad_BSNE, A_NE, out=work_BSNE)
                torch.sum(work_BSNE, dim=2, out=grad_delta_BLE[:, part])
                torch.mul(grad_BSNE, delta_BSE.unsqueeze(2), out=work_BSNE)
                grad_A_NE += work_BSNE.sum((0, 1))
        grad_delta_BLE.addcmul_(grad_drive_BLE, u_BLE)
        return grad_drive_BLE.mul_(delta_BLE), grad_delta_BLE, grad_A_NE, grad_B_BLN, grad_C_BLN


def _segments(u_BLE: Tensor, A_NE: Tensor) -> list[slice]:
    """Cut the time axis so that a work tensor (batch, steps, state, channel) has about `SEGMENT_ELEMENTS` elements."""
    batch, length, _ = u_BLE.shape
    steps = max(1, SEGMENT_ELEMENTS // (batch * A_NE.numel()))
    return [slice(start, min(start + steps, length)) for start in range(0, length, steps)]


def _run(
    decay_BSNE: Tensor,
    states_BSNE: Tensor,
    drive_BSE: Tensor,
    delta_BSE: Tensor,
    A_NE: Tensor,
    B_BSN: Tensor,
    start_BNE: Tensor | None,
) -> None:
    """Fill in decays and states of one segment's S steps, from the state before it (None: zero)."""
    # Powers of 2, not of e: if a power of e underflows, as decays of a trained model do, torch takes fifty times as
    # long.
    torch.mul(delta_BSE.unsqueeze(2), A_NE * math.log2(math.e), out=decay_BSNE).exp2_()
    torch.mul(drive_BSE.unsqueeze(2), B_BSN.unsqueeze(3), out=states_BSNE)
    decays, states = decay_BSNE.unbind(1), states_BSNE.unbind(1)
    if start_BNE is not None:
        states[0].addcmul_(decays[0], start_BNE)
    for step in range(1, len(states)):
        states[step].addcmul_(decays[step], states[step - 1])


_scratch = threading.local()


def _work(count: int, u_BLE: Tensor, first: slice, A_NE: Tensor) -> tuple[Tensor, ...]:
    """Return uninitialised (batch, time, state, channel) tensors for the longest segment.

    On a CPU they are kept from call to call, one set per thread: mapping megabytes from the system page by page, many
    times a second, takes longer than the arithmetic. No content outlives a pass, and no pass interrupts another of its
    thread.
    """
    shape = (count, len(u_BLE), first.stop, *A_NE.shape)
    if u_BLE.device.type != "cpu":
        return u_BLE.new_empty(shape).unbind(0)
    size, name = math.prod(shape), str(u_BLE.dtype)
    memory: Tensor | None = getattr(_scratch, name, None)
    if memory is None or memory.numel() < size:
        with torch.inference_mode(False):  # tensors made in inference mode cannot be written to outside of it
            memory = u_BLE.new_empty(size)
        setattr(_scratch, name, memory)
    return memory[:size].view(shape).unbind(0)
