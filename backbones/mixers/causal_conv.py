"""Strictly causal depthwise convolutions: over the rows above and the row so far, or along the row-major sequence.

The two-dimensional one is PixelCNN's masked convolution of type B (arXiv 1601.06759, section 3.4): the token itself is
seen, because an autoregressive input is shifted by one token.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .registry import register_mixer


@register_mixer("conv_causal2d", control=True)
class CausalConv2d(nn.Module):
    """Masked k×k depthwise convolution, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        kernel_size: odd side k; the kernel holds the (k + 1)/2 rows that a masked one keeps.
    """

    kind = "convolution"
    causal = True

    def __init__(self, dim: int, kernel_size: int = 7, **dd: Any) -> None:
        super().__init__()
        reach = kernel_size // 2
        self.conv = nn.Conv2d(dim, dim, (reach + 1, kernel_size), padding=reach, groups=dim, **dd)
        mask = torch.ones(reach + 1, kernel_size, device=dd.get("device"), dtype=dd.get("dtype"))
        mask[-1, reach + 1 :] = 0  # in its own row a token sees what is to its left
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        x = x.permute(0, 3, 1, 2)  # (B, D, H, W)
        y = F.conv2d(x, conv.weight * self.mask, conv.bias, padding=conv.padding, groups=conv.groups)
        return y[:, :, : x.shape[2]].permute(0, 2, 3, 1)  # the rows below the map come from padding both ends


@register_mixer("conv_causal1d", control=True)
class CausalConv1d(nn.Module):
    """Depthwise convolution over a token and the k - 1 before it, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        kernel_size: tokens k.
    """

    kind = "convolution"
    causal = True

    def __init__(self, dim: int, kernel_size: int = 7, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, (1, kernel_size), padding=(0, kernel_size - 1), groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sequence = x.flatten(1, 2).unsqueeze(1).permute(0, 3, 1, 2)  # (B, D, 1, L)
        y = self.conv(sequence)[..., : sequence.shape[3]]
        return y.permute(0, 2, 3, 1).reshape(x.shape)


@register_mixer("conv31_causal1d", control=True)
class LongCausalConv1d(CausalConv1d):
    """`CausalConv1d` of 31 tokens: on a map of 28 columns it sees the token above."""

    def __init__(self, dim: int, kernel_size: int = 31, **dd: Any) -> None:
        super().__init__(dim, kernel_size, **dd)
