"""FLOPs of the selective scan: the recurrence's own arithmetic, and the figure that papers print.

A multiplication, an addition, a division, an exponential and a log1p are one FLOP each, and a sum of n terms is n
additions (as in the usual 2·M·N·K of a matmul). Counted per batch, step, route and channel, N states each:

    forward   dt·A, exp, ·h, dt·u·B, +, ·C, Σ                               7N + 1 (the one is dt·u)
    backward  h again (5N + 1); λ = g·C + μ, μ = a·λ (3N); Σ λ·B, Σ g·h, Σ λ·dt·u (2N each);
              q = μ·h (N); Σ A·q, Σ dt·q (2N each); du, ddelta (3)          19N + 4

plus delta_bias, softplus, D and z where present, and the merge. How a backend arranges the work (recomputation, a
second exponential, padding) is not counted, nor are index arithmetic, casts and memory traffic.
"""

from __future__ import annotations

from typing import Any

import torch


def _elements(delta: torch.Tensor) -> int:
    """B·L·K·E."""
    batch, length, routes, channels = delta.shape
    return batch * length * routes * channels


def forward_exact(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    delta_softplus: bool,
    *args: Any,
    **kwargs: Any,
) -> int:
    """FLOPs of the forward ops."""
    per_element = 7 * A.shape[-1] + 1 + _step_size(delta_bias, delta_softplus)
    if D is not None:
        per_element += 2
    if z is not None:
        per_element += 5  # sigmoid(z) is 3, times z, times y
    batch, length, K, channels = delta.shape
    merging = (K - 1) * batch * length * channels
    return _elements(delta) * per_element + merging


def _step_size(delta_bias: torch.Tensor | None, delta_softplus: bool) -> int:
    """FLOPs of dt from delta: the bias, and the exp and log1p of softplus."""
    return (delta_bias is not None) + (2 if delta_softplus else 0)


def forward_paper(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> int:
    """9·B·L·E·N, B·L·E more with D and with z, summed over the routes (state-spaces/mamba#110)."""
    return _elements(delta) * (9 * A.shape[-1] + (D is not None) + (z is not None))


def backward_exact(
    dy: torch.Tensor,
    dlast_state: torch.Tensor | None,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    delta_softplus: bool,
    *args: Any,
    **kwargs: Any,
) -> int:
    """FLOPs of the backward op, the recomputation of the states included."""
    N = A.shape[-1]
    per_element = 19 * N + 4 + _step_size(delta_bias, delta_softplus)
    if delta_softplus:
        per_element += 4  # its derivative, sigmoid, is 3, times ddt
    if delta_bias is not None:
        per_element += 1
    if D is not None:
        per_element += 4  # D·g into du, Σ g·u
    if z is not None:
        y = 2 * N + (2 if D is not None else 0)
        per_element += y + 3 + 2 + 6 + 1  # y again, sigmoid(z), dy·silu(z), dz, its sum over the routes
    if u.shape[2] < delta.shape[2]:
        per_element += 1  # du is summed over the routes
    return _elements(delta) * per_element


def backward_paper(
    dy: torch.Tensor,
    dlast_state: torch.Tensor | None,
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> int:
    """Twice the forward, the usual rule; papers print the forward alone."""
    return 2 * forward_paper(u, delta, A, B, C, D, z)
