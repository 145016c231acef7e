"""Registration of the selective scan with PyTorch: schemas, fakes, derivatives, batching, FLOPs.

Three ops, all over the canonical `Problem`:

    mixerzoo::selective_scan_infer  y (B, L, E), summed over the routes, and last_state (B, K, E, N): the scan
    mixerzoo::selective_scan_fwd    the same, and the checkpoints that its backward starts from
    mixerzoo::selective_scan_bwd    the gradients

The public functions call the first, which runs as the second where a gradient is recorded: a traced program therefore
holds the same op whether or not it was traced with gradients. Each op has one kernel for every device, which hands the
problem to a backend; the backend's name travels as an argument, so that an exported program with "auto" still picks the
best one where it runs. The low-level ``Library`` is used for its overhead, a few microseconds instead of the
``custom_op`` decorator's forty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
)
from . import dispatch, formulas
from .problem import Problem

_PROBLEM = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, int[] routes, SymInt height, SymInt width"
)
_OUTPUT = "ScalarType? out_dtype, str backend"
_TENSORS = 8  # of a problem
_FOLDED = (3, 3, 1, 3, 3, 1, 2, 1)  # axis of each tensor, channels or groups, that takes vmap's axis in

_library = torch.library.Library("mixerzoo", "FRAGMENT")
_library.define(f"selective_scan_fwd({_PROBLEM}, {_OUTPUT}) -> (Tensor, Tensor, Tensor)", tags=TAGS)
_library.define(f"selective_scan_infer({_PROBLEM}, {_OUTPUT}) -> (Tensor, Tensor)", tags=TAGS)
_library.define(
    f"selective_scan_bwd(Tensor dy, Tensor? dlast_state, {_PROBLEM}, Tensor checkpoints, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=TAGS,
)
_ops = torch.ops.mixerzoo


def _forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return dispatch.forward(Problem.of(*args), *args[12:], save_checkpoints=True)


def _infer(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    y, last_state, _ = dispatch.forward(Problem.of(*args), *args[12:], save_checkpoints=False)
    return y, last_state


def _backward(dy: torch.Tensor, dlast_state: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    grads = dispatch.backward(dy, dlast_state, Problem.of(*args), *args[12:])
    return tuple(dy.new_empty(0) if grad is None else grad for grad in grads)  # an op cannot return None


for _name, _kernel in (("fwd", _forward), ("infer", _infer), ("bwd", _backward)):
    _library.impl(f"selective_scan_{_name}", _kernel, "CompositeExplicitAutograd")


@torch.library.register_fake("mixerzoo::selective_scan_fwd", lib=_library)
def _forward_fake(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    problem, out_dtype = Problem.of(*args), args[12]
    y = problem.u.new_empty((problem.batch, problem.length, problem.channels), dtype=out_dtype or problem.u.dtype)
    last_state = problem.A.new_empty((problem.batch, *problem.A.shape))
    return y, last_state, problem.A.new_empty(problem.checkpoint_numel)


@torch.library.register_fake("mixerzoo::selective_scan_infer", lib=_library)
def _infer_fake(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _forward_fake(*args)[:2]


@torch.library.register_fake("mixerzoo::selective_scan_bwd", lib=_library)
def _backward_fake(dy: torch.Tensor, dlast_state: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    return tuple(dy.new_empty(0) if x is None else x.new_empty(x.shape) for x in args[:_TENSORS])


class Scan(torch.autograd.Function):
    """selective_scan_fwd, with selective_scan_bwd as its derivative."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return below_autograd(_ops.selective_scan_fwd.default, *args)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        tensors, ctx.options, ctx.backend = inputs[:_TENSORS], inputs[_TENSORS:12], inputs[13]
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)  # the last state's gradient is usually absent

    @staticmethod
    def backward(
        ctx: FunctionCtx, dy: torch.Tensor | None, dlast_state: torch.Tensor | None, _: None
    ) -> tuple[torch.Tensor | None, ...]:
        *tensors, checkpoints = ctx.saved_tensors
        delta = tensors[1]
        if dy is None:
            dy = delta.new_zeros(()).expand(delta.shape)
        else:
            dy = dy.unsqueeze(2).expand(delta.shape)  # every route adds to the same y
        grads = _differentiate(dy, dlast_state, *tensors, *ctx.options, checkpoints, ctx.backend)
        return *(None if x is None else grad for x, grad in zip(tensors, grads, strict=True)), *(None,) * 6

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: torch.Tensor | None) -> None:
        raise no_derivative("selective_scan", ctx.backend, "forward-mode derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple, tuple]:
        """Samples become channels beside each other, each with its own parameters and groups."""
        size = info.batch_size
        y, last_state, checkpoints = Scan.apply(*_fold_problem(args, in_dims, size).arguments, *args[12:])
        return (unfold(y, 2, size), unfold(last_state, 2, size), checkpoints), (0, 0, None)


class ScanBackward(torch.autograd.Function):
    """selective_scan_bwd, with a clear error where its derivative is asked for."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, ...]:
        return below_autograd(_ops.selective_scan_bwd.default, *args)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        *_, ctx.backend = inputs

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: torch.Tensor | None) -> None:
        raise no_derivative("selective_scan", ctx.backend, "double backward")

    @staticmethod
    def jvp(ctx: FunctionCtx, *tangents: torch.Tensor | None) -> None:
        raise no_derivative("selective_scan", ctx.backend, "second derivative")

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[tuple, tuple]:
        """As `Scan.vmap`. The checkpoints, in a backend's own layout, are made anew for the wider problem."""
        size, backend = info.batch_size, args[-1]
        dy, dlast_state = fold(args[0], in_dims[0], 3, size), fold(args[1], in_dims[1], 2, size)
        problem = _fold_problem(args[2:], in_dims[2:], size)
        _, _, checkpoints = Scan.apply(*problem.arguments, None, backend)
        grads = ScanBackward.apply(dy, dlast_state, *problem.arguments, checkpoints, backend)
        absent = [x is None for x in problem.tensors]
        unfolded = [g if none else unfold(g, axis, size) for g, none, axis in zip(grads, absent, _FOLDED, strict=True)]
        return tuple(unfolded), tuple(None if none else 0 for none in absent)


def _fold_problem(args: Sequence[Any], in_dims: Sequence[Any], size: int) -> Problem:
    """The problem of ``size`` samples from the op's arguments under vmap."""
    problem = Problem.of(*args)
    folded = (fold(*x, size) for x in zip(problem.tensors, in_dims[:_TENSORS], _FOLDED, strict=True))
    u, delta, A, B, C, D, z, bias = folded
    A, D, bias = (x if x is None else x.contiguous() for x in (A, D, bias))
    return replace(problem, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=bias)


def _differentiate(*args: Any) -> tuple[torch.Tensor, ...]:
    return ScanBackward.apply(*args) if transforming() else _ops.selective_scan_bwd.default(*args)


def solve(problem: Problem, out_dtype: torch.dtype | None, backend: str) -> tuple[torch.Tensor, torch.Tensor]:
    """y (B, L, E), summed over the routes, and last_state (B, K, E, N)."""
    arguments = (*problem.arguments, out_dtype, backend)
    if transforming():
        return Scan.apply(*arguments)[:2]
    return _ops.selective_scan_infer.default(*arguments)


register_autograd(_library, _ops.selective_scan_fwd.default, Scan)
register_autograd(_library, _ops.selective_scan_infer.default, Scan)
register_autograd(_library, _ops.selective_scan_bwd.default, ScanBackward)
for _packet in (_ops.selective_scan_fwd, _ops.selective_scan_infer):
    register_scan_flops(_packet, formulas.forward_exact, formulas.forward_paper)
register_scan_flops(_ops.selective_scan_bwd, formulas.backward_exact, formulas.backward_paper)
