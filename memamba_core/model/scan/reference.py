"""Reference implementation: the slow, plain twin of every scan backend."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["reference_scan"]


def reference_scan(
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
    """Compute the recurrence as it is defined, one step after the other."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state_BEN = u.new_zeros(u.shape[0], *A.shape)
    outputs: list[Tensor] = []
    for u_BE, delta_BE, B_BN, C_BN in zip(u.unbind(2), delta.unbind(2), B.unbind(2), C.unbind(2), strict=True):
        decay_BEN = torch.exp(delta_BE[:, :, None] * A)
        state_BEN = decay_BEN * state_BEN + (delta_BE * u_BE)[:, :, None] * B_BN[:, None, :]
        outputs.append((state_BEN * C_BN[:, None, :]).sum(2))
    y = torch.stack(outputs, dim=2)
    if D is not None:
        y = y + D[:, None] * u
    return y if z is None else y * F.silu(z)
