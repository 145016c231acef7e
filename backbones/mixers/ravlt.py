"""RAVLT's token mixer: rank-augmented linear attention (RALA, arXiv 2411.07635)."""

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


def _heads(x: torch.Tensor, num_heads: int) -> torch.Tensor:
    """(B, H, W, D) -> (B, L, heads, D/heads)."""
    return x.flatten(1, 2).unflatten(-1, (num_heads, -1))


def _turned(x: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Rotates (B, L, heads, d) by row and column, every head alike; the last frequency is 1/10000, not beyond."""
    steps = torch.linspace(0, 1, x.shape[-1] // 4, dtype=x.dtype, device=x.device)
    table = axial_rope(height, width, 10000.0**-steps)  # (H, W, 2d)
    return rotate(x, table.flatten(0, 1).unsqueeze(1))


@ignored_by_torchscript
def rank_augmented_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Linear attention whose keys are weighed by how much the mean query attends to them (paper equations 5 and 6)::

        q, k = elu(q) + 1, elu(k) + 1
        k_s  = L · softmax_s(mean(q)·k_s / √d) k_s
        y_t  = Σ_s (R q_t · R k_s) v_s / (Σ_s q_t·k_s + L·1e-6)

    R turns channel pairs by row and column. All are (B, H, W, D).
    """
    height, width = v.shape[1:3]
    precise = torch.promote_types(v.dtype, torch.float32)
    q, k = (F.elu(t.to(precise)) + 1 for t in (q, k))
    q, k, values = (_heads(t, num_heads) for t in (q, k, v))
    scores = (k * q.mean(1, keepdim=True)).sum(-1, keepdim=True) * k.shape[-1] ** -0.5  # (B, L, heads, 1)
    k = k * scores.softmax(1) * k.shape[1]
    y = linear_attention(_turned(q, height, width), _turned(k, height, width), values, normalizer=(q, k))
    return y.reshape(v.shape)


@ignored_by_torchscript
def rotary_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Softmax attention with the same rotations, quadratic in tokens; all are (B, H, W, D)."""
    height, width = v.shape[1:3]
    precise = torch.promote_types(v.dtype, torch.float32)
    q, k = (_turned(_heads(t.to(precise), num_heads), height, width).to(v.dtype) for t in (q, k))
    y = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, _heads(v, num_heads))))
    return y.transpose(1, 2).reshape(v.shape)


@register_notrace_module
@register_mixer("ravlt")
class RALA(nn.Module):
    """`rank_augmented_attention` and a 5×5 depthwise convolution of the values, ``(B, H, W, D) -> (B, H, W, D)``.

    This is the mixer alone. The gate behind it and the output projection belong to the block that it sits in: RAVLT's
    own (`mixerzoo.backbones.ravlt`) or the gated block of MambaOut.

    Args:
        dim: channels D.
        num_heads: heads, of a multiple of 4 channels; ``None`` takes as many of 32 channels as fit, at least one.

    Raises:
        ValueError: ``dim`` is no multiple of four times the heads.
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
        if dim % (4 * self.num_heads):
            raise ValueError(f"dim must be a multiple of 4·num_heads, got dim={dim} and num_heads={self.num_heads}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.qkv = nn.Linear(dim, 3 * dim, **dd)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        y = rank_augmented_attention(q, k, v, self.num_heads)
        return y + self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
