"""The token mixer of the Gated CNN block: a depthwise convolution (MambaOut, arXiv 2405.07992, figure 1b and eq. 6)."""

from __future__ import annotations

import torch
from torch import nn

from .registry import register_mixer


@register_mixer("gatedcnn")
class GatedCNN(nn.Module):
    """Depthwise convolution, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        kernel_size: odd side of the kernel in tokens; 7 in all published models.
    """

    kind = "convolution"
    causal = False

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # A contiguous NHWC tensor seen as NCHW is channels_last: neither permute copies.
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
