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

from .problem import Problem


def _elements(problem: Problem) -> int:
    """B·L·K·E."""
    return problem.batch * problem.length * len(problem.routes) * problem.channels


def _step_size(problem: Problem) -> int:
    """FLOPs of dt from delta: the bias, and the exp and log1p of softplus."""
    return (problem.delta_bias is not None) + (2 if problem.softplus else 0)


def forward_exact(*args: Any, **kwargs: Any) -> int:
    """FLOPs of the forward ops."""
    problem = Problem.of(*args)
    per_element = 7 * problem.states + 1 + _step_size(problem)
    if problem.D is not None:
        per_element += 2
    if problem.z is not None:
        per_element += 5  # sigmoid(z) is 3, times z, times y
    merging = (len(problem.routes) - 1) * problem.batch * problem.length * problem.channels
    return _elements(problem) * per_element + merging


def forward_paper(*args: Any, **kwargs: Any) -> int:
    """9·B·L·E·N, B·L·E more with D and with z, summed over the routes (state-spaces/mamba#110)."""
    problem = Problem.of(*args)
    return _elements(problem) * (9 * problem.states + (problem.D is not None) + (problem.z is not None))


def backward_exact(dy: torch.Tensor, dlast_state: torch.Tensor | None, *args: Any, **kwargs: Any) -> int:
    """FLOPs of the backward op, the recomputation of the states included."""
    problem = Problem.of(*args)
    N = problem.states
    per_element = 19 * N + 4 + _step_size(problem)
    if problem.softplus:
        per_element += 4  # its derivative, sigmoid, is 3, times ddt
    if problem.delta_bias is not None:
        per_element += 1
    if problem.D is not None:
        per_element += 4  # D·g into du, Σ g·u
    if problem.z is not None:
        y = 2 * N + (2 if problem.D is not None else 0)
        per_element += y + 3 + 2 + 6 + 1  # y again, sigmoid(z), dy·silu(z), dz, its sum over the routes
    if problem.u.shape[2] < len(problem.routes):
        per_element += 1  # du is summed over the routes
    return _elements(problem) * per_element


def backward_paper(dy: torch.Tensor, dlast_state: torch.Tensor | None, *args: Any, **kwargs: Any) -> int:
    """Twice the forward, the usual rule; papers print the forward alone."""
    return 2 * forward_paper(*args)
