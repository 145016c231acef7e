"""A static global convolution: every token sees every other through a weight of their offset alone.

It is the control between a local convolution and a mixer that depends on content: global reach, fixed weights (the
long convolutions of S4 and Hyena, arXiv 2302.10866, in two dimensions and without a parametrised kernel).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .precision import sum_dtype, without_autocast
from .registry import register_mixer


@register_mixer("globalconv", control=True)
class GlobalConv(nn.Module):
    """Depthwise convolution with a kernel of (2H - 1)×(2W - 1), ``(B, H, W, D) -> (B, H, W, D)``.

    Computed by FFT in float32, outside autocast. On a map of another size the kernel is cropped, or padded with zeros.

    Args:
        dim: channels D.
        grid: (H, W) the kernel is made for.
        exact: compute the plain convolution instead, O(H²W²) but exact to rounding: for export and counting, where it
            is chosen by itself, and for tests.
    """

    kind = "convolution"
    causal = False
    needs_grid = True

    def __init__(self, dim: int, grid: tuple[int, int] = (14, 14), exact: bool = False, **dd: Any) -> None:
        super().__init__()
        self.exact = exact
        self.weight = nn.Parameter(torch.empty(dim, 1, 2 * grid[0] - 1, 2 * grid[1] - 1, **dd))
        self.bias = nn.Parameter(torch.zeros(dim, **dd))
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[1:3]
        kernel = _centred(self.weight, 2 * height - 1, 2 * width - 1)
        nchw = x.permute(0, 3, 1, 2)  # (B, D, H, W)
        if self.exact or x.is_meta or torch.compiler.is_compiling():
            y = F.conv2d(nchw, kernel, self.bias, padding=(height - 1, width - 1), groups=len(kernel))
            return y.permute(0, 2, 3, 1)
        with without_autocast(x):
            dtype = sum_dtype(x)
            sides = (2 * height, 2 * width)  # no offset wraps onto another; even sides are fast
            spectrum = torch.fft.rfft2(nchw.to(dtype), s=sides)
            response = torch.fft.rfft2(kernel[:, 0].to(dtype), s=sides)  # (D, 2H, W + 1)
            y = torch.fft.irfft2(spectrum * response.conj(), s=sides)  # a correlation, as convolutions of networks are
            # Offset (0, 0) is the kernel's centre, so that token (i, j) is at (i - H + 1, j - W + 1), modulo the sides.
            y = y.roll((height - 1, width - 1), (2, 3))[..., :height, :width]
            y = y + self.bias.to(dtype)[:, None, None]
        return y.to(x.dtype).permute(0, 2, 3, 1)


def _centred(kernel: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The kernel (D, 1, ·, ·) cropped, or padded with zeros, around its centre to ``height`` × ``width`` (all odd)."""
    rows, columns = (height - kernel.shape[2]) // 2, (width - kernel.shape[3]) // 2
    return kernel if rows == columns == 0 else F.pad(kernel, (columns, columns, rows, rows))
