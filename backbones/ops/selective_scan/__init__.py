"""The selective scan (S6) of Mamba: one public function for sequences, one for images, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..common import without_autocast
from ..cross_scan import VMAMBA_ROUTES
from . import mamba_backend, reference, registration
from .problem import Problem, image_problem, sequence_problem

__all__ = ["selective_scan", "selective_scan_2d"]


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
    *,
    reverse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Selective scan (S6) with the logical shapes and the meaning of mamba-ssm's ``selective_scan_fn``.

    Per batch and channel, with dt = softplus(delta + delta_bias), h = 0 before the first step and n running over the
    N states::

        h[n] = exp(dt·A[n])·h[n] + dt·B[n]·u
        y    = (Σ_n C[n]·h[n] + D·u)·silu(z)

    State and accumulation are float32 (float64 if an argument is float64), whatever the dtype of the activations, each
    of which may be float16, bfloat16, float32 or float64; under autocast they are cast. Any strides are accepted. It is
    fastest when channels are the contiguous axis, that is, when ``u = x.transpose(1, 2)`` of a contiguous x (B, L, D):
    then nothing is copied or transposed, and the output has that memory layout, too. Forward and backward are
    deterministic. Gradients and transforms of torch.func work with every backend; forward-mode and second derivatives
    with "reference", all others raise RuntimeError.

    Args:
        u: (B, D, L) input.
        delta: (B, D, L) step sizes, before bias and softplus.
        A: (D, N) real state matrix, usually negative; kept in float32.
        B: (B, N, L), or (B, G, N, L) with G groups of D/G channels, or (D, N), constant over batch and time.
        C: like ``B``.
        D: (D,) skip connection.
        z: (B, D, L) gate.
        delta_bias: (D,) added to ``delta``.
        delta_softplus: pass delta + delta_bias through softplus (the identity above 20).
        return_last_state: also return the state after the last step; gradients flow through it.
        backend: "auto" (the fastest for device and dtype), "triton", "cpu" (the C kernel), "torch" (plain PyTorch with
            an explicit backward), "reference" (the bare recurrence, differentiable any number of times) or "mamba_ssm"
            (that package's CUDA kernel).
        reverse: scan from the last step to the first.

    Returns:
        (B, D, L) in the dtype of ``u``; with ``return_last_state`` also the state (B, D, N).

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message names the argument.

    Source: Mamba, arXiv 2312.00752, Algorithm 2 and §3.3 (zero-order hold for A, Euler for B).
    """
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    y, last_state = _solve(sequence_problem(tensors, delta_softplus, reverse, backend), None, backend)
    out = y.transpose(1, 2)
    return (out, last_state.squeeze(1)) if return_last_state else out


def selective_scan_2d(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
    *,
    routes: Sequence[int] = VMAMBA_ROUTES,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Selective scans of an image along K routes, added pixel by pixel into one output.

    Each route has its own delta, A, B, C, D. All are given at pixels, never in the order of a route: routes are index
    arithmetic, no pixel is copied. Equals :func:`~mixerzoo.backbones.ops.cross_scan.cross_scan` of every argument, a
    :func:`selective_scan` per route, and :func:`~mixerzoo.backbones.ops.cross_scan.cross_merge`.

    Args:
        x: (B, H, W, E), read by every route, or (B, H, W, K, E), slice k of which route k reads. A (B, E, H, W) image
            comes in as ``x.permute(0, 2, 3, 1)``; any strides are accepted, contiguous channels are fastest.
        delta: (B, H, W, K, E) step sizes, before bias and softplus.
        A: (K, E, N) real state matrix, usually negative; kept in float32.
        B: (B, H, W, K, N), or (B, H, W, K, G, N) with G groups of E/G channels.
        C: like ``B``.
        D: (K, E) skip connection.
        z: (B, H, W, E) gate of every route.
        delta_bias: (K, E) added to ``delta``.
        delta_softplus: pass delta + delta_bias through softplus (the identity above 20).
        return_last_state: also return the state of each route after its last step.
        backend: as in :func:`selective_scan`.
        routes: K of :class:`~mixerzoo.backbones.ops.cross_scan.Route`; the default are VMamba's four in the order of
            its weights, ``VIM_ROUTES`` are Vim's two.
        out_dtype: dtype of the output, that of ``x`` if None. VMamba asks for float32 under float16.

    Returns:
        (B, H, W, E); with ``return_last_state`` also the states (B, K, E, N).

    Raises:
        ValueError: a shape, dtype, device or backend does not fit; the message names the argument.

    Source: VMamba, arXiv 2401.10166, §4.3 (2D-Selective-Scan); Vim, arXiv 2401.09417, Algorithm 1.
    """
    tensors = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    problem = image_problem(tensors, delta_softplus, routes, out_dtype, backend)
    y, last_state = _solve(problem, out_dtype, backend)
    out = y.unflatten(1, problem.grid)
    return (out, last_state) if return_last_state else out


def _solve(problem: Problem, out_dtype: torch.dtype | None, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """y (B, L, E), summed over the routes, and last_state (B, K, E, N)."""
    if backend not in ("reference", "mamba_ssm"):
        return registration.solve(problem, out_dtype, backend)
    scan = reference.scan if backend == "reference" else mamba_backend.scan  # these bring an autograd of their own
    with without_autocast(problem.u.device.type):
        y, last_state = scan(problem, problem.dtype)
        return y.sum(2).to(out_dtype or problem.u.dtype), last_state
