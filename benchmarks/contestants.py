"""Contestants of the speed benchmarks: scans, blocks, layers and whole models, each as a function of no arguments.

A contestant is a dictionary with a `kind` (a function below), the arguments of that function, a `length`, and a
`device` if it does not run on the CPU. Its inputs and weights are drawn on the CPU and are therefore the same on every
device.
"""

from collections.abc import Callable
from typing import Any

import torch
from attention_rivals import AttentionAggregator, AttentionLayers, FullAttention, NystromAttention
from torch import Tensor, nn
from torch.nn import functional as F

from memamba_core.config.model import ModelConfig
from memamba_core.model import build_model
from memamba_core.model.mamba import Mamba
from memamba_core.model.scan import selective_scan
from memamba_core.patient import Bag, InputSpec, PatientInputs, SurvivalTarget
from memamba_core.survival.losses import nll_loss
from memamba_core.training.optim import AdamW

STATES = 16
SPEC = InputSpec(
    num_bins=4,
    num_genes=300,
    gene_groups={f"group-{i}": tuple(range(50 * i, 50 * i + 50)) for i in range(6)},
    feature_width=1024,
)
RIVALS = {"full attention": FullAttention, "Nystrom": NystromAttention}

Call = Callable[[], object]


class NotHereError(Exception):
    """A package that a contestant needs is not installed."""


def build(contestant: dict[str, Any]) -> Call:
    """Build the function to call; it returns when the device has finished.

    Raises:
        NotHereError: the contestant needs a package that is not installed.
    """
    options = dict(contestant)
    torch.manual_seed(0)
    precision = options.pop("precision", None)
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    device = torch.device(options.pop("device", "cpu"))
    call: Call = _KINDS[options.pop("kind")](**options, device=device)
    if device.type != "cuda":
        return call

    def call_and_wait() -> None:
        call()
        torch.cuda.synchronize(device)

    return call_and_wait


def scan(name: str, length: int, channels: int, *, backward: bool, device: torch.device) -> Call:
    """Build a selective scan of one sequence with everything fused into it, in the layout of a Mamba block.

    Args:
        name: a backend of this project, `pscan` (mambapy), or `mamba_ssm reference`.
        length: L.
        channels: E.
        backward: True: with the gradient of every argument; False: forward under `no_grad`.
        device: device of the scan.
    """
    wide = torch.randn(1, length, 3 * channels).to(device)
    u, delta, z = (x.transpose(1, 2) for x in wide.chunk(3, dim=2))
    B, C = torch.randn(1, length, 2 * STATES).to(device).transpose(1, 2).chunk(2, dim=1)
    A, D, bias = -torch.rand(channels, STATES) * 16 - 0.1, torch.randn(channels), torch.randn(channels) - 4
    tensors = [tensor.detach().to(device).requires_grad_(backward) for tensor in (u, delta, A, B, C, D, z, bias)]
    function = _scan_function(name)
    weights = torch.randn(1, length, channels).to(device).transpose(1, 2)

    def call() -> object:
        if not backward:
            with torch.no_grad():
                return function(*tensors)
        return torch.autograd.grad(function(*tensors), tensors, weights)

    return call


def _scan_function(name: str) -> Callable[..., Tensor]:
    if name == "pscan":
        return _mambapy_scan()
    if name == "mamba_ssm reference":
        try:
            from mamba_ssm.ops.selective_scan_interface import selective_scan_ref
        except ImportError:
            raise NotHereError("mamba-ssm cannot be imported") from None
        return lambda u, delta, A, B, C, D, z, bias: selective_scan_ref(u, delta, A, B, C, D, z, bias, True)
    return lambda *tensors: selective_scan(*tensors, True, backend=name)


def _mambapy_scan() -> Callable[..., Tensor]:
    """Build the parallel scan of mambapy, with the steps around it as in its `MambaBlock`."""
    try:
        from mambapy.pscan import pscan
    except ImportError:
        raise NotHereError("mambapy is not installed (pip install -e '.[bench]')") from None

    def run(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        u_BLE, B_BLN, C_BLN = (x.transpose(1, 2) for x in (u, B, C))
        step_BLE = F.softplus(delta.transpose(1, 2) + bias)
        decay_BLEN = torch.exp(step_BLE.unsqueeze(3) * A)
        input_BLEN = step_BLE.unsqueeze(3) * B_BLN.unsqueeze(2) * u_BLE.unsqueeze(3)
        y_BLE = (pscan(decay_BLEN, input_BLEN) @ C_BLN.unsqueeze(3)).squeeze(3) + D * u_BLE
        return (y_BLE * F.silu(z.transpose(1, 2))).transpose(1, 2)

    return run


def block(name: str, length: int, d_model: int, *, device: torch.device) -> Call:
    """Build the forward and backward pass of one Mamba block: with a backend of this project, or mambapy's."""
    if name != "mambapy":
        return _step(Mamba(d_model, scan_backend=name), torch.randn(1, length, d_model), device)
    try:
        from mambapy.mamba import MambaBlock, MambaConfig
    except ImportError:
        raise NotHereError("mambapy is not installed (pip install -e '.[bench]')") from None
    return _step(MambaBlock(MambaConfig(d_model=d_model, n_layers=1)), torch.randn(1, length, d_model), device)


def layers(name: str, length: int, d_model: int, *, device: torch.device) -> Call:
    """Build the forward and backward pass of four residual Mamba blocks, or of two layers of attention."""
    if name in RIVALS:
        return _step(AttentionLayers(RIVALS[name], d_model), torch.randn(1, length, d_model), device)
    return _step(_Blocks(name, d_model), torch.randn(1, length, d_model), device)


class _Blocks(nn.Module):
    """Four residual Mamba blocks, each after a norm."""

    def __init__(self, backend: str, d_model: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(4))
        self.blocks = nn.ModuleList(Mamba(d_model, scan_backend=backend) for _ in range(4))

    def forward(self, tokens_BLD: Tensor) -> Tensor:
        for norm, mamba in zip(self.norms, self.blocks, strict=True):
            tokens_BLD = tokens_BLD + mamba(norm(tokens_BLD))
        return tokens_BLD


def _step(module: nn.Module, tokens: Tensor, device: torch.device) -> Call:
    """Build a forward and backward pass, with the gradient at the tokens too, as inside of a model."""
    module, tokens = module.to(device), tokens.to(device).requires_grad_()
    weights = torch.randn_like(tokens)
    wanted = [tokens, *module.parameters()]
    # A view, because the products of a module that is called with a leaf cannot be counted (`race.products`).
    return lambda: torch.autograd.grad(module(tokens.view_as(tokens)), wanted, weights)


def model(name: str, length: int, d_model: int, *, device: torch.device, scan_backend: str = "auto") -> Call:
    """Build one training step on one patient with a bag of that length: forward, loss, backward, AdamW.

    Args:
        name: `ME-Mamba` (three experts, with genes and a bag), `full attention` or `Nystrom` (the bag alone).
        length: number of patches.
        d_model: width of all models.
        device: device of the model and the patches.
        scan_backend: backend of ME-Mamba's scans.
    """
    patches_PF = torch.randn(length, SPEC.feature_width).to(device)
    time_bin, event = torch.tensor([1], device=device), torch.tensor([True], device=device)
    network: nn.Module
    if name == "ME-Mamba":
        network = build_model(ModelConfig(d_model=d_model, scan_backend=scan_backend), SPEC, seed=0)
        patient = PatientInputs(SurvivalTarget(20.0, True, 1), Bag(patches_PF), torch.randn(SPEC.num_genes)).to(device)

        def logits() -> tuple[Tensor, Tensor]:
            output = network([patient])
            return output.logits_BK, 0.1 * output.mmd

    else:
        network = AttentionAggregator(RIVALS[name], SPEC.feature_width, d_model, SPEC.num_bins)

        def logits() -> tuple[Tensor, Tensor]:
            return network(patches_PF.unsqueeze(0)), patches_PF.new_zeros(())

    network.to(device).train()
    optimizer = AdamW(network.parameters(), lr=1e-3, fused=True)

    def call() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits_BK, extra = logits()
        (nll_loss(logits_BK, time_bin, event).mean() + extra).backward()
        optimizer.step()

    return call


_KINDS: dict[str, Callable[..., Call]] = {"scan": scan, "block": block, "layers": layers, "model": model}
