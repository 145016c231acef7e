"""Softmax attention over all tokens of the map, fully visible or causal (MambaOut, arXiv 2405.07992, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .registry import register_mixer


@register_mixer("attn")
class Attention(nn.Module):
    """Multi-head self-attention, ``(B, H, W, D) -> (B, H, W, D)``; tokens in row-major order.

    There is no output projection: in the gated block the linear layer behind the gate is one already.

    Args:
        dim: channels D.
        num_heads: heads; ``None`` takes as many heads of 32 channels as fit, at least one.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.
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
        if dim % self.num_heads:
            raise ValueError(f"num_heads must divide dim, got dim={dim} and num_heads={self.num_heads}")
        self.head_dim = dim // self.num_heads
        self.is_causal = self.causal
        self.qkv = nn.Linear(dim, 3 * dim, bias=False, device=device, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, D = x.shape
        qkv = self.qkv(x).view(B, H * W, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, L, head_dim)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return y.transpose(1, 2).reshape(B, H, W, D)


@register_mixer("attn_causal")
class CausalAttention(Attention):
    """As `Attention`, but token t sees tokens 1…t of the row-major order only, as a recurrent mixer would."""

    causal = True
