"""The canonical selective-scan problem: what the public functions state and every backend solves.

Every call of the public functions, 1-D or 2-D, becomes one `Problem` over K scan routes. Step s of a route reads and
writes pixel p(s) of an H×W grid, so that a direction is index arithmetic and never a copy:

    code 0  rows forward       p(s) = s
    code 1  rows reversed      p(s) = L-1-s
    code 2  columns forward    p(s) = (s % H)·W + s // H
    code 3  columns reversed   p of code 2 at L-1-s

(a 1-D scan has K = 1, grid (1, L) and code 0 or 1). With t = p_k(s), for every batch b, route k, channel e, state n:

    dt  = softplus(delta + delta_bias)          (the identity above 20; delta + delta_bias without ``softplus``)
    h_s = exp(dt·A)·h_{s-1} + dt·u·B            h_{-1} = 0
    y_t = (Σ_n C·h_s + D·u)·silu(z_t)

A backend is a module of this package with

    CONTIGUOUS_LAST: bool              whether the last axis of u, delta, B, C, z and dy must be contiguous
    DTYPES: frozenset[torch.dtype]     what u, delta, B, C, z may be; "auto" passes a backend over for other dtypes

    unavailable(device) -> str | None
        why the backend cannot run on that device and what would mend it, in one line; None if it can run.

    forward(problem, save_checkpoints, out_dtype)
        -> y (B, L, K, E) out_dtype, last_state (B, K, E, N) state dtype, checkpoints

    backward(dy, dlast_state, problem, checkpoints)
        -> du, ddelta, dA, dB, dC, dD, dz, ddelta_bias

where ``checkpoints`` is a flat tensor of the state dtype, with `Problem.checkpoint_numel` elements in whatever layout
the backend likes (the states at every CHUNK-th step), or with none if they were not asked for. dy is (B, L, K, E), any
floating dtype; dlast_state is (B, K, E, N) or None. Each gradient has the shape and dtype of its input, or is None
where the input is None. Outputs are contiguous. Both functions are deterministic, and neither may return a tensor that
shares memory with an input or with another output.

The public scans add the routes into one y (B, L, E). ``forward_merged``, if a backend has it, takes the arguments of
``forward`` and returns that sum; without it the dispatch sums the y of ``forward``, asked for in the state dtype. The
backward is given dy expanded over K (stride 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..common import FLOATING, autocast, check_choice, check_shapes, check_tensors, state_dtype
from ..cross_scan import Route

BACKENDS = ("auto", "triton", "cpu", "torch", "reference", "mamba_ssm")
CHUNK = 32  # steps between two checkpoints
ROUTE_CODES = [int(route) for route in Route]  # dynamo cannot iterate over an enum

_SEQUENCE = {  # what each argument of `selective_scan` may be
    "u": (("B", "D", "L"),),
    "A": (("D", "N"),),
    "delta": (("B", "D", "L"),),
    "B": (("D", "N"), ("B", "N", "L"), ("B", "G", "N", "L")),
    "C": (("D", "N"), ("B", "N", "L"), ("B", "G", "N", "L")),
    "D": (("D",),),
    "z": (("B", "D", "L"),),
    "delta_bias": (("D",),),
}
_IMAGE = {  # … and of `selective_scan_2d`
    "x": (("B", "H", "W", "E"), ("B", "H", "W", "K", "E")),
    "A": (("K", "E", "N"),),
    "delta": (("B", "H", "W", "K", "E"),),
    "B": (("B", "H", "W", "K", "N"), ("B", "H", "W", "K", "G", "N")),
    "C": (("B", "H", "W", "K", "N"), ("B", "H", "W", "K", "G", "N")),
    "D": (("K", "E"),),
    "z": (("B", "H", "W", "E"),),
    "delta_bias": (("K", "E"),),
}


def num_chunks(length: int) -> int:
    """Number of chunks of at most CHUNK steps in ``length`` steps."""
    return (length + CHUNK - 1) // CHUNK


@dataclass(frozen=True)
class Problem:
    """Eight tensors and their options.

    The state dtype is float64 if any of u, delta, B, C, z is float64, else float32: it is the dtype of all arithmetic,
    of the state and of every accumulation. Each of u, delta, B, C, z may have its own dtype (float16, bfloat16,
    float32, float64) and any strides, including 0 (expanded views).

    Attributes:
        u: (B, L, Ku, E), Ku = K, or 1: shared by all routes; pixel order, as everything below.
        delta: (B, L, K, E).
        A: (K, E, N) in the state dtype, contiguous; the real, usually negative A itself, not its logarithm.
        B: (B, L, K, G, N); channel e belongs to group e // (E/G).
        C: like B.
        D: (K, E) in the state dtype, contiguous, or None.
        z: (B, L, E), gates every route's y, or None.
        delta_bias: (K, E) in the state dtype, contiguous, or None.
        softplus: whether delta + delta_bias passes through softplus.
        routes: K codes.
        grid: (H, W) with H·W = L.
    """

    u: torch.Tensor
    delta: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    z: torch.Tensor | None
    delta_bias: torch.Tensor | None
    softplus: bool
    routes: tuple[int, ...]
    grid: tuple[int, int]

    @classmethod
    def of(cls, *args: Any) -> Problem:
        """From the flat arguments that the ops of :mod:`.registration` share; those that follow are ignored."""
        *tensors, softplus, routes, height, width = args[:12]
        return cls(*tensors, softplus, tuple(routes), (height, width))

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """u, delta, A, B, C, D, z, delta_bias."""
        return self.u, self.delta, self.A, self.B, self.C, self.D, self.z, self.delta_bias

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The inverse of `of`."""
        return *self.tensors, self.softplus, list(self.routes), *self.grid

    @property
    def dtype(self) -> torch.dtype:
        """The state dtype."""
        return self.A.dtype

    @property
    def batch(self) -> int:
        return self.delta.shape[0]

    @property
    def length(self) -> int:
        return self.delta.shape[1]

    @property
    def channels(self) -> int:
        return self.delta.shape[3]

    @property
    def states(self) -> int:
        return self.A.shape[2]

    @property
    def groups(self) -> int:
        return self.B.shape[3]

    @property
    def checkpoint_numel(self) -> int:
        """Elements of the flat checkpoint tensor: one state (K, E, N) per batch and chunk."""
        return self.batch * num_chunks(self.length) * self.A.shape[0] * self.A.shape[1] * self.A.shape[2]

    def samples(self, part: slice) -> Problem:
        """The problem of a slice of the batch."""
        z = None if self.z is None else self.z[part]
        return replace(self, u=self.u[part], delta=self.delta[part], B=self.B[part], C=self.C[part], z=z)

    def contiguous_last(self) -> Problem:
        """Copies the activations whose last axis is strided."""
        u, delta, B, C, z = map(contiguous_last, (self.u, self.delta, self.B, self.C, self.z))
        return replace(self, u=u, delta=delta, B=B, C=C, z=z)


def contiguous_last(x: torch.Tensor | None) -> torch.Tensor | None:
    """Copies ``x`` if its last axis is strided."""
    return x if x is None or x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def sequence_problem(tensors: dict[str, torch.Tensor | None], softplus: bool, reverse: bool, backend: str) -> Problem:
    """The problem that the arguments of ``selective_scan`` state.

    Raises:
        ValueError: an argument does not fit.
    """
    name = "selective_scan"
    check_choice(name, "backend", backend, BACKENDS)
    check_tensors(name, tensors)
    check_shapes(name, {key: tensors[key] for key in _SEQUENCE}, _SEQUENCE, {}, "D")
    A, D, bias = tensors["A"], tensors["D"], tensors["delta_bias"]
    u, delta, B, C, z = autocast(A.device.type, *(tensors[key] for key in ("u", "delta", "B", "C", "z")))
    batch, _, length = u.shape
    dtype = state_dtype(u, delta, B, C, z)
    B, C = _same_groups(_per_step(B, batch, length), _per_step(C, batch, length))
    return Problem(
        u=u.transpose(1, 2).unsqueeze(2),  # (B, L, 1, D)
        delta=delta.transpose(1, 2).unsqueeze(2),
        A=_parameter(A, dtype).unsqueeze(0),  # (1, D, N)
        B=B,
        C=C,
        D=None if D is None else _parameter(D, dtype).unsqueeze(0),
        z=None if z is None else z.transpose(1, 2),  # (B, L, D)
        delta_bias=None if bias is None else _parameter(bias, dtype).unsqueeze(0),
        softplus=softplus,
        routes=(int(Route.ROWS_REVERSED if reverse else Route.ROWS),),
        grid=(1, length),
    )


def image_problem(
    tensors: dict[str, torch.Tensor | None],
    softplus: bool,
    routes: Sequence[int],
    out_dtype: torch.dtype | None,
    backend: str,
) -> Problem:
    """The problem that the arguments of ``selective_scan_2d`` state.

    Raises:
        ValueError: an argument does not fit.
    """
    name = "selective_scan_2d"
    check_choice(name, "backend", backend, BACKENDS)
    if len(routes) == 0 or any(int(route) not in ROUTE_CODES for route in routes):
        raise ValueError(f"{name}: routes must be one or more of {ROUTE_CODES} (see Route), got {list(routes)}")
    if out_dtype is not None and out_dtype not in FLOATING:
        raise ValueError(f"{name}: out_dtype must be a real floating dtype or None, got {out_dtype}")
    check_tensors(name, tensors)
    check_shapes(name, {key: tensors[key] for key in _IMAGE}, _IMAGE, {"K": len(routes)}, "E")
    A, D, bias = tensors["A"], tensors["D"], tensors["delta_bias"]
    x, delta, B, C, z = autocast(A.device.type, *(tensors[key] for key in ("x", "delta", "B", "C", "z")))
    height, width = x.shape[1:3]
    dtype = state_dtype(x, delta, B, C, z)
    B, C = (t.flatten(1, 2) if t.ndim == 6 else t.flatten(1, 2).unsqueeze(3) for t in (B, C))  # (B, L, K, G, N)
    B, C = _same_groups(B, C)
    return Problem(
        u=(x if x.ndim == 5 else x.unsqueeze(3)).flatten(1, 2),  # (B, L, 1 or K, E)
        delta=delta.flatten(1, 2),
        A=_parameter(A, dtype),
        B=B,
        C=C,
        D=None if D is None else _parameter(D, dtype),
        z=None if z is None else z.flatten(1, 2),
        delta_bias=None if bias is None else _parameter(bias, dtype),
        softplus=softplus,
        routes=tuple(int(route) for route in routes),
        grid=(height, width),
    )


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
