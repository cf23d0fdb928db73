"""Selective scan of the package `mamba-ssm`, if it is installed with its compiled CUDA code."""

import functools
from collections.abc import Callable
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from memamba_core.model.scan.chunked import chunked_scan

__all__ = ["load_scan", "mamba_ssm_is_missing", "mamba_ssm_scan"]


@functools.cache
def load_scan() -> Callable[..., Tensor]:
    """Import `selective_scan_fn`. Some builds of the package lack the compiled code, so that is imported first.

    Raises:
        ImportError: the package or its compiled code is missing, or was built for another torch.
    """
    import selective_scan_cuda  # type: ignore[import-not-found] # noqa: F401
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import-not-found]

    return cast("Callable[..., Tensor]", selective_scan_fn)


@functools.cache
def mamba_ssm_is_missing() -> str | None:
    """Return the missing requirement of the scan, with a remedy; None if it can run."""
    try:
        load_scan()
    except ImportError:
        return (
            "mamba-ssm with its compiled scan cannot be imported; if nvcc is installed: "
            "pip install --no-build-isolation 'memamba-federated[cuda]'"
        )
    return None


def mamba_ssm_scan(
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
    """Compute the selective scan (defined in `selective_scan`) by `mamba-ssm`; float64 by `chunked_scan`."""
    if u.dtype == torch.float64:
        return chunked_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return load_scan()(u, delta, A, B, C, D, z=z, delta_bias=delta_bias, delta_softplus=delta_softplus)
