"""Linear attention as batched matrix products, which autograd, compilers and counters see as such."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def full(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """One state for all tokens; ``q`` and ``k`` (B, H, L, N), ``v`` and the output (B, H, L, P)."""
    return q @ (k.transpose(2, 3) @ v)


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, chunk_size: int) -> torch.Tensor:
    """Masked attention inside chunks of Q tokens, and the state that the chunks before have left.

    The states of all L/Q chunks exist at once, (B, H, L/Q, N, P): no loop, at N·P/Q numbers per token.
    """
    length = q.shape[2]
    Q = min(chunk_size, length)
    # Zeros behind the last token fill its chunk: they add nothing to any state.
    q, k, v = (F.pad(t, (0, 0, 0, -length % Q)).unflatten(2, (-1, Q)) for t in (q, k, v))  # (B, H, L/Q, Q, ·)
    states = (k.transpose(3, 4) @ v).cumsum(2)
    before = F.pad(states[:, :, :-1], (0, 0, 0, 0, 1, 0))  # (B, H, L/Q, N, P)
    y = (q @ k.transpose(3, 4)).tril() @ v + q @ before
    return y.flatten(2, 3)[:, :, :length]
