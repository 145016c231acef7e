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

from typing import Any

import torch

from ..flops import register_scan_flops
from ..selective_scan.library import autocast
from . import blocks

_PROBLEM = (
    "Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? initial_states, "
    "SymInt? chunk_size, bool reverse"
)

_library = torch.library.Library("mixerzoo", "FRAGMENT")
_strides = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)  # the former since torch 2.7
_tags = (_strides, torch.Tag.pt2_compliant_tag)
_library.define(f"ssd({_PROBLEM}) -> (Tensor, Tensor)", tags=_tags)
_library.define(
    f"ssd_bwd(Tensor dy, Tensor? dstates, {_PROBLEM}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_tags,
)
_ops = torch.ops.mixerzoo


def _problem(
    x: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    initial_states: torch.Tensor | None,
    chunk_size: int | None,
    reverse: bool,
) -> tuple[blocks.Problem, torch.Tensor | None, int]:
    length = x.shape[1]
    chunk = chunk_size or blocks.default_chunk(length, B.shape[-1], x.device.type)
    return blocks.Problem(x, dt, A, B, C, D, reverse), initial_states, min(chunk, length)


def _forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return blocks.forward(*_problem(*args))


def _backward(dy: torch.Tensor, dstates: torch.Tensor | None, *args: Any) -> tuple[torch.Tensor, ...]:
    problem = _problem(*args)
    grads = blocks.backward(dy, dstates, *problem)
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
    return tuple(dy.new_empty(0) if t is None else t.new_empty(t.shape) for t in args[:7])


def _setup_context(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]
) -> None:
    *tensors, ctx.chunk_size, ctx.reverse = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)  # the last state's gradient is usually absent


def _differentiate(
    ctx: torch.autograd.function.FunctionCtx, dy: torch.Tensor | None, dstates: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    inputs = ctx.saved_tensors
    if dy is None:
        dy = inputs[0].new_zeros(()).expand(inputs[0].shape)
    grads = _ops.ssd_bwd(dy, dstates, *inputs, ctx.chunk_size, ctx.reverse)
    return *(None if t is None else grad for t, grad in zip(inputs, grads, strict=True)), None, None


def _no_double_backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor | None) -> None:
    raise RuntimeError(
        "the block decomposition of ssd has no double backward; use backend='reference', "
        "which is differentiable any number of times"
    )


def _save_nothing(
    ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]
) -> None:
    """An error needs nothing saved."""


torch.library.register_autograd("mixerzoo::ssd", _differentiate, setup_context=_setup_context, lib=_library)
torch.library.register_autograd("mixerzoo::ssd_bwd", _no_double_backward, setup_context=_save_nothing, lib=_library)


def _register_autocast(device_type: str, key: torch._C.DispatchKey) -> None:
    """Under autocast x, B and C come in its dtype; the arithmetic inside the ops stays in the state dtype."""
    keys = torch._C.DispatchKeySet(key)

    def forward(
        x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, *rest: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x, B, C = autocast(device_type, x, B, C)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return _ops.ssd.default(x, dt, A, B, C, *rest)

    def backward(*args: Any) -> tuple[torch.Tensor, ...]:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return _ops.ssd_bwd.default(*args)

    _library.impl("ssd", forward, key.name)
    _library.impl("ssd_bwd", backward, key.name)


_register_autocast("cpu", torch._C.DispatchKey.AutocastCPU)
_register_autocast("cuda", torch._C.DispatchKey.AutocastCUDA)


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
