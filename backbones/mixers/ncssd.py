"""Non-causal state-space duality (VSSD, arXiv 2407.18559): every token reads one state that all tokens wrote."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .precision import sum_dtype, without_autocast
from .registry import register_mixer


@register_mixer("ncssd", control=True)
class NonCausalSSD(nn.Module):
    """VSSD's operator and the norm behind it, ``(B, H, W, D) -> (B, H, W, D)``::

        y_t = LayerNorm(S C_t + D x_t)   with   S = Σ_s dt_s a B_s ⊗ x_s,   a = exp(A_log)

    B and C are shared by all heads and pass through SiLU, as in VSSD. The sum has no decay and no normaliser, so its
    magnitude grows with the number of tokens: it is taken in float32, and the norm belongs to the operator.

    Args:
        dim: channels D.
        d_state: states N.
        num_heads: heads; ``None`` takes as many of 32 channels as fit, at least one.

    Raises:
        ValueError: ``num_heads`` does not divide ``dim``.
    """

    kind = "scan"
    causal = False
    no_weight_decay = ("A_log", "D", "dt_bias")

    def __init__(self, dim: int, d_state: int = 64, num_heads: int | None = None, **dd: Any) -> None:
        super().__init__()
        self.num_heads = max(1, dim // 32) if num_heads is None else num_heads
        if dim % self.num_heads:
            raise ValueError(f"num_heads must divide dim, got dim={dim} and num_heads={self.num_heads}")
        self.d_state = d_state
        self.proj = nn.Linear(dim, 2 * d_state + self.num_heads, bias=False, **dd)
        self.dt_bias = nn.Parameter(torch.empty(self.num_heads, **dd))
        self.A_log = nn.Parameter(torch.empty(self.num_heads, **dd))
        self.D = nn.Parameter(torch.ones(self.num_heads, **dd))
        self.norm = nn.LayerNorm(dim, **dd)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        """Mamba-2's initialisation, which VSSD keeps: a uniform in [1, 16], steps log-uniform at a zero input."""
        self.A_log.uniform_(1, 16).log_()
        self.dt_bias.uniform_(math.log(dt_min), math.log(dt_max)).exp_()
        self.dt_bias.add_(torch.log(-torch.expm1(-self.dt_bias)))  # softplus⁻¹

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        params = self.proj(x).flatten(1, 2)  # (B, L, 2N + heads)
        dtype = sum_dtype(x)
        with without_autocast(x):
            B, C, dt = params.to(dtype).split([self.d_state, self.d_state, self.num_heads], dim=-1)
            weight = F.softplus(dt + self.dt_bias.to(dtype)) * self.A_log.to(dtype).exp()  # (B, L, heads)
            tokens = x.to(dtype).flatten(1, 2).unflatten(-1, (self.num_heads, -1))  # (B, L, heads, P)
            state = F.silu(B).transpose(1, 2) @ (weight.unsqueeze(-1) * tokens).flatten(2)  # (B, N, D)
            y = F.silu(C) @ state + (self.D.to(dtype).unsqueeze(-1) * tokens).flatten(2)  # (B, L, D)
        return self.norm(y.to(x.dtype)).view(x.shape)
