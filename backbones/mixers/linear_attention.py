"""Linear attention over all tokens, or over those before ("Transformers are RNNs", arXiv 2006.16236)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..ops.ssd import ssd
from .attention import Attention
from .precision import sum_dtype, without_autocast
from .registry import register_mixer


@register_mixer("linear", control=True)
class LinearAttention(nn.Module):
    """Attention with the feature map φ = ELU + 1 for the softmax, ``(B, H, W, D) -> (B, H, W, D)`` (equations 4-7)::

        y_t = Σ_s (φ(q_t)·φ(k_s)) v_s / Σ_s φ(q_t)·φ(k_s)

    As in `Attention` there is no output projection. Sums over tokens are float32, or float64 for such an input.

    Args:
        dim: channels D.
        num_heads: heads; ``None`` takes as many of 32 channels as fit, at least one.
    """

    kind = "attention"
    causal = False

    def __init__(self, dim: int, num_heads: int | None = None, **dd: Any) -> None:
        super().__init__()
        attention = Attention(dim, num_heads, device="meta")  # which heads, and whether they fit
        self.num_heads, self.head_dim = attention.num_heads, attention.head_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, H, W, _ = x.shape
        qkv = self.qkv(x).view(B, H * W, 3, self.num_heads, self.head_dim)
        dtype = sum_dtype(x)
        with without_autocast(x):
            q, k, v = qkv.to(dtype).unbind(2)  # each (B, L, heads, head_dim)
            y = self.attend(F.elu(q) + 1, F.elu(k) + 1, F.pad(v, (0, 1), value=1.0))
            y = y[..., :-1] / y[..., -1:]
        return y.reshape(x.shape).to(x.dtype)

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Σ_s (q_t·k_s) v_s, the last channel of ``v`` being 1 for the normaliser; all (B, L, heads, ·)."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return (q @ (k.transpose(-1, -2) @ v)).transpose(1, 2)


@register_mixer("linear_causal", control=True)
class CausalLinearAttention(LinearAttention):
    """As `LinearAttention`, but token t sees tokens 1…t: SSD without decay (arXiv 2405.21060, section 3)."""

    causal = True

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return ssd(v, v.new_ones(v.shape[:3]), v.new_zeros(v.shape[2]), k, q)
