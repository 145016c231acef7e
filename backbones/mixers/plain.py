"""Continuous 2-D scanning: selective scans along snakes (PlainMamba, arXiv 2403.17695)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from timm.models import register_notrace_module
from torch import nn

from ..ops.cross_scan import Route
from ..ops.snake_scan import DIRECTIONS, snake_scan
from .registry import register_mixer
from .s6 import SelectiveSSM, ignored_by_torchscript


@register_notrace_module
class SnakeSSM(SelectiveSSM):
    """The selective SSM along four snakes that share its parameters, ``(B, H, W, E) -> (B, H, W, E)``.

    Args:
        dim: channels E.
        d_state: states N per channel.
        dt_rank: rank R of the step's projection.
        backend: of `ops.snake_scan.snake_scan`.
    """

    no_weight_decay = (*SelectiveSSM.no_weight_decay, "direction_B")

    def __init__(self, dim: int, d_state: int, dt_rank: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__(dim, [Route.ROWS], d_state, dt_rank, backend, **dd)
        self.direction_B = nn.Parameter(torch.empty(DIRECTIONS, d_state, **dd))
        trunc_normal_(self.direction_B, std=0.02)

    @ignored_by_torchscript
    def forward(self, u: torch.Tensor) -> torch.Tensor:
        params = F.linear(u, self.x_proj_weight[0])
        dt, B, C = params.split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        return snake_scan(
            u,
            F.linear(dt, self.dt_proj_weight[0]),
            -self.A_log[0].float().exp(),
            B,
            C,
            self.D[0].float(),
            self.direction_B,
            self.dt_bias[0].float(),
            backend=self.backend,
            out_dtype=torch.float32 if u.dtype == torch.float16 else None,
        )


@register_mixer("plain")
class Plain(nn.Module):
    """Depthwise convolution, SiLU, four snake scans added up, ``(B, H, W, D) -> (B, H, W, D)``.

    As `S6` in all but the scans, down to the convolution. Every step reads its own pixel's delta, B and C, as the paper
    has it; the published networks differ (`ops.snake_scan`).

    Args:
        dim: channels D.
        d_state: states N per channel.
        kernel_size: side of the convolution's kernel in tokens.
    """

    kind = "scan"
    causal = False
    no_weight_decay = tuple(f"ssm.{name}" for name in SnakeSSM.no_weight_decay)

    def __init__(self, dim: int, d_state: int = 16, kernel_size: int = 7, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)
        self.ssm = SnakeSSM(dim, d_state, math.ceil(dim / 16), **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.ssm(u).to(x.dtype)
