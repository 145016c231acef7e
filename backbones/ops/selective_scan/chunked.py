"""The ``torch`` backend: the scan in plain PyTorch, with an explicit backward, on any device.

The sequence is worked off in spans of a few chunks. Within one, everything but the recurrence is vectorised over the
span's Q steps, and a step of the recurrence is one ``addcmul``, so that time grows linearly with L. Where a step is too
small to be worth a call, pieces of the span are walked side by side. The largest intermediate holds one span's states,
(B', Q, K, E, N): the slice B' of the batch and Q are chosen so that it has at most SPAN_ELEMENTS elements, or B' = 1
and Q = CHUNK where that is more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..cross_scan import route_pixels
from .problem import CHUNK, Problem, num_chunks

CONTIGUOUS_LAST = False
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
SMALL_STATE = 2048  # elements, below which a step costs its call rather than its arithmetic
SPAN_ELEMENTS = 1 << 18


def unavailable(device: torch.device) -> str | None:
    """This backend runs wherever PyTorch does."""
    return None


@dataclass(frozen=True)
class _Part:
    """The problem of a slice of the batch, with the pixels (K, L) that its routes visit."""

    problem: Problem
    pixels: torch.Tensor

    def at(self, x: torch.Tensor, span: slice) -> torch.Tensor:
        """Rows of ``x`` (B, L, K or 1, ...) that the routes visit in ``span`` -> (B, Q, K, ...)."""
        pixels = self.pixels[:, span].t()  # (Q, K)
        route = torch.arange(pixels.shape[1], device=x.device) if x.shape[2] > 1 else 0
        return x[:, pixels, route].to(self.problem.dtype)

    def gate(self, span: slice) -> torch.Tensor:
        return self.at(self.problem.z.unsqueeze(2), span)


@dataclass(frozen=True)
class _Span:
    """What the recurrence needs over Q steps: u, p, dt (B, Q, K, E); B, C (B, Q, K, G, N); a, x (B, Q, K, E, N)."""

    u: torch.Tensor
    p: torch.Tensor  # delta + delta_bias
    dt: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    a: torch.Tensor  # decay
    x: torch.Tensor  # input of the state


def _load(part: _Part, span: slice, buffers: torch.Tensor) -> _Span:
    """The span's inputs; a and x lie in the first two buffers."""
    problem = part.problem
    u, p = part.at(problem.u, span), part.at(problem.delta, span)
    if problem.delta_bias is not None:
        p = p + problem.delta_bias
    dt = F.softplus(p) if problem.softplus else p
    B, C = part.at(problem.B, span), part.at(problem.C, span)
    a = _decays(dt, problem.A, out=_states(buffers[0], dt, B))
    x = _outer(dt * u, B, out=_states(buffers[1], dt, B))
    return _Span(u, p, dt, B, C, a, x)


def _buffers(count: int, tokens: int, A: torch.Tensor) -> torch.Tensor:
    """Memory for ``count`` times the states of a span, which all spans of a call on ``tokens`` (B·L) use.

    In fresh memory of this size, which the allocator may take from the system and return each time, the first touch of
    a page costs more than the arithmetic on it.
    """
    states = min(tokens * A.numel(), max(SPAN_ELEMENTS, CHUNK * A.numel()))
    return A.new_empty(count, states)


def _states(buffer: torch.Tensor, dt: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
    """A view (B, Q, K, E, N) of a buffer, for dt (B, Q, K, E) and B (B, Q, K, G, N)."""
    shape = (*dt.shape, B.shape[4])
    return buffer[: math.prod(shape)].view(shape)


def _decays(dt: torch.Tensor, A: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """exp(dt·A) of dt (..., K, E) and A (K, E, N) -> (..., K, E, N)."""
    # PyTorch's exp errs to one side just below 0, and a state that hardly decays adds that up; its exp2 does not.
    return torch.mul(dt.unsqueeze(-1), A / math.log(2), out=out).exp2_()


def _outer(x: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """x (B, Q, K, E) times weights (B, Q, K, G, N) of its channels' groups -> (B, Q, K, E, N)."""
    torch.mul(_grouped(x, weights).unsqueeze(-1), weights.unsqueeze(-2), out=_grouped(out, weights))
    return out


def _grouped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B, Q, K, E, ...) -> (B, Q, K, G, E/G, ...) with the groups of ``like`` (B, Q, K, G, N)."""
    return x.unflatten(3, (like.shape[3], -1))


def _read(h: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Σ_n of states (B, Q, K, E, N) times weights (B, Q, K, G, N) -> (B, Q, K, E)."""
    return (_grouped(h, weights) @ weights.unsqueeze(-1)).squeeze(-1).flatten(3)


def _spread(x: torch.Tensor, h: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Σ over a group's channels of x (B, Q, K, E) times states h (B, Q, K, E, N) -> (B, Q, K, G, N)."""
    return (_grouped(x, like).unsqueeze(-2) @ _grouped(h, like)).squeeze(-2)


def _walk(decays: Sequence[torch.Tensor], inputs: Sequence[torch.Tensor], h: torch.Tensor) -> torch.Tensor:
    """h = a·h + x over the steps, each h in place of its x; returns the last."""
    for a, x in zip(decays, inputs, strict=True):
        h = torch.addcmul(x, a, h, out=x)
    return h


def _recur(
    a: torch.Tensor, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, h: torch.Tensor, backwards: bool = False
) -> torch.Tensor:
    """h_s = a_s·h_{s-1} + x_s along axis 1 (h_{s+1} if ``backwards``), in place of ``x``; returns the last state.

    Small states are walked as √Q pieces of √Q steps side by side: once for what each piece adds, once from the state
    that the pieces before it leave.

    Args:
        a: (B, Q, K, E, N), exp(dt·A).
        x: (B, Q, K, E, N).
        dt: (B, Q, K, E).
        A: (K, E, N).
        h: (B, K, E, N), the state before.
        backwards: from the last step to the first.
    """
    order = slice(None, None, -1 if backwards else 1)
    steps = x.shape[1]
    if h.numel() >= SMALL_STATE or steps < CHUNK:
        return _walk(a.unbind(1)[order], x.unbind(1)[order], h)
    pieces = math.isqrt(steps)
    body = pieces * (steps // pieces)
    if backwards:
        h = _walk(a[:, body:].unbind(1)[order], x[:, body:].unbind(1)[order], h)
    decays = a[:, :body].unflatten(1, (pieces, -1))  # (B, pieces, steps of one, K, E, N)
    inputs = x[:, :body].unflatten(1, (pieces, -1))
    added = torch.zeros_like(inputs[:, :, 0])
    for a_s, x_s in zip(decays.unbind(2)[order], inputs.unbind(2)[order], strict=True):
        added = torch.addcmul(x_s, a_s, added)
    # Not the product of the decays: just below 1 its roundings all err to one side.
    kept = _decays(dt[:, :body].unflatten(1, (pieces, -1)).sum(2), A)
    kept.clamp_(max=torch.finfo(a.dtype).max)  # an overflow must not turn a zero state into NaN
    starts = torch.empty_like(added)
    for start, k, d in zip(starts.unbind(1)[order], kept.unbind(1)[order], added.unbind(1)[order], strict=True):
        start.copy_(h)
        h = torch.addcmul(d, k, h)
    _walk(decays.unbind(2)[order], inputs.unbind(2)[order], starts)
    if not backwards:
        h = _walk(a[:, body:].unbind(1), x[:, body:].unbind(1), inputs[:, -1, -1])
    return h


def _batch_slices(batch: int, A: torch.Tensor) -> list[slice]:
    size = max(1, SPAN_ELEMENTS // (CHUNK * A.numel()))
    return [slice(start, min(start + size, batch)) for start in range(0, batch, size)]


def _spans(length: int, batch: int, A: torch.Tensor) -> list[slice]:
    size = CHUNK * max(1, SPAN_ELEMENTS // (CHUNK * batch * A.numel()))
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]


def forward(
    problem: Problem, save_checkpoints: bool, out_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :mod:`.problem`."""
    A, batch, length = problem.A, problem.batch, problem.length
    state = A.new_zeros(batch, *A.shape)  # (B, K, E, N)
    checkpoints = A.new_zeros((batch, num_chunks(length), *A.shape) if save_checkpoints else (0,))
    y = torch.empty(problem.delta.shape, dtype=out_dtype, device=A.device)
    pixels = route_pixels(problem.routes, *problem.grid, device=A.device)
    buffers = _buffers(2, batch * length, A)
    for samples in _batch_slices(batch, A):
        part = _Part(problem.samples(samples), pixels)
        for span in _spans(length, samples.stop - samples.start, A):
            if save_checkpoints:
                checkpoints[samples, span.start // CHUNK] = state[samples]
            state[samples] = _forward_span(part, span, state[samples], y[samples], buffers)
    return y, state, checkpoints.flatten()


def _forward_span(
    part: _Part, span: slice, state: torch.Tensor, y: torch.Tensor, buffers: torch.Tensor
) -> torch.Tensor:
    """Writes the span's rows of ``y`` (B, L, K, E); returns the state after it."""
    problem = part.problem
    it = _load(part, span, buffers)
    last = _recur(it.a, it.x, it.dt, problem.A, state)  # it.x now holds the states
    out = _read(it.x, it.C)
    if problem.D is not None:
        out.addcmul_(it.u, problem.D)
    if problem.z is not None:
        out = out * F.silu(part.gate(span))
    _put(y, part.pixels[:, span], out)
    return last


def _put(target: torch.Tensor, pixels: torch.Tensor, rows: torch.Tensor) -> None:
    """Writes rows (B, Q, K, ...) of the routes at their pixels (K, Q) of ``target`` (B, L, K, ...)."""
    target[:, pixels.t(), torch.arange(pixels.shape[0], device=target.device)] = rows.to(target.dtype)


def _add(target: torch.Tensor, pixels: torch.Tensor, rows: torch.Tensor) -> None:
    """Adds rows (B, Q, K, E) at their pixels (K, Q) of ``target`` (B, L, E), which all routes share."""
    for k in range(pixels.shape[0]):  # one route visits a pixel once: no two summands race
        target.index_add_(1, pixels[k], rows[:, :, k])


def backward(
    dy: torch.Tensor, dlast_state: torch.Tensor | None, problem: Problem, checkpoints: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """See :mod:`.problem`."""
    A, batch, length = problem.A, problem.batch, problem.length
    checkpoints = checkpoints.view(batch, num_chunks(length), *A.shape)
    pixels = route_pixels(problem.routes, *problem.grid, device=A.device)
    grads = _Gradients.zeros(problem)
    buffers = _buffers(4, batch * length, A)
    for samples in _batch_slices(batch, A):
        part = _Part(problem.samples(samples), pixels)
        carry = A.new_zeros(part.problem.batch, *A.shape) if dlast_state is None else dlast_state[samples]
        for span in reversed(_spans(length, part.problem.batch, A)):
            state = checkpoints[samples, span.start // CHUNK]
            carry = _backward_span(part, span, state, dy[samples], carry, grads.of(samples), buffers)
    return grads.of_dtypes(problem)


@dataclass(frozen=True)
class _Gradients:
    """Accumulators: du and dz in the state dtype where several routes add to them."""

    u: torch.Tensor
    delta: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    z: torch.Tensor | None
    delta_bias: torch.Tensor | None

    @classmethod
    def zeros(cls, problem: Problem) -> _Gradients:
        def contiguous(x: torch.Tensor | None, dtype: torch.dtype | None = None) -> torch.Tensor | None:
            return None if x is None else torch.zeros(x.shape, dtype=dtype or x.dtype, device=x.device)

        u, delta, A, B, C, D, z, delta_bias = problem.tensors
        return cls(
            u=contiguous(u, None if u.shape[2] == delta.shape[2] else A.dtype),
            delta=contiguous(delta),
            A=contiguous(A),
            B=contiguous(B),
            C=contiguous(C),
            D=contiguous(D),
            z=contiguous(z, A.dtype),
            delta_bias=contiguous(delta_bias),
        )

    def of(self, part: slice) -> _Gradients:
        z = None if self.z is None else self.z[part]
        return _Gradients(
            self.u[part], self.delta[part], self.A, self.B[part], self.C[part], self.D, z, self.delta_bias
        )

    def of_dtypes(self, problem: Problem) -> tuple[torch.Tensor | None, ...]:
        dz = None if self.z is None else self.z.to(problem.z.dtype)
        return self.u.to(problem.u.dtype), self.delta, self.A, self.B, self.C, self.D, dz, self.delta_bias


def _backward_span(
    part: _Part,
    span: slice,
    state: torch.Tensor,
    dy: torch.Tensor,
    carry: torch.Tensor,
    grads: _Gradients,
    buffers: torch.Tensor,
) -> torch.Tensor:
    """Adds the span's share to ``grads``.

    Args:
        part: the batch slice.
        span: the steps.
        state: (B, K, E, N), the state before the span.
        dy: (B, L, K, E).
        carry: (B, K, E, N), dL/dh of the span's last state through later steps.
        grads: accumulators.
        buffers: four of `_buffers`.

    Returns:
        dL/dh of the state before the span.
    """
    problem = part.problem
    it, pixels = _load(part, span, buffers), part.pixels[:, span]
    _recur(it.a, it.x, it.dt, problem.A, state)
    h = it.x  # (B, Q, K, E, N)
    g = part.at(dy, span)  # (B, Q, K, E)
    if problem.z is not None:
        y = _read(h, it.C)
        if problem.D is not None:
            y.addcmul_(it.u, problem.D)
        z = part.gate(span)
        s = torch.sigmoid(z)
        _add(grads.z, pixels, g * y * s * (1 + z * (1 - s)))
        g = g * z * s

    # dL/dh of every step, last to first: λ_s = g_s·C_s + a_{s+1}·λ_{s+1}
    lam = _outer(g, it.C, out=_states(buffers[2], it.dt, it.C))  # (B, Q, K, E, N)
    after = _states(buffers[3], it.dt, it.C)
    after[:, :-1] = it.a[:, 1:]
    after[:, -1] = 1
    dt_after = F.pad(it.dt[:, 1:], (0, 0, 0, 0, 0, 1))
    _recur(after, lam, dt_after, problem.A, carry, backwards=True)

    dtu = it.dt * it.u
    carry = it.a[:, 0] * lam[:, 0]
    before = after  # from here on the memory of `after`, then that of `it.a`, serves other values
    before[:, 0] = state
    before[:, 1:] = h[:, :-1]
    flow = before.mul_(it.a).mul_(lam)  # λ_s·a_s·h_{s-1} = dL/d(log a_s)
    through_x = _read(lam, it.B)
    ddt = torch.mul(flow, problem.A, out=it.a).sum(-1).addcmul_(through_x, it.u)
    dp = ddt * torch.where(it.p > 20, torch.ones_like(it.p), torch.sigmoid(it.p)) if problem.softplus else ddt
    du = through_x * it.dt
    if problem.D is not None:
        du.addcmul_(g, problem.D)
        grads.D.add_((g * it.u).sum((0, 1)))

    grads.A.add_(flow.mul_(it.dt.unsqueeze(-1)).sum((0, 1)))
    _put(grads.B, pixels, _spread(dtu, lam, it.B))
    _put(grads.C, pixels, _spread(g, h, it.C))
    _put(grads.delta, pixels, dp)
    if problem.delta_bias is not None:
        grads.delta_bias.add_(dp.sum((0, 1)))
    if grads.u.shape[2] == pixels.shape[0]:
        _put(grads.u, pixels, du)
    else:
        _add(grads.u.squeeze(2), pixels, du)
    return carry
