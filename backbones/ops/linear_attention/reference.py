"""Linear attention as its sums say, in float32 or float64: what the matrix products must equal."""

from __future__ import annotations

import torch


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """Every pair of tokens; ``q`` and ``k`` (B, H, L, N), ``v`` and the output (B, H, L, P)."""
    return (q @ k.transpose(2, 3)) @ v


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """The recurrence ``S = S + k⊗v``, ``y = q·S``."""
    state, out = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None, :]), []  # (B, H, N, P)
    for t in range(q.shape[2]):
        state = state + k[:, :, t, :, None] * v[:, :, t, None, :]
        out.append((q[:, :, t, :, None] * state).sum(2))
    return torch.stack(out, dim=2)
