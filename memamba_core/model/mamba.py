"""Mamba-1 block with the parameters of `mamba_ssm`: weights can be exchanged in both directions."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from memamba_core.model.convolution import causal_conv
from memamba_core.model.precision import at_least_float32
from memamba_core.model.scan import choose_backend, selective_scan
from memamba_core.model.scan.cpu.loading import load_kernels
from memamba_core.model.scan.cpu.mixer import MixerWeights, cpu_mixer

__all__ = ["Mamba"]

# Initial step sizes are log-uniform between these, as in `mamba_ssm`. The lower bound of 1e-4 there is below both.
_DT_MIN, _DT_MAX = 1e-3, 1e-1


class Mamba(nn.Module):
    """Selective state space block of Gu & Dao (2023, "Mamba", arXiv 2312.00752, figure 3).

    Names, shapes and initial distributions of the parameters are those of
    `mamba_ssm.modules.mamba_simple.Mamba` with its default settings. `A_log` and `D` carry the attribute
    `_no_weight_decay`, as in `mamba_ssm`.

    Args:
        d_model: width D of the tokens.
        d_state: size N of the state.
        d_conv: width of the causal convolution.
        expand: inner width E as a multiple of D.
        scan_backend: backend of the selective scan, see `choose_backend`.
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
            dt_E = log_dt_E.exp()
            self.dt_proj.bias.copy_(dt_E + torch.log(-torch.expm1(-dt_E)))  # softplus of it is dt

    def forward(
        self, tokens_BLD: Float[Tensor, "B L D"], order_BL: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B L D"]:
        """Mix the tokens along the sequence, causally: output t depends on tokens up to t.

        Args:
            tokens_BLD: the sequence.
            order_BL: a permutation for each sequence. Tokens are scanned in the order order[0], order[1], ..., and
                each output stands at the place of its token. None: in the order of the sequence.
        """
        xz_BLX = self.in_proj(tokens_BLD)
        if self._is_compiled(xz_BLX):
            y_BLE = cpu_mixer(at_least_float32(xz_BLX), self._mixer_weights(), order_BL)
        else:
            y_BLE = self._mix(xz_BLX, order_BL)
        mixed_BLD: Tensor = self.out_proj(y_BLE)
        return mixed_BLD

    def _mix(self, xz_BLX: Tensor, order_BL: Tensor | None) -> Tensor:
        """Compute convolution, scan and gate on any device; `cpu_mixer` computes the same in one step of the graph."""
        if order_BL is not None:
            xz_BLX = _take(xz_BLX, order_BL)
        x_BLE, z_BLE = xz_BLX.chunk(2, dim=2)
        x_BLE = F.silu(causal_conv(x_BLE, self.conv1d.weight, self.conv1d.bias))
        # x stays in float32 for the scan, as in `cpu_mixer`; the projections take the type of their weights.
        dt_BLR, B_BLN, C_BLN = self.x_proj(x_BLE.to(xz_BLX.dtype)).split(self._splits, dim=2)
        y_BEL = selective_scan(
            x_BLE.transpose(1, 2),
            F.linear(dt_BLR, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(at_least_float32(self.A_log)),
            B_BLN.transpose(1, 2),
            C_BLN.transpose(1, 2),
            self.D,
            z=z_BLE.transpose(1, 2),
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.scan_backend,
        )
        y_BLE = y_BEL.transpose(1, 2).to(xz_BLX.dtype)
        return y_BLE if order_BL is None else _take(y_BLE, order_BL.argsort(dim=1))

    def _is_compiled(self, xz_BLX: Tensor) -> bool:
        """Return True if `cpu_mixer` can compute this block."""
        if xz_BLX.device.type != "cpu" or self.D.dtype != torch.float32:
            return False
        return (
            choose_backend(self.scan_backend, self.D) == "cpu"
            and self.conv1d.kernel_size[0] <= load_kernels().MOST_TAPS
        )

    def _mixer_weights(self) -> MixerWeights:
        assert self.conv1d.bias is not None
        return MixerWeights(
            conv_weight_E1W=self.conv1d.weight,
            conv_bias_E=self.conv1d.bias,
            x_proj_ME=self.x_proj.weight,
            dt_proj_ER=self.dt_proj.weight,
            dt_bias_E=self.dt_proj.bias,
            A_log_EN=self.A_log,
            D_E=self.D,
        )


def _take(tokens_BLE: Tensor, order_BL: Tensor) -> Tensor:
    """Return the tokens in another order: row i of the result is row order[i] of the tokens."""
    return tokens_BLE.gather(1, order_BL.unsqueeze(2).expand_as(tokens_BLE))
