"""Spatial-Mamba's token mixer: one scan whose states are mixed with those of their neighbours (arXiv 2410.15091)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import register_notrace_module
from torch import nn

from ..ops.cross_scan import Route
from ..ops.selective_scan import selective_scan_2d
from .registry import register_mixer
from .s6 import ignored_by_torchscript


@register_notrace_module
@register_mixer("spatial")
class SpatialSSM(nn.Module):
    """Structure-aware state fusion, ``(B, H, W, E) -> (B, H, W, E)``::

        u = silu(conv(x))
        h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t        row by row, one state per channel
        g = Σ_i alpha_i · depthwise 3×3 (h, dilation 1, 3, 5, borders repeated)
        y = LayerNorm(C g + D u)

    The scan is causal; the fusion lets a token see five rows below its own, beyond which the future stays unseen.

    This is the mixer alone. The input projection, the gate and the output projection belong to the block that it sits
    in: Spatial-Mamba's own (`mixerzoo.backbones.spatial_mamba`) or the gated block of MambaOut.

    Args:
        dim: channels E.
        dt_rank: rank R of the step's projection; ``None`` is E/16, rounded up.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    kind = "scan"
    causal = False
    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(
        self,
        dim: int,
        dt_rank: int | None = None,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dt_rank = math.ceil(dim / 16) if dt_rank is None else dt_rank
        self.backend = backend
        self.dilations = [1, 3, 5]
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.x_proj_weight = nn.Parameter(torch.empty(self.dt_rank + 2, dim, **dd))
        self.dt_proj_weight = nn.Parameter(torch.empty(dim, self.dt_rank, **dd))
        self.dt_bias = nn.Parameter(torch.empty(dim, **dd))
        self.A_log = nn.Parameter(torch.empty(dim, 1, **dd))
        self.D = nn.Parameter(torch.empty(dim, **dd))
        self.fusion_weight = nn.Parameter(torch.empty(len(self.dilations), dim, 3, 3, **dd))
        self.fusion_scale = nn.Parameter(torch.empty(len(self.dilations), **dd))
        self.norm = LayerNorm(dim, eps=1e-5, **dd)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1, dt_floor: float = 1e-4) -> None:
        """The official initialisation: Mamba's steps, A = -1, D = 1, and all fusion weights 1."""
        nn.init.kaiming_uniform_(self.x_proj_weight, a=math.sqrt(5))
        nn.init.uniform_(self.dt_proj_weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_().clamp_(min=dt_floor)
        self.dt_bias.add_(torch.log(-torch.expm1(-self.dt_bias)))  # softplus⁻¹
        nn.init.zeros_(self.A_log)
        for ones in (self.D, self.fusion_weight, self.fusion_scale):
            nn.init.ones_(ones)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)  # (B, H, W, E)
        dt, B, C = F.linear(u, self.x_proj_weight).split([self.dt_rank, 1, 1], dim=-1)
        states = self.scan(u, F.linear(dt, self.dt_proj_weight), B)
        y = C * self.fuse(states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) + self.D * u
        return self.norm(y.to(x.dtype))

    @ignored_by_torchscript
    def scan(self, u: torch.Tensor, delta: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        """The state at every token, float32 (float64 stays): a scan that is read with C = 1; (B, H, W, E)."""
        B = B.unsqueeze(3)  # (B, H, W, K = 1, N = 1)
        return selective_scan_2d(
            u,
            delta.unsqueeze(3),
            -self.A_log.float().exp().unsqueeze(0),
            B,
            torch.ones_like(B),
            delta_bias=self.dt_bias.float().unsqueeze(0),
            delta_softplus=True,
            backend=self.backend,
            routes=(Route.ROWS,),
            out_dtype=None if u.dtype == torch.float64 else torch.float32,
        )

    def fuse(self, states: torch.Tensor) -> torch.Tensor:
        """Weighted sum of three dilated convolutions of the states (B, E, H, W)."""
        fused = torch.zeros_like(states)
        for i, dilation in enumerate(self.dilations):
            weight = (self.fusion_scale[i] * self.fusion_weight[i]).unsqueeze(1)  # (E, 1, 3, 3)
            padded = F.pad(states, [dilation, dilation, dilation, dilation], mode="replicate")
            fused = fused + F.conv2d(padded, weight.to(padded.dtype), dilation=dilation, groups=states.shape[1])
        return fused
