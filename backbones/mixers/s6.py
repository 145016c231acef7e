"""Selective state-space mixers (S6; Mamba, arXiv 2312.00752): the Gated CNN's convolution, then SiLU, then a scan.

MambaOut (arXiv 2405.07992, figure 1b) draws the Mamba block as the Gated CNN block plus an SSM. These mixers are that
difference: `S6` adds one scan in row-major order to the convolution of `GatedCNN`, `BiS6` a second one from the last
token to the first (Vim, arXiv 2401.09417).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import SelectiveSSM
from ..ops.cross_scan import VIM_ROUTES, Route
from .registry import register_mixer


@register_mixer("s6")
class S6(nn.Module):
    """Depthwise convolution, SiLU, one selective scan, ``(B, H, W, D) -> (B, H, W, D)``.

    The convolution is the Gated CNN's own (7×7, two-dimensional), so that the scan is all that the mixer adds. It is
    therefore not causal as a whole: the scan sees the tokens before it, the convolution also the neighbours behind.

    Args:
        dim: channels D.
        d_state: states N per channel.
        kernel_size: side of the convolution's kernel in tokens.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    kind = "scan"
    causal = False
    routes: tuple[Route, ...] = (Route.ROWS,)
    no_weight_decay = tuple(f"ssm.{name}" for name in SelectiveSSM.no_weight_decay)

    def __init__(
        self,
        dim: int,
        d_state: int = 16,
        kernel_size: int = 7,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, **dd)
        self.ssm = SelectiveSSM(dim, self.routes, d_state, math.ceil(dim / 16), backend, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.finish(self.ssm(u, None)).to(x.dtype)

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        """What follows the sum of the routes: nothing for one."""
        return y


@register_mixer("bis6")
class BiS6(S6):
    """As `S6` with a second scan from the last token to the first; the two are averaged, as in Vim (hustvl/Vim#90)."""

    routes = VIM_ROUTES

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        return y / 2
