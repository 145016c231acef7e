"""Average pooling as a token mixer (PoolFormer: "MetaFormer Is Actually What You Need for Vision", 2111.11418)."""

from __future__ import annotations

import torch
from torch import nn

from .registry import register_mixer


@register_mixer("pool")
class Pool(nn.Module):
    """3×3 average over the neighbours inside the image, ``(B, H, W, D) -> (B, H, W, D)``; no parameters.

    PoolFormer subtracts the input because its residual adds it back. Here the mixer's output meets a gate, not the
    residual, so nothing is subtracted.
    """

    kind = "pooling"
    causal = False

    def __init__(
        self,
        dim: int,
        kernel_size: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(kernel_size, stride=1, padding=kernel_size // 2, count_include_pad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
