"""Selective scan: one definition, several backends.

For every channel e and state n of a sequence (Gu & Dao 2023, "Mamba", arXiv 2312.00752, eq. 2 and algorithm
2, with the simplified discretisation of their code: exact for A, Euler for B)::

    h[t] = exp(delta[t] A) h[t-1] + delta[t] B[t] u[t]
    y[t] = sum over n of C[t] h[t]  +  D u[t],     times silu(z[t])

Backends agree in value and gradient; they differ in speed, in memory and in the devices they support. Each is a
function of the same arguments in a file of its own, with one line in `SCAN_BACKENDS`.
"""

import functools
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

import torch
from torch import Tensor

from memamba_core.errors import ConfigError, MissingBackendError
from memamba_core.model.precision import at_least_float32
from memamba_core.model.scan.chunked import chunked_scan
from memamba_core.model.scan.cpu.loading import numba_is_installed
from memamba_core.model.scan.cpu.scan import cpu_scan
from memamba_core.model.scan.mamba_ssm import mamba_ssm_is_missing, mamba_ssm_scan
from memamba_core.model.scan.reference import reference_scan
from memamba_core.model.scan.triton.scan import triton_is_missing, triton_scan

__all__ = ["SCAN_BACKENDS", "ScanBackend", "choose_backend", "missing_requirement", "selective_scan"]

_log = logging.getLogger(__name__)


class ScanBackend(Protocol):
    """Signature of a backend. Its arguments are checked and have one dtype (float32 or float64) and one device."""

    def __call__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> Tensor:
        """Return y, shaped like `u`."""
        ...


SCAN_BACKENDS: Final[Mapping[str, ScanBackend]] = MappingProxyType(
    {
        "reference": reference_scan,
        "chunked": chunked_scan,
        "cpu": cpu_scan,
        "triton": triton_scan,
        "mamba_ssm": mamba_ssm_scan,
    }
)
"""Name -> backend. `ModelConfig.scan_backend` is one of the names, or `auto` or `cuda`, which choose one."""


def choose_backend(name: str, like: Tensor | None = None) -> str:
    """Return the backend for a setting of `scan_backend`.

    `cuda` is the scan of mamba-ssm if that package is installed with its compiled code, otherwise `triton`. `auto` is
    `cpu` on a CPU and `cuda` on a GPU; it is `chunked` if that backend is not installed, and for float64.

    Args:
        name: `auto`, `cuda` or a key of `SCAN_BACKENDS`.
        like: a tensor of the scan's dtype and device; None: float32 on a CPU.

    Returns:
        A key of `SCAN_BACKENDS`.

    Raises:
        ConfigError: no backend has that name, or it does not run on the device of `like`.
        MissingBackendError: the backend needs a package that is not installed.
    """
    device = "cpu" if like is None else like.device.type
    if name not in ("auto", "cuda", *SCAN_BACKENDS):
        raise ConfigError(f"scan_backend is {name!r}; expected one of auto, cuda, {', '.join(SCAN_BACKENDS)}")
    home = next((kind for kind, backends in _FASTEST.items() if name in (kind, *backends)), device)
    if device != home:
        raise ConfigError(
            f"scan_backend is {name!r} and the tensors are on {device}; expected them on {home}. "
            f"Set scan_backend=auto, or device={home}."
        )
    if name == "auto":
        if like is not None and like.dtype == torch.float64:
            return "chunked"
        found = next((backend for backend in _FASTEST.get(device, ()) if missing_requirement(backend) is None), None)
        if found is None and device == "cuda":
            _warn_once_of_slow_scan()
        return found or "chunked"
    candidates = _FASTEST.get(name, (name,))
    reasons = [missing_requirement(backend) for backend in candidates]
    if None not in reasons:
        raise MissingBackendError(f"scan_backend is {name!r}, but {'; '.join(map(str, reasons))}")
    return candidates[reasons.index(None)]


_FASTEST: Final = {"cpu": ("cpu",), "cuda": ("mamba_ssm", "triton")}
"""Kind of device -> the backends that run only there; the first installed one is chosen."""


def missing_requirement(backend: str) -> str | None:
    """Return the missing requirement of a backend, with a remedy; None if it can run."""
    if backend == "cpu":
        return None if numba_is_installed() else "numba cannot be imported; pip install 'numba>=0.62'"
    if backend == "triton":
        return triton_is_missing()
    return mamba_ssm_is_missing() if backend == "mamba_ssm" else None


@functools.cache
def _warn_once_of_slow_scan() -> None:
    """Log one warning in a process."""
    _log.warning(
        "the selective scan runs in plain torch (chunked) on this GPU; for a faster scan: %s; or %s",
        triton_is_missing(),
        mamba_ssm_is_missing(),
    )


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    backend: str = "auto",
) -> Tensor:
    """Compute the selective scan over a batch of sequences, differentiable once in every tensor argument.

    Arguments and meaning are those of `mamba_ssm.ops.selective_scan_interface.selective_scan_fn` for real A and
    input-dependent B and C without groups. The computation is in float32, or in float64 if any argument is float64.
    The signature has no shape annotations because this function checks the shapes itself.

    Args:
        u: (B, E, L) the sequence.
        delta: (B, E, L) step sizes, before bias and softplus.
        A: (E, N) decay rates, negative for a state that decays.
        B: (B, N, L) weights of the input on the state.
        C: (B, N, L) weights of the state on the output.
        D: (E,) weight of the input on the output; None: the input does not bypass the state.
        z: (B, E, L) gate; the output is multiplied by silu(z).
        delta_bias: (E,) added to `delta`.
        delta_softplus: apply softplus to the step sizes.
        backend: as for `choose_backend`.

    Returns:
        (B, E, L), in the dtype of `u`.

    Raises:
        ValueError: an argument has the wrong shape or is on another device than `u`.
        TypeError: an argument is not a real floating-point tensor.
        ConfigError: no backend has that name, or it does not run on this device.
        MissingBackendError: the backend needs a package that is not installed.
    """
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"u has shape {tuple(u.shape)}; expected (batch, channels, length), none of them 0")
    if A.ndim != 2 or 0 in A.shape:
        raise ValueError(f"A has shape {tuple(A.shape)}; expected (channels, states), none of them 0")
    (batch, channels, length), states = u.shape, A.shape[1]
    wanted: dict[str, tuple[Tensor | None, tuple[int, ...]]] = {
        "u": (u, (batch, channels, length)),
        "delta": (delta, (batch, channels, length)),
        "A": (A, (channels, states)),
        "B": (B, (batch, states, length)),
        "C": (C, (batch, states, length)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels, length)),
        "delta_bias": (delta_bias, (channels,)),
    }
    double = False
    for name, (tensor, shape) in wanted.items():
        if tensor is None:
            continue
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape} with these u and A")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} has dtype {tensor.dtype}; expected a real floating-point type")
        if tensor.device != u.device:
            raise ValueError(f"{name} is on {tensor.device}; expected {u.device}, the device of u. Move it there.")
        double = double or tensor.dtype == torch.float64

    cast = Tensor.double if double else at_least_float32
    u_cast = cast(u)
    y = SCAN_BACKENDS[choose_backend(backend, u_cast)](
        u_cast,
        cast(delta),
        cast(A),
        cast(B),
        cast(C),
        None if D is None else cast(D),
        None if z is None else cast(z),
        None if delta_bias is None else cast(delta_bias),
        delta_softplus,
    )
    return y.to(u.dtype)
