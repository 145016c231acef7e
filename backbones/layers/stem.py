"""Convolutions that make the maps of four-stage networks smaller: the stem and the down-sampling between stages."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm
from timm.models import register_notrace_module
from torch import nn


class ConvStem(nn.Module):
    """Two 3×3 convolutions of stride 2, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, dim: int, eps: float, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1, **dd)
        self.norm1 = LayerNorm(dim // 2, eps=eps, **dd)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd)
        self.norm2 = LayerNorm(dim, eps=eps, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The only change of memory format in the network, on its smallest tensor.
        x = x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels_last, in words that torch.vmap knows
        x = self.conv1(x).permute(0, 2, 3, 1)  # (B, H/2, W/2, D/2)
        x = F.gelu(self.norm1(x))
        x = self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H/4, W/4, D)
        return self.norm2(x)


@register_notrace_module
class StridedConv(nn.Conv2d):
    """A 3×3 convolution of stride 2 that is fast on small maps of many channels, too.

    PyTorch's convolution on CPUs sorts its weights anew in every call, which takes longer than the arithmetic where
    the output has far fewer pixels than channels. There this is one matrix product over copied patches.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.jit.is_scripting() and self._is_small(x):  # TorchScript has the convolution at any size
            return self._product(x)
        return self._conv_forward(x, self.weight, self.bias)

    def _is_small(self, x: torch.Tensor) -> bool:
        """At most as many input pixels as output channels (a quarter as many output pixels; with more, the convolution
        is about as fast), on a CPU; compilers, too, get the convolution at any size."""
        if self.weight.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return x.shape[0] * x.shape[2] * x.shape[3] <= self.out_channels

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        h, w = ((side + 1) // 2 for side in x.shape[2:])
        patches = F.unfold(x, self.kernel_size, padding=self.padding, stride=self.stride)  # (B, 9C, hw)
        y = F.linear(patches.transpose(1, 2), self.weight.flatten(1), self.bias)  # (B, hw, O)
        return y.transpose(1, 2).unflatten(2, (h, w))  # (B, O, h, w), channels_last in memory


class ConvDownsample(nn.Module):
    """3×3 convolution of stride 2, then LayerNorm, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, eps: float, **dd: Any) -> None:
        super().__init__()
        self.conv = StridedConv(dim_in, dim_out, 3, stride=2, padding=1, **dd)
        self.norm = LayerNorm(dim_out, eps=eps, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
