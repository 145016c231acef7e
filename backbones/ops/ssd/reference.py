"""State-space duality as its recurrence reads: any dtype, any order of derivative, and slow."""

from __future__ import annotations

import torch


def scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    initial_states: torch.Tensor | None,
    reverse: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """S = exp(dt·A)·S + dt·x⊗B and y = S·C + D·x, one step at a time.

    Args:
        x: (B, L, H, P).
        dt: (B, L, H) step sizes in the state dtype, which all arithmetic is done in.
        A: (H,).
        B: (B, L, G, N).
        C: (B, L, G, N).
        D: (H, P) or (H, 1), or None.
        initial_states: (B, H, P, N), or None for zeros.
        reverse: from the last step to the first.

    Returns:
        y (B, L, H, P) in the dtype of ``x``, and the state (B, H, P, N) after the last step.
    """
    dtype, (batch, _, heads, width) = dt.dtype, x.shape
    B, C = (t.to(dtype).repeat_interleave(heads // t.shape[2], dim=2) for t in (B, C))  # (B, L, H, N)
    out_dtype, x = x.dtype, x.to(dtype)
    decays = (dt * A).exp()[..., None, None].unbind(1)  # L × (B, H, 1, 1)
    inputs = (dt.unsqueeze(-1) * x).unsqueeze(-1).unbind(1)  # L × (B, H, P, 1)
    writes, reads = B.unsqueeze(-2).unbind(1), C.unsqueeze(-2).unbind(1)  # L × (B, H, 1, N)

    state = x.new_zeros(batch, heads, width, B.shape[-1]) if initial_states is None else initial_states.to(dtype)
    steps = list(zip(decays, inputs, writes, reads, strict=True))
    outputs = []
    for decay, value, write, read in reversed(steps) if reverse else steps:
        state = decay * state + value * write
        outputs.append((state * read).sum(-1))
    y = torch.stack(outputs[::-1] if reverse else outputs, dim=1)  # (B, L, H, P)
    if D is not None:
        y = y + D * x
    return y.to(out_dtype), state
