"""The canonical selective-scan problem: the contract between the dispatch and the backends.

Every call of the public functions, 1-D or 2-D, becomes one problem over K scan routes. Step s of a route reads and
writes pixel p(s) of an H×W grid, so that a direction is index arithmetic and never a copy:

    code 0  rows forward       p(s) = s
    code 1  rows reversed      p(s) = L-1-s
    code 2  columns forward    p(s) = (s % H)·W + s // H
    code 3  columns reversed   p of code 2 at L-1-s

(a 1-D scan has K = 1, grid (1, L) and code 0 or 1). With t = p_k(s), for every batch b, route k, channel e, state n:

    dt  = softplus(delta + delta_bias)          (the identity above 20; delta + delta_bias without ``delta_softplus``)
    h_s = exp(dt·A)·h_{s-1} + dt·u·B            h_{-1} = 0
    y_t = (Σ_n C·h_s + D·u)·silu(z_t)

Tensors:

    u           (B, L, Ku, E)    Ku = K, or 1: shared by all routes; pixel order, as everything below
    delta       (B, L, K, E)
    A           (K, E, N)        state dtype; the real, usually negative A itself, not its logarithm
    B, C        (B, L, K, G, N)  channel e belongs to group e // (E/G)
    D           (K, E)           state dtype, or None
    z           (B, L, E)        gates every route's y, or None
    delta_bias  (K, E)           state dtype, or None

* The state dtype is float64 if any of u, delta, B, C, z is float64, else float32: it is the dtype of all arithmetic,
  of the state and of every accumulation. Each of u, delta, B, C, z may have its own dtype (float16, bfloat16, float32).
* The last axis of u, delta, B, C, z and dy is contiguous for the backends that ask for it (``CONTIGUOUS_LAST``); the
  other strides are free, including 0 (expanded views). A, D, delta_bias are contiguous. Outputs are contiguous.

A backend is a module of this package with

    CONTIGUOUS_LAST: bool
    DTYPES: frozenset[torch.dtype]     what u, delta, B, C, z may be; "auto" passes a backend over for other dtypes

    unavailable(device) -> str | None
        why the backend cannot run on that device and what would mend it, in one line; None if it can run.

    forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, routes, grid, save_checkpoints, out_dtype)
        -> y (B, L, K, E) out_dtype, last_state (B, K, E, N) state dtype, checkpoints

    backward(dy, dlast_state, u, delta, A, B, C, D, z, delta_bias, delta_softplus, routes, grid, checkpoints)
        -> du, ddelta, dA, dB, dC, dD, dz, ddelta_bias

where ``routes`` is a tuple of K codes, ``grid`` is (H, W), ``checkpoints`` is a flat tensor of the state dtype, with
``checkpoint_numel`` elements in whatever layout the backend likes (the states at every CHUNK-th step), or with none if
they were not asked for. dy is (B, L, K, E), any floating dtype; dlast_state is (B, K, E, N) or None. Each gradient has
the shape and dtype of its input, or is None where the input is None. Both functions are deterministic, and neither may
return a tensor that shares memory with an input or with another output.

The public scans add the routes into one y (B, L, E). ``forward_merged``, if a backend has it, takes the arguments of
``forward`` and returns that sum; without it the dispatch sums the y of ``forward``, asked for in the state dtype. The
backward is given dy expanded over K (stride 0).
"""

from __future__ import annotations

import torch

CHUNK = 32  # steps between two checkpoints


def num_chunks(length: int) -> int:
    """Number of chunks of at most CHUNK steps in ``length`` steps."""
    return (length + CHUNK - 1) // CHUNK


def checkpoint_numel(batch: int, length: int, A: torch.Tensor) -> int:
    """Number of elements of the flat checkpoint tensor: one state (K, E, N) per batch and chunk."""
    return batch * num_chunks(length) * A.shape[0] * A.shape[1] * A.shape[2]


def state_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """dtype of all arithmetic: float64 if any of ``tensors`` is float64, else float32."""
    doubles = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if doubles else torch.float32
