"""SS2D: selective scans along rows and columns, both ways (VMamba, arXiv 2401.10166, section 4.3)."""

from __future__ import annotations

from typing import Any

import torch

from ..layers import StateLayerNorm
from ..ops.cross_scan import VMAMBA_ROUTES
from .registry import register_mixer
from .s6 import S6


@register_mixer("ss2d")
class SS2D(S6):
    """Depthwise convolution, SiLU, four selective scans added up, LayerNorm, ``(B, H, W, D) -> (B, H, W, D)``.

    One state per channel, as in all released models of the second version; the norm is theirs, too.
    """

    routes = VMAMBA_ROUTES

    def __init__(self, dim: int, d_state: int = 1, kernel_size: int = 7, backend: str = "auto", **dd: Any) -> None:
        super().__init__(dim, d_state, kernel_size, backend, **dd)
        self.norm = StateLayerNorm(dim, **dd)

    def finish(self, y: torch.Tensor) -> torch.Tensor:
        return self.norm(y)
