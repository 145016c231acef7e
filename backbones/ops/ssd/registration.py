"""Registration of state-space duality with PyTorch.

    mixerzoo::ssd      y (B, L, H, P) and the state (B, H, P, N) after the last step; differentiable
    mixerzoo::ssd_bwd  the gradients

An opaque op, not a composition of matmuls that autograd and the compiler see, because

* autograd would keep several (B, L/Q, H, Q, Q) masks and score matrices alive, while the op saves nothing but its
  arguments: it recomputes, slice by slice, in the cache;
* a program exported with dynamic B and L holds one node. The composition has a loop over L/Q chunks, and Q itself
  depends on L;
* a counter sees one linear-time scan, whatever the chunk size, instead of attention-like products.

What is lost is the fusion of the element-wise work inside a chunk by ``torch.compile``. As nothing is saved, inference
needs no op of its own. dt's bias, softplus and limits and the gate z are plain PyTorch in the public function: dt is
small, and compilers fuse the gate with what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import FunctionCtx

from ..common import (
    TAGS,
    below_autograd,
    fold,
    no_derivative,
    register_autograd,
    register_scan_flops,
    transforming,
    unfold,
    without_autocast,
)
from . import chunked

_PROBLEM = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? initial_states, "
    "SymInt? chunk_size, bool reverse"
)

_TENSORS = 7  # of a problem
_FOLDED = (2, 2, 0, 2, 2, 0, 1)  # axis of each tensor, heads or groups, that takes vmap's axis in

_library = torch.library.Library("mixerzoo", "FRAGMENT")
_library.define(f"ssd({_PROBLEM}) -> (Tensor, Tensor)", tags=TAGS)
_library.define(
    f"ssd_bwd(Tensor dy, Tensor? dstates, {_PROBLEM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=TAGS,
)
_ops = torch.ops.mixerzoo


def _problem(*args: Any) -> tuple[chunked.Problem, torch.Tensor | None, int]:
    """The arguments of `chunked.forward` from those of the op."""
    *tensors, initial_states, chunk_size, reverse = args
    problem = chunked.Problem(*tensors, reverse)
    length = problem.x.shape[1]
    chunk = chunk_size or chunked.default_chunk(length, problem.B.shape[-1], problem.x.device.type)
    return problem, initial_states, min(chunk, length)


def _forward(x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    with without_autocast(x.device.type):
        return chunked.forward(*_problem(x, *args))


def _backward(dy: torch.Tensor, dstates: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    with without_autocast(dy.device.type):
        grads = chunked.backward(dy, dstates, *_problem(*args))
    return tuple(dy.new_empty(0) if grad is None else grad for grad in grads)  # an op cannot return None


_library.impl("ssd", _forward, "CompositeExplicitAutograd")
_library.impl("ssd_bwd", _backward, "CompositeExplicitAutograd")


@torch.library.register_fake("mixerzoo::ssd", lib=_library)
def _forward_fake(
    x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, *args: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, _, heads, width = x.shape
    return x.new_empty(x.shape), dt.new_empty(batch, heads, width, B.shape[-1])


@torch.library.register_fake("mixerzoo::ssd_bwd", lib=_library)
def _backward_fake(dy: torch.Tensor, dstates: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    return tuple(dy.new_empty(0) if t is None else t.new_empty(t.shape) for t in args[:_TENSORS])


class Ssd(torch.autograd.Function):
    """mixerzoo::ssd, with mixerzoo::ssd_bwd as its derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return below_autograd(_ops.ssd.default, *args)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        *tensors, ctx.chunk_size, ctx.reverse = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)  # the last state's gradient is usually absent

    @staticmethod
    def backward(
        ctx: FunctionCtx, dy: torch.Tensor | None, dstates: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        tensors = ctx.saved_tensors
        if dy is None:
            dy = tensors[0].new_zeros(()).expand(tensors[0].shape)
        arguments = (dy, dstates, *tensors, ctx.chunk_size, ctx.reverse)
        grads = SsdBackward.apply(*arguments) if transforming() else _ops.ssd_bwd.default(*arguments)
        return *(None if t is None else grad for t, grad in zip(tensors, grads, strict=True)), None, None

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: torch.Tensor | None) -> None:
        raise no_derivative("ssd", "torch", "forward-mode derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple, tuple]:
        """Samples become heads beside each other, each with its own parameters and groups."""
        size = info.batch_size
        y, states = Ssd.apply(*_fold(args, in_dims, size))
        return (unfold(y, 2, size), unfold(states, 1, size)), (0, 0)


class SsdBackward(torch.autograd.Function):
    """mixerzoo::ssd_bwd, with a clear error where its derivative is asked for."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, ...]:
        return below_autograd(_ops.ssd_bwd.default, *args)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        """An error needs nothing saved."""

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor | None) -> None:
        raise no_derivative("ssd", "torch", "double backward")

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: torch.Tensor | None) -> None:
        raise no_derivative("ssd", "torch", "second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple, tuple]:
        """As `Ssd.vmap`."""
        size, arguments = info.batch_size, _fold(args[2:], in_dims[2:], info.batch_size)
        dy, dstates = fold(args[0], in_dims[0], 2, size), fold(args[1], in_dims[1], 1, size)
        grads = SsdBackward.apply(dy, dstates, *arguments)
        absent = [x is None for x in arguments[:_TENSORS]]
        unfolded = [g if none else unfold(g, axis, size) for g, none, axis in zip(grads, absent, _FOLDED, strict=True)]
        return tuple(unfolded), tuple(None if none else 0 for none in absent)


def _fold(args: Sequence[Any], in_dims: Sequence[Any], size: int) -> list[Any]:
    """The op's arguments for ``size`` samples from those under vmap."""
    tensors = zip(args[:_TENSORS], in_dims[:_TENSORS], _FOLDED, strict=True)
    return [*(fold(*x, size) for x in tensors), *args[_TENSORS:]]


def solve(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """mixerzoo::ssd."""
    return Ssd.apply(*args) if transforming() else _ops.ssd.default(*args)


register_autograd(_library, _ops.ssd.default, Ssd)
register_autograd(_library, _ops.ssd_bwd.default, SsdBackward)


def forward_exact(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> int:
    """FLOPs of the recurrence; the blocks execute 2Q(N·G/H + P) + 4P·N per token and head, mostly on matrix units.

    Per token and head: exp(dt·A) 2, dt·x P, x⊗B, decay·S, their sum and S·C 5·P·N, D 2·P. An exponential is one FLOP.
    """
    width, states = x.shape[-1], B.shape[-1]
    return dt.numel() * (5 * width * states + (1 if D is None else 3) * width + 2)


def backward_exact(
    dy: torch.Tensor,
    dstates: torch.Tensor | None,
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> int:
    """FLOPs of the recurrence's backward.

    Per token and head: S again 3·P·N + P + 2; λ = dy⊗C + decay·λ 3·P·N; Σ λ·B, Σ λ·X, Σ S·dy and Σ λ·decay·S 2·P·N
    each; ddt and dx 3·P + 2; dA 2; D 4·P.
    """
    width, states = x.shape[-1], B.shape[-1]
    return dt.numel() * (14 * width * states + (4 if D is None else 8) * width + 6)


def forward_paper(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> int:
    """9·B·L·(H·P)·N, B·L·H·P more with D: the selective scan's figure (state-spaces/mamba#110), as SSD is one."""
    return x.numel() * (9 * B.shape[-1] + (D is not None))


def backward_paper(dy: torch.Tensor, dstates: torch.Tensor | None, *args: Any, **kwargs: Any) -> int:
    """Twice the forward, the usual rule; papers print the forward alone."""
    return 2 * forward_paper(*args)


register_scan_flops(_ops.ssd, forward_exact, forward_paper)
register_scan_flops(_ops.ssd_bwd, backward_exact, backward_paper)
