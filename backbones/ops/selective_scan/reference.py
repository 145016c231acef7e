"""The selective scan as its recurrence reads: any dtype, any order and mode of derivative, and slow."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..cross_scan import route_pixels
from .problem import Problem


def scan(problem: Problem, out_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves the problem one step at a time.

    Returns:
        y (B, L, K, E) in pixel order, and last_state (B, K, E, N).
    """
    u, delta, A, B, C, D, z, delta_bias = problem.tensors
    dtype = problem.dtype
    K, E, N = A.shape
    pixels = route_pixels(problem.routes, *problem.grid, device=u.device)  # (K, L)

    def visit(x: torch.Tensor) -> torch.Tensor:  # (B, L, K or 1, ...), pixels -> (B, L, K, ...), steps of each route
        x = x.to(dtype).expand(-1, -1, K, *x.shape[3:])
        return torch.stack([x[:, pixels[k], k] for k in range(K)], dim=2)

    def per_channel(x: torch.Tensor) -> torch.Tensor:  # (B, L, K, G, N) -> (B, L, K, E, N)
        return x.repeat_interleave(E // x.shape[3], dim=3)

    u, dt = visit(u), visit(delta)  # (B, L, K, E)
    if delta_bias is not None:
        dt = dt + delta_bias
    if problem.softplus:
        dt = F.softplus(dt)  # the identity above 20
    decays = (dt.unsqueeze(-1) * A).exp().unbind(1)  # L × (B, K, E, N)
    inputs = ((dt * u).unsqueeze(-1) * per_channel(visit(B))).unbind(1)
    readouts = per_channel(visit(C)).unbind(1)

    h = torch.zeros(delta.shape[0], K, E, N, dtype=dtype, device=u.device)
    steps = []
    for decay, x, c in zip(decays, inputs, readouts, strict=True):
        h = decay * h + x
        steps.append((h * c).sum(-1))
    y = torch.stack(steps, dim=1)  # (B, L, K, E)
    if D is not None:
        y = y + D * u
    steps_of_pixels = pixels.argsort(dim=1)  # (K, L)
    y = torch.stack([y[:, steps_of_pixels[k], k] for k in range(K)], dim=2)
    if z is not None:
        y = y * F.silu(z.to(dtype)).unsqueeze(2)
    return y.to(out_dtype), h
