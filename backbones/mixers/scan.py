"""The selective scan by itself, without the convolution that `S6` puts before it (Mamba, arXiv 2312.00752)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from ..layers import SelectiveSSM
from ..ops.cross_scan import Route
from .registry import register_mixer


@register_mixer("s6_alone", control=True)
class Scan(nn.Module):
    """One selective scan in row-major order, ``(B, H, W, D) -> (B, H, W, D)``; strictly causal.

    Args:
        dim: channels D.
        d_state: states N per channel.
    """

    kind = "scan"
    causal = True
    no_weight_decay = tuple(f"ssm.{name}" for name in SelectiveSSM.no_weight_decay)

    def __init__(self, dim: int, d_state: int = 16, **dd: Any) -> None:
        super().__init__()
        self.ssm = SelectiveSSM(dim, (Route.ROWS,), d_state, math.ceil(dim / 16), **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ssm(x, None).to(x.dtype)
