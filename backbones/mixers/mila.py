"""MILA's token mixer: linear attention with rotary positions behind a small convolution (arXiv 2405.16605)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models import register_notrace_module
from torch import nn

from ..ops.linear_attention import linear_attention
from ..ops.rope import axial_rope, rotate
from .registry import register_mixer
from .s6 import ignored_by_torchscript


@register_notrace_module
@register_mixer("mila")
class MILA(nn.Module):
    """Linear attention of the tokens that a convolution puts out, ``(B, H, W, D) -> (B, H, W, D)``::

        v = silu(conv(x))    q, k = elu(qk(v)) + 1
        y_t = Σ_s (R q_t · R k_s) v_s / (Σ_s q_t · k_s + n·1e-6) + lepe(v)_t

    R turns all D channels at once, not head by head: channel pairs of the first half by the row, of the second half by
    the column (`ops.rope`), so heads know different axes and frequencies. The denominator is not rotated: weights need
    neither be positive nor sum to 1. The values are v itself.

    This is the mixer alone. The two input projections, the gate and the output projection belong to the block that it
    sits in: MILA's own (`mixerzoo.backbones.mila`) or the gated block of MambaOut.

    Args:
        dim: channels D, a multiple of 4.
        num_heads: heads; ``None`` takes as many of 32 channels as fit, at least one.

    Raises:
        ValueError: ``dim`` is no multiple of 4, or of ``num_heads``.
    """

    kind = "attention"
    causal = False

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = max(1, dim // 32) if num_heads is None else num_heads
        if dim % 4 or dim % self.num_heads:
            raise ValueError(f"dim must be a multiple of 4 and of num_heads, got dim={dim}, num_heads={self.num_heads}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.qk = nn.Linear(dim, 2 * dim, **dd)
        self.lepe = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = F.silu(self.conv(x.permute(0, 3, 1, 2)))  # (B, D, H, W), channels_last in memory
        v = image.permute(0, 2, 3, 1)
        return self.attend(self.qk(v), v) + self.lepe(image).permute(0, 2, 3, 1)

    @ignored_by_torchscript
    def attend(self, qk: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Feature map, rotation and attention: ``qk`` (B, H, W, 2D), ``v`` and the output (B, H, W, D)."""
        _, height, width, dim = v.shape
        precise = torch.promote_types(v.dtype, torch.float32)
        q, k = (F.elu(t.to(precise)) + 1 for t in qk.chunk(2, dim=-1))
        steps = torch.arange(dim // 4, dtype=precise, device=v.device)
        table = axial_rope(height, width, 10000.0 ** (-4 * steps / dim))
        q_heads, k_heads, v_heads, q_turned, k_turned = (
            t.flatten(1, 2).unflatten(-1, (self.num_heads, -1))  # (B, L, heads, D/heads)
            for t in (q, k, v, rotate(q, table), rotate(k, table))
        )
        y = linear_attention(q_turned, k_turned, v_heads, normalizer=(q_heads, k_heads))
        return y.reshape(v.shape)
