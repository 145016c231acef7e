"""The ``mamba_ssm`` backend: mamba-ssm's CUDA kernel, for comparison.

The kernel knows one direction and wants time contiguous, so that routes are materialised and activations transposed
around it. Its backward adds with atomics (not deterministic) and ignores the gradient of the last state.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..cross_scan import route_pixels
from .problem import Problem


def _kernel(u: torch.Tensor) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    if u.device.type != "cuda":
        raise ValueError(f"selective_scan: backend='mamba_ssm' needs CUDA tensors, got {u.device}; use backend='auto'")
    if u.dtype == torch.float64:
        raise ValueError("selective_scan: backend='mamba_ssm' does not take float64; use backend='torch'")
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError as error:
        raise ValueError(
            f"selective_scan: backend='mamba_ssm' is not installed ({error}); "
            "pip install --no-build-isolation mamba-ssm"
        ) from error
    return selective_scan_fn


def scan(problem: Problem, out_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Solves the problem: y (B, L, K, E) and last_state (B, K, E, N).

    Raises:
        ValueError: no CUDA tensors, float64, or the package is absent.
    """
    u, delta, A, B, C, D, z, delta_bias = problem.tensors
    kernel = _kernel(u)
    K, E = A.shape[:2]
    pixels = route_pixels(problem.routes, *problem.grid, device=u.device)  # (K, L)

    def sequences(x: torch.Tensor) -> torch.Tensor:  # (B, L, K or 1, ...) -> (B, K·first, ..., L), time contiguous
        x = x.to(u.dtype).expand(-1, -1, K, *x.shape[3:])
        x = torch.stack([x[:, pixels[k], k] for k in range(K)], dim=1)  # (B, K, L, ...)
        return x.movedim(2, -1).flatten(1, 2).contiguous()

    y, last_state = kernel(
        sequences(u),
        sequences(delta),
        A.flatten(0, 1),
        sequences(B),
        sequences(C),
        None if D is None else D.flatten(),
        None if z is None else sequences(z.unsqueeze(2)),
        None if delta_bias is None else delta_bias.flatten(),
        problem.softplus,
        True,
    )
    y = y.unflatten(1, (K, E)).movedim(-1, 1)  # (B, L, K, E) in steps
    steps = pixels.argsort(dim=1)
    y = torch.stack([y[:, steps[k], k] for k in range(K)], dim=2)
    return y.to(out_dtype), last_state.unflatten(1, (K, E))
