"""The selective scan (S6) of Mamba: one public function for sequences, one for images, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..cross_scan import VMAMBA_ROUTES, Route
from . import library, mamba_ssm, reference
from .contract import state_dtype
from .validate import check_scan, check_scan_2d

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
    of which may be float16, bfloat16, float32 or float64. Any strides are accepted. It is fastest when channels are the
    contiguous axis, that is, when ``u = x.transpose(1, 2)`` of a contiguous x (B, L, D): then nothing is copied or
    transposed, and the output has that memory layout, too. Forward and backward are deterministic.

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
    check_scan(u, delta, A, B, C, D, z, delta_bias, backend)
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    route = int(Route.ROWS_REVERSED if reverse else Route.ROWS)
    dtype = state_dtype(u, delta, B, C, z)
    if library.is_one_node(backend, tensors, dtype):
        out, last_state = library.SequenceScan.apply(*tensors, delta_softplus, route, backend)
        return (out, last_state) if return_last_state else out
    batch, _, length = u.shape
    B, C = _per_step(B, batch, length), _per_step(C, batch, length)
    y, last_state = _scan(
        u.transpose(1, 2).unsqueeze(2),  # (B, L, 1, D)
        delta.transpose(1, 2).unsqueeze(2),
        _parameter(A, dtype).unsqueeze(0),  # (1, D, N)
        *_same_groups(B, C),
        None if D is None else _parameter(D, dtype).unsqueeze(0),
        None if z is None else z.transpose(1, 2),  # (B, L, D)
        None if delta_bias is None else _parameter(delta_bias, dtype).unsqueeze(0),
        delta_softplus,
        [route],
        (1, length),
        None,
        backend,
    )
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
    check_scan_2d(x, delta, A, B, C, D, z, delta_bias, routes, out_dtype, backend)
    height, width = x.shape[1:3]
    dtype = state_dtype(x, delta, B, C, z)
    B, C = (t.flatten(1, 2) if t.ndim == 6 else t.flatten(1, 2).unsqueeze(3) for t in (B, C))  # (B, L, K, G, N)
    y, last_state = _scan(
        (x if x.ndim == 5 else x.unsqueeze(3)).flatten(1, 2),  # (B, L, 1 or K, E)
        delta.flatten(1, 2),
        _parameter(A, dtype),
        *_same_groups(B, C),
        None if D is None else _parameter(D, dtype),
        None if z is None else z.flatten(1, 2),
        None if delta_bias is None else _parameter(delta_bias, dtype),
        delta_softplus,
        [int(route) for route in routes],
        (height, width),
        out_dtype,
        backend,
    )
    out = y.unflatten(1, (height, width))
    return (out, last_state) if return_last_state else out


def _parameter(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return x.to(dtype).contiguous()


def _per_step(x: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    """B or C in any of its logical shapes -> (B, L, 1, G, N), a view."""
    if x.ndim == 2:  # (D, N): a group per channel, the same at every step
        return x.expand(batch, length, 1, -1, -1)
    if x.ndim == 3:
        x = x.unsqueeze(1)
    return x.permute(0, 3, 1, 2).unsqueeze(2)


def _same_groups(B: torch.Tensor, C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Repeats the groups of the coarser of B, C (B, L, K, G, N)."""
    groups = max(B.shape[3], C.shape[3])
    return tuple(x if x.shape[3] == groups else x.repeat_interleave(groups // x.shape[3], dim=3) for x in (B, C))


def _scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    delta_softplus: bool,
    routes: list[int],
    grid: tuple[int, int],
    out_dtype: torch.dtype | None,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves the canonical problem: y (B, L, E) and last_state (B, K, E, N)."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    if backend in ("reference", "mamba_ssm"):  # these bring an autograd of their own
        u, delta, B, C, z = library.autocast(u.device.type, u, delta, B, C, z)
        scan = reference.scan if backend == "reference" else mamba_ssm.scan
        with library.without_autocast(u.device.type):
            y, last_state = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, routes, grid, A.dtype)
        return y.sum(2).to(out_dtype or u.dtype), last_state
    arguments = (*tensors, delta_softplus, routes, *grid, out_dtype, backend)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        y, last_state, _ = torch.ops.mixerzoo.selective_scan_fwd.default(*arguments)
        return y, last_state
    return torch.ops.mixerzoo.selective_scan_infer.default(*arguments)
