"""State-space duality (SSD) of Mamba-2: the selective scan with one decay per head, as matmuls."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..common import autocast, check_choice, check_shapes, check_tensors, state_dtype, without_autocast
from . import reference, registration

__all__ = ["ssd"]

BACKENDS = ("auto", "torch", "reference")
_FORMS = {
    "x": (("B", "L", "H", "P"),),
    "dt": (("B", "L", "H"),),
    "A": (("H",),),
    "B": (("B", "L", "G", "N"),),
    "C": (("B", "L", "G", "N"),),
    "D": (("H",), ("H", "P")),
    "z": (("B", "L", "H", "P"),),
    "dt_bias": (("H",),),
    "initial_states": (("B", "H", "P", "N"),),
}


def ssd(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    *,
    D: torch.Tensor | None = None,
    z: torch.Tensor | None = None,
    dt_bias: torch.Tensor | None = None,
    dt_softplus: bool = False,
    initial_states: torch.Tensor | None = None,
    chunk_size: int | None = None,
    return_final_states: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    backend: str = "auto",
    reverse: bool = False,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """State-space duality with the meaning of mamba-ssm's ``mamba_chunk_scan_combined``.

    Per batch and head, with dt = clamp(softplus(dt + dt_bias), dt_limit) and a state S of P×N::

        S = exp(dt·A)·S + dt·x⊗B
        y = (S·C + D·x)·silu(z)

    State and accumulation are float32 (float64 if an activation is float64), whatever the dtype of the activations;
    matmuls of float32 follow ``torch.set_float32_matmul_precision``. Any L is accepted and nothing is padded. Forward
    and backward are deterministic, and the backward saves no intermediate. Under autocast x, B and C are cast.
    Gradients and transforms of torch.func work with every backend; forward-mode and second derivatives with
    "reference", the others raise RuntimeError.

    Args:
        x: (B, L, H, P) input, H heads of P channels.
        dt: (B, L, H) step sizes, before bias, softplus and limits.
        A: (H,) real decay rate of each head, usually negative.
        B: (B, L, G, N) with G groups of H/G heads.
        C: (B, L, G, N).
        D: (H,) or (H, P) skip connection.
        z: (B, L, H, P) gate.
        dt_bias: (H,) added to ``dt``.
        dt_softplus: pass dt + dt_bias through softplus (the identity above 20).
        initial_states: (B, H, P, N) state before the first step, zeros if None.
        chunk_size: tokens per block; None picks one by L, N and device (CPU 32 or 48, GPU 64, 128 beyond L = 1024, one
            block for a short sequence). It changes speed, not results.
        return_final_states: also return the state after the last step; gradients flow through it.
        dt_limit: bounds of the step size after softplus. The default clips negative steps.
        backend: "auto" and "torch" (block decomposition into matmuls, any device) or "reference" (the bare
            recurrence, differentiable any number of times).
        reverse: scan from the last token to the first; then ``initial_states`` precedes the last token.

    Returns:
        (B, L, H, P) in the dtype of ``x``; with ``return_final_states`` also the state (B, H, P, N), float32 or
        float64.

    Raises:
        ValueError: a shape, dtype, device or option does not fit; the message names the argument.

    Source: Mamba-2, arXiv 2405.21060, §3 (duality), §6 (block decomposition), §7.1 (heads and groups).
    """
    check_choice("ssd", "backend", backend, BACKENDS)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"ssd: chunk_size must be at least 1, or None, got {chunk_size}")
    if not dt_limit[0] <= dt_limit[1]:
        raise ValueError(f"ssd: dt_limit must be (lowest, highest), got {dt_limit}")
    tensors = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "z": z, "dt_bias": dt_bias}
    tensors["initial_states"] = initial_states
    check_tensors("ssd", tensors)
    check_shapes("ssd", tensors, _FORMS, {}, "H")
    dtype = state_dtype(x, dt, B, C, z, initial_states)
    x, B, C = autocast(x.device.type, x, B, C)
    dt = _step_size(dt.to(dtype), dt_bias, dt_softplus, dt_limit)
    A = A.to(dtype)
    if D is not None:
        D = D.to(dtype).reshape(D.shape[0], -1)  # (H, P) or (H, 1)
    if backend == "reference":
        with without_autocast(x.device.type):
            y, states = reference.scan(x, dt, A, B, C, D, initial_states, reverse)
    else:
        y, states = registration.solve(x, dt, A, B, C, D, initial_states, chunk_size, reverse)
    if z is not None:
        y = (y.to(dtype) * F.silu(z.to(dtype))).to(y.dtype)
    return (y, states) if return_final_states else y


def _step_size(
    dt: torch.Tensor, dt_bias: torch.Tensor | None, dt_softplus: bool, dt_limit: tuple[float, float]
) -> torch.Tensor:
    """(B, L, H) -> clamp(softplus(dt + dt_bias)), in the dtype of ``dt``."""
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = F.softplus(dt)
    return dt.clamp(*dt_limit)
