"""State-space duality by block decomposition: batched matmuls, forward and backward.

Per head, with a_t = dt_t·A and X_t = dt_t·x_t, the recurrence S_t = e^{a_t}·S_{t-1} + X_t⊗B_t, Y_t = S_t·C_t is
multiplication by a lower triangular matrix M_ts = (C_t·B_s)·e^{a_{s+1} + … + a_t}. Cut into chunks of Q steps, its
diagonal blocks are dense (a masked quadratic form, as attention has), and all others have rank N: they factor into
what a chunk leaves in the state, the decay between chunks, and what a chunk reads from the state it starts from.
Both parts cost O(Q + N) per token and channel, nearly all of it in matmuls.

Nothing of the forward is saved but its arguments. Both directions work through slices of the batch and, within one,
through segments of the sequence, small enough that the intermediates (a few times the slice) stay in the cache of a
CPU or well below the memory of a GPU; the state is carried from segment to segment. The last L mod Q tokens are a
segment of one short chunk, so that nothing is padded. ``reverse`` is the same sums over transposed masks.

Shapes, with H heads in G groups of R that share B and C, and c chunks of Q steps in a segment:

    heads    (b, c, H, Q, P)      one matrix per head, for the quadratic form
    groups   (b, c, G, Q, R·P)    the heads of a group side by side, for large matmuls with B and C
    states   (b, c, G, N, R·P)    S, likewise

Exponents are differences of float64 sums: in float32 they would lose digits after a large step, and the more the
longer the chunk. A step's exponent is held at LOWEST, where the decay is 0 already, so that no sum outgrows float64
either. Exponents are in base 2, as exp2 is several times faster than exp on a CPU; masked ones are -inf.

Source: Mamba-2, arXiv 2405.21060, §6 (block decomposition). The backward is derived from it; dL/da_t is the sum of all
dL/dM_ts'·M_ts' whose exponent holds a_t, that is, of what flows past step t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

LOWEST = -4096.0  # log2 of a decay that even float64 rounds to zero
_CPU_ELEMENTS = 1 << 21  # intermediates of one segment of one slice of the batch
_GPU_ELEMENTS = 1 << 26


def default_chunk(length: int, states: int, device_type: str) -> int:
    """Chunk size that is fast for a sequence, evened out so that the rest L mod Q is short.

    Args:
        length: L, tokens.
        states: N. For up to about Q + N/2 tokens one quadratic block is cheaper than a state.
        device_type: "cpu", "cuda", ...
    """
    if device_type == "cpu":
        limit = 32 if states < 64 else 48
    else:
        limit = 64 if length <= 1024 else 128
    if length <= limit + states // 2:
        return length
    chunk = length // -(-length // limit)
    return chunk - chunk % 4


@dataclass(frozen=True)
class Problem:
    """Arguments of :func:`forward`, which see."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    reverse: bool

    def part(self, samples: slice, tokens: slice) -> Problem:
        per_token = {name: getattr(self, name)[samples, tokens] for name in ("x", "dt", "B", "C")}
        return replace(self, **per_token)


class Gradients(NamedTuple):
    """dL/d of each tensor of :func:`forward`, of its shape and dtype; None for what is None there."""

    x: torch.Tensor
    dt: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor | None
    initial_states: torch.Tensor | None


def forward(problem: Problem, initial_states: torch.Tensor | None, chunk: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Y and the state after the last step.

    Args:
        problem: x (B, L, H, P), dt (B, L, H) and A (H,) in the state dtype, B and C (B, L, G, N), D (H, P) or (H, 1)
            in the state dtype.
        initial_states: (B, H, P, N) or None for zeros.
        chunk: Q.

    Returns:
        y (B, L, H, P) in the dtype of x; states (B, H, P, N) in the state dtype.
    """
    x, groups = problem.x, problem.B.shape[2]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    states = problem.dt.new_empty(x.shape[0], *x.shape[2:], problem.B.shape[3])
    for samples in _samples(problem, chunk):
        state = _grouped_states(initial_states, samples, problem)  # (b, G, N, R·P)
        for tokens, size in _segments(problem, chunk):
            segment = _Segment(problem.part(samples, tokens), size)
            state = segment.forward(state, y[samples, tokens])
        states[samples] = _head_states(state, groups, x.shape[3])
    return y, states


def backward(
    dy: torch.Tensor,
    dstates: torch.Tensor | None,
    problem: Problem,
    initial_states: torch.Tensor | None,
    chunk: int,
) -> Gradients:
    """Gradients of :func:`forward`.

    Args:
        dy: (B, L, H, P).
        dstates: (B, H, P, N) or None for zeros.
        problem: as in :func:`forward`.
        initial_states: as in :func:`forward`.
        chunk: as in :func:`forward`.
    """
    grads = _zero_gradients(problem, initial_states)
    segments = _segments(problem, chunk)
    for samples in _samples(problem, chunk):
        starts = [_grouped_states(initial_states, samples, problem)]
        for tokens, size in segments[:-1]:
            starts.append(_Segment(problem.part(samples, tokens), size).last_state(starts[-1]))
        dstate = _grouped_states(dstates, samples, problem)
        for tokens, size in reversed(segments):
            segment = _Segment(problem.part(samples, tokens), size)
            dstate = segment.backward(starts.pop(), dstate, dy[samples, tokens], _part(grads, samples, tokens))
        if initial_states is not None:
            grads.initial_states[samples] = _head_states(dstate, problem.B.shape[2], problem.x.shape[3])
    return grads._replace(A=grads.A.to(problem.A.dtype))


def _zero_gradients(problem: Problem, initial_states: torch.Tensor | None) -> Gradients:
    def contiguous(t: torch.Tensor | None) -> torch.Tensor | None:
        return None if t is None else torch.empty(t.shape, dtype=t.dtype, device=t.device)

    return Gradients(
        *(contiguous(t) for t in (problem.x, problem.dt)),
        torch.zeros_like(problem.A, dtype=torch.float64),
        *(contiguous(t) for t in (problem.B, problem.C)),
        None if problem.D is None else torch.zeros_like(problem.D),
        contiguous(initial_states),
    )


def _part(grads: Gradients, samples: slice, tokens: slice) -> Gradients:
    per_token = {name: getattr(grads, name)[samples, tokens] for name in ("x", "dt", "B", "C")}
    return grads._replace(**per_token)


def _slice_sizes(problem: Problem, chunk: int) -> tuple[int, int]:
    """Samples and chunks at a time: as many chunks of one sample as fit, then as many samples of those."""
    batch, length, heads, width = problem.x.shape
    budget = _CPU_ELEMENTS if problem.x.device.type == "cpu" else _GPU_ELEMENTS
    elements = 2 * heads * (chunk * width + chunk * chunk + width * problem.B.shape[3])  # X, scores, states, twice
    chunks = max(1, min(length // chunk, budget // elements))
    return max(1, min(batch, budget // (elements * chunks))), chunks


def _samples(problem: Problem, chunk: int) -> list[slice]:
    """Slices of the batch."""
    count, batch = _slice_sizes(problem, chunk)[0], problem.x.shape[0]
    return [slice(b, min(b + count, batch)) for b in range(0, batch, count)]


def _segments(problem: Problem, chunk: int) -> list[tuple[slice, int]]:
    """Segments of the sequence and the chunk size in each, in the order of the scan."""
    length = problem.x.shape[1]
    whole, step = length - length % chunk, chunk * _slice_sizes(problem, chunk)[1]
    segments = [(slice(t, min(t + step, whole)), chunk) for t in range(0, whole, step)]
    if whole < length:
        segments.append((slice(whole, length), length - whole))
    return segments[::-1] if problem.reverse else segments


def _grouped_states(states: torch.Tensor | None, samples: slice, problem: Problem) -> torch.Tensor:
    """(B, H, P, N), or None for zeros -> (b, G, N, R·P) of the slice, in the state dtype."""
    batch, _, heads, width = problem.x[samples].shape
    groups, N = problem.B.shape[2:]
    if states is None:
        return problem.dt.new_zeros(batch, groups, N, heads // groups * width)
    return states[samples].to(problem.dt.dtype).unflatten(1, (groups, -1)).flatten(2, 3).transpose(2, 3)


def _head_states(states: torch.Tensor, groups: int, width: int) -> torch.Tensor:
    """(b, G, N, R·P) -> (b, H, P, N)."""
    return states.transpose(2, 3).unflatten(2, (-1, width)).flatten(1, 2)


class _Segment:
    """One segment of the sequence for one slice of the batch."""

    def __init__(self, problem: Problem, chunk: int) -> None:
        self.problem = problem
        self.dtype = problem.dt.dtype
        length, heads = problem.x.shape[1:3]
        self.shape = (length // chunk, chunk)
        self.groups = problem.B.shape[2]
        self.ratio = heads // self.groups
        self.x, self.dt = self.chunked(problem.x), self.chunked(problem.dt)  # (b, c, Q, H, P), (b, c, Q, H)
        self.B, self.C = (self.matrices(self.chunked(t)) for t in (problem.B, problem.C))  # (b, c, G, Q, N)

        ones = torch.ones(chunk, chunk, dtype=torch.float64, device=problem.x.device)
        self.until = ones.triu() if problem.reverse else ones.tril()  # [i, j] = 1: step j is not after step i
        exponent = self.dt.transpose(2, 3).double() * (problem.A.double() * math.log2(math.e)).unsqueeze(-1)
        self.cumsum = exponent.clamp(min=LOWEST) @ self.until.T  # (b, c, H, Q), over the chunk up to and with each step
        self.total = self.cumsum[..., :1] if problem.reverse else self.cumsum[..., -1:]  # (b, c, H, 1)
        self.decay_in = self.per_head(self.cumsum)  # through each step from the start of the chunk
        self.decay_out = self.per_head(self.total - self.cumsum)  # from after each step to the end of the chunk
        passing = self.per_head(self.total).unflatten(-2, (self.groups, -1))  # (b, c, 1, G, R, 1)
        self.passing = passing.transpose(2, 3)  # (b, c, G, 1, R, 1), through the whole chunk

    def chunked(self, t: torch.Tensor) -> torch.Tensor:
        """(b, L, ...) -> (b, c, Q, ...), a view."""
        return t.unflatten(1, self.shape)

    def matrices(self, t: torch.Tensor) -> torch.Tensor:
        """(b, c, Q, H or G, ...) -> (b, c, H or G, Q, ...), contiguous in the state dtype."""
        return t.transpose(2, 3).to(self.dtype).contiguous()

    def per_head(self, exponent: torch.Tensor) -> torch.Tensor:
        """(b, c, H, Q or 1) -> (b, c, Q or 1, H, 1), two to the power of it."""
        return exponent.exp2().to(self.dtype).transpose(2, 3).unsqueeze(-1)

    def grouped(self, t: torch.Tensor) -> torch.Tensor:
        """(b, c, Q, H, P) -> (b, c, G, Q, R·P)."""
        return t.unflatten(3, (self.groups, self.ratio)).transpose(2, 3).flatten(4, 5)

    def ungrouped(self, t: torch.Tensor) -> torch.Tensor:
        """(b, c, G, Q, R·P) -> (b, c, Q, H, P), a view if G = 1."""
        return t.unflatten(4, (self.ratio, -1)).transpose(2, 3).flatten(3, 4)

    def decay(self) -> torch.Tensor:
        """(b, c, G, R, Q, Q): from after step j through step i, and 0 where j is after i."""
        exponent = self.cumsum.unsqueeze(-1) - self.cumsum.unsqueeze(-2)
        exponent += self.until.log2()  # 0 or -inf
        return exponent.to(self.dtype).exp2_().unflatten(2, (self.groups, self.ratio))

    def inputs(self) -> torch.Tensor:
        """(b, c, H, Q, P): X."""
        batch, chunks, chunk, heads, width = self.x.shape
        X = self.dt.new_empty(batch, chunks, heads, chunk, width)
        torch.mul(self.x, self.dt.unsqueeze(-1), out=X.transpose(2, 3))
        return X

    def order(self) -> list[int]:
        """The chunks in the order of the scan."""
        return list(range(self.shape[0])[:: -1 if self.problem.reverse else 1])

    def weighted_inputs(self) -> torch.Tensor:
        """(b, c, G, Q, R·P): X decayed to the end of its chunk."""
        return self.grouped(self.x * (self.dt.unsqueeze(-1) * self.decay_out))

    def states(self, state: torch.Tensor, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The inter-chunk recurrence.

        Args:
            state: (b, G, N, R·P) before the segment.
            inputs: :meth:`weighted_inputs`.

        Returns:
            states (b, c, G, N, R·P) that the chunks start from, and the one (b, G, N, R·P) after the segment.
        """
        left = self.B.transpose(-1, -2) @ inputs  # (b, c, G, N, R·P): what each chunk leaves in the state
        return self._recur(state, left, self.order())

    def _recur(self, state: torch.Tensor, added: torch.Tensor, order: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """state -> passing·state + added, chunk by chunk: the states before each chunk and the last."""
        before, last = torch.empty_like(added), torch.empty_like(state)
        before[:, order[0]] = state
        added, states, final = (t.unflatten(-1, (self.ratio, -1)) for t in (added, before, last))
        targets = [*(states[:, c] for c in order[1:]), final]
        for c, target in zip(order, targets, strict=True):
            torch.addcmul(added[:, c], self.passing[:, c], states[:, c], out=target)
        return before, last

    def last_state(self, state: torch.Tensor) -> torch.Tensor:
        """(b, G, N, R·P) after the segment from that before it."""
        return self.states(state, self.weighted_inputs())[1]

    def forward(self, state: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Writes y (b, L, H, P); returns the state (b, G, N, R·P) after the segment."""
        before, last = self.states(state, self.weighted_inputs())
        scores = self.decay().mul_((self.C @ self.B.transpose(-1, -2)).unsqueeze(3)).flatten(2, 3)  # (b, c, H, Q, Q)
        out = self.ungrouped(self.C @ before).mul_(self.decay_in)  # (b, c, Q, H, P)
        out += (scores @ self.inputs()).transpose(2, 3)
        if self.problem.D is not None:
            out.addcmul_(self.x.to(self.dtype), self.problem.D)
        self.chunked(y).copy_(out)
        return last

    def backward(self, state: torch.Tensor, dstate: torch.Tensor, dy: torch.Tensor, grads: Gradients) -> torch.Tensor:
        """Writes the gradients of the segment's tokens and adds to those of A and D.

        Args:
            state: (b, G, N, R·P) before the segment.
            dstate: (b, G, N, R·P), dL/d of the state after it.
            dy: (b, L, H, P).
            grads: where to; x, dt, B, C are the segment's tokens.

        Returns:
            dL/d of the state before the segment.
        """
        dy = self.chunked(dy).to(self.dtype)  # (b, c, Q, H, P)
        dX, dB, dC, flow = self._quadratic_backward(dy)
        dX_off, dB_off, dC_off, flow_off, dstate = self._low_rank_backward(state, dstate, dy)
        dX = self.ungrouped(dX_off).mul_(self.decay_out).add_(dX.transpose(2, 3))  # (b, c, Q, H, P)
        flow = (flow + flow_off).transpose(2, 3)  # (b, c, Q, H)

        x, dt = self.x.to(self.dtype), self.dt.unsqueeze(-1)
        ddt = (dX * x).sum(-1) + flow * self.problem.A.double()
        dx = dX.mul_(dt)
        if self.problem.D is not None:
            dx.addcmul_(dy, self.problem.D)
            grads.D.add_((dy * x).sum((0, 1, 2)).sum_to_size(grads.D.shape))
        grads.A.add_((flow * self.dt).sum((0, 1, 2)))
        for grad, value in ((grads.x, dx), (grads.dt, ddt)):
            self.chunked(grad).copy_(value)
        for grad, value in ((grads.B, dB.add_(dB_off)), (grads.C, dC.add_(dC_off))):
            self.chunked(grad).copy_(value.transpose(2, 3))
        return dstate

    def _quadratic_backward(self, dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients through the diagonal blocks.

        Returns:
            dX (b, c, H, Q, P), dB and dC (b, c, G, Q, N), and the flow past each step (b, c, H, Q) in float64.
        """
        X, dY = self.inputs(), self.matrices(dy)  # (b, c, H, Q, P)
        products = self.C @ self.B.transpose(-1, -2)  # (b, c, G, Q, Q)
        decay = self.decay()  # (b, c, G, R, Q, Q)
        through = (dY @ X.transpose(-1, -2)).unflatten(2, (self.groups, self.ratio)).mul_(decay)
        dproducts = through.sum(3)
        scores = decay.mul_(products.unsqueeze(3)).flatten(2, 3)
        weights = through.mul_(products.unsqueeze(3)).flatten(2, 3)  # dL/dM·M
        # Past step t flows what goes from a step before t to t or later: all that arrives from t on, less all that sets
        # out from t on. The difference may be tiny, and float64 sums of the same numbers keep its digits.
        arriving, leaving = (weights.sum(axis, dtype=torch.float64) for axis in (-1, -2))
        flow = (arriving - leaving) @ self.until
        return scores.transpose(-1, -2) @ dY, dproducts.transpose(-1, -2) @ self.C, dproducts @ self.B, flow

    def _low_rank_backward(
        self, state: torch.Tensor, dstate: torch.Tensor, dy: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Gradients through the states.

        Returns:
            dX (b, c, G, Q, R·P) before its decay to the end of the chunk, dB and dC (b, c, G, Q, N), the flow past
            each step (b, c, H, Q) in float64, and dL/d of the state before the segment.
        """
        inputs = self.weighted_inputs()
        before, _ = self.states(state, inputs)
        dreads = self.grouped(dy * self.decay_in)
        after, dstate = self._recur(dstate, self.C.transpose(-1, -2) @ dreads, self.order()[::-1])  # at chunk ends
        dinputs, dB, dC = self.B @ after, inputs @ after.transpose(-1, -2), dreads @ before.transpose(-1, -2)

        arriving = self._sum((self.C @ before).mul_(dreads))  # from earlier chunks at each step
        leaving = self._sum(inputs.mul_(dinputs))  # from each step to later chunks
        crossing = before.mul_(after).unflatten(-1, (self.ratio, -1)).mul_(self.passing).sum((3, 5)).flatten(2)
        flow = arriving @ self.until + leaving @ (1 - self.until) + crossing.unsqueeze(-1)
        return dinputs, dB, dC, flow, dstate

    def _sum(self, products: torch.Tensor) -> torch.Tensor:
        """(b, c, G, Q, R·P) -> (b, c, H, Q), summed over P, in float64."""
        return products.unflatten(-1, (self.ratio, -1)).sum(-1).transpose(3, 4).flatten(2, 3).double()
