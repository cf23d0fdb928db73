"""The Mamba-1 block, with the parameters of `mamba_ssm`, so that weights move both ways."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from memamba_core.model.precision import widen
from memamba_core.model.scan import selective_scan

__all__ = ["Mamba", "causal_conv"]

# Step sizes at the start, as in `mamba_ssm`: log-uniform between the first two, not below the third.
_DT_MIN, _DT_MAX, _DT_FLOOR = 1e-3, 1e-1, 1e-4


class Mamba(nn.Module):
    """The selective state space block of Gu & Dao (2023, "Mamba", arXiv 2312.00752, figure 3).

    Names, shapes and initial distributions of the parameters are those of
    `mamba_ssm.modules.mamba_simple.Mamba` with its default settings. `A_log` and `D` carry the attribute
    `_no_weight_decay`, as there.

    Args:
        d_model: width D of the tokens.
        d_state: size N of the state.
        d_conv: width of the causal convolution.
        expand: inner width E as a multiple of D.
        scan_backend: how the selective scan is computed, see `selective_scan`.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        *,
        scan_backend: str = "auto",
    ) -> None:
        super().__init__()
        d_inner = expand * d_model
        dt_rank = math.ceil(d_model / 16)
        self.scan_backend = scan_backend
        self._splits = [dt_rank, d_state, d_state]
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, sum(self._splits), bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1.0, d_state + 1).log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # type: ignore[attr-defined]
        with torch.no_grad():
            self.dt_proj.weight.uniform_(-(dt_rank**-0.5), dt_rank**-0.5)
            log_dt_E = torch.rand(d_inner) * math.log(_DT_MAX / _DT_MIN) + math.log(_DT_MIN)
            dt_E = log_dt_E.exp().clamp_min(_DT_FLOOR)
            self.dt_proj.bias.copy_(dt_E + torch.log(-torch.expm1(-dt_E)))  # softplus of it is dt

    def forward(self, tokens_BLD: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        """Mixes the tokens along the sequence, causally: output t depends on tokens ...t."""
        x_BLE, z_BLE = self.in_proj(tokens_BLD).chunk(2, dim=2)
        x_BLE = F.silu(causal_conv(x_BLE, self.conv1d.weight, self.conv1d.bias))
        dt_BLR, B_BLN, C_BLN = self.x_proj(x_BLE).split(self._splits, dim=2)
        y_BEL = selective_scan(
            x_BLE.transpose(1, 2),
            F.linear(dt_BLR, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(widen(self.A_log)),
            B_BLN.transpose(1, 2),
            C_BLN.transpose(1, 2),
            self.D,
            z=z_BLE.transpose(1, 2),
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.scan_backend,
        )
        mixed_BLD: Tensor = self.out_proj(y_BEL.transpose(1, 2))
        return mixed_BLD


def causal_conv(
    x_BLE: Float[Tensor, "B L E"], weight_E1W: Float[Tensor, "E 1 W"], bias_E: Float[Tensor, " E"] | None
) -> Float[Tensor, "B L E"]:
    """Depthwise convolution in which output t sees inputs t-W+1...t; before the first there are zeros.

    The same as `torch.nn.Conv1d` with `groups=E`, `padding=W-1`, cut to L. Written as W shifted multiply-adds
    over the channels-last layout that the block has: on short sequences it takes a tenth of the time.
    """
    if bias_E is None:
        bias_E = weight_E1W.new_zeros(len(weight_E1W))
    y_BLE: Tensor = _CausalConv.apply(  # type: ignore[no-untyped-call]
        widen(x_BLE), widen(weight_E1W).squeeze(1).t().contiguous(), widen(bias_E)
    )
    return y_BLE.to(x_BLE.dtype)


class _CausalConv(torch.autograd.Function):
    """Row -1-j of the weight meets the input of j steps ago."""

    @staticmethod
    def forward(ctx: Any, x_BLE: Tensor, weight_WE: Tensor, bias_E: Tensor) -> Tensor:
        ctx.save_for_backward(x_BLE, weight_WE)
        length = x_BLE.shape[1]
        y_BLE = torch.addcmul(bias_E, x_BLE, weight_WE[-1])
        for lag in range(1, min(len(weight_WE), length)):
            y_BLE[:, lag:].addcmul_(x_BLE[:, : length - lag], weight_WE[-1 - lag])
        return y_BLE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLE: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_BLE, weight_WE = ctx.saved_tensors
        length = x_BLE.shape[1]
        grad_x_BLE = grad_BLE * weight_WE[-1]
        grad_weight_WE = torch.zeros_like(weight_WE)
        for lag in range(min(len(weight_WE), length)):
            late_BSE, early_BSE = grad_BLE[:, lag:], x_BLE[:, : length - lag]
            torch.sum(late_BSE * early_BSE, dim=(0, 1), out=grad_weight_WE[-1 - lag])
            if lag:
                grad_x_BLE[:, : length - lag].addcmul_(late_BSE, weight_WE[-1 - lag])
        return grad_x_BLE, grad_weight_WE, grad_BLE.sum((0, 1))
