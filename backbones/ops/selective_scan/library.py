"""Registration of the selective scan with PyTorch, and the choice of a backend.

Three ops, all over the canonical problem of :mod:`.contract`:

    mixerzoo::selective_scan_fwd    y (B, L, E), summed over the routes, last_state (B, K, E, N) and the checkpoints
                                    that its backward starts from; differentiable
    mixerzoo::selective_scan_infer  y and last_state
    mixerzoo::selective_scan_bwd    the gradients

Each has one kernel for every device, which hands the problem to a backend; the backend's name travels as an argument,
so that an exported program with "auto" still picks the best one where it runs. The low-level ``Library`` is used for
its overhead, a few microseconds instead of the ``custom_op`` decorator's forty.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

from ..flops import register_scan_flops
from . import formulas
from .contract import checkpoint_numel

_PROBLEM = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "bool delta_softplus, int[] routes, SymInt height, SymInt width"
)
_OUTPUT = "ScalarType? out_dtype, str backend"
_AUTO = {"cuda": ("triton", "torch"), "cpu": ("cpu", "torch")}  # best first
_MODULES = {"triton": "triton", "cpu": "cpu", "torch": "pytorch"}

_library = torch.library.Library("mixerzoo", "FRAGMENT")
_strides = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)  # the former since torch 2.7
_tags = (_strides, torch.Tag.pt2_compliant_tag)
_library.define(f"selective_scan_fwd({_PROBLEM}, {_OUTPUT}) -> (Tensor, Tensor, Tensor)", tags=_tags)
_library.define(f"selective_scan_infer({_PROBLEM}, {_OUTPUT}) -> (Tensor, Tensor)", tags=_tags)
_library.define(
    f"selective_scan_bwd(Tensor dy, Tensor? dlast_state, {_PROBLEM}, Tensor checkpoints, str backend) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=_tags,
)
_ops = torch.ops.mixerzoo


@functools.cache
def _module(name: str) -> ModuleType:
    return importlib.import_module(f".{_MODULES[name]}", __package__)


@functools.cache
def _resolve(backend: str, device: torch.device, dtypes: frozenset[torch.dtype]) -> ModuleType:
    """The backend's module.

    Raises:
        ValueError: the backend that was asked for cannot run; the message says why and what would mend it.
    """
    if backend == "auto":
        best, *_ = names = _AUTO.get(device.type, ("torch",))
        for name in names:
            module = _module(name)
            reason = module.unavailable(device)
            if reason is None and dtypes <= module.DTYPES:
                return module
            if reason is not None and name == best:
                warnings.warn(f"selective_scan falls back from {name!r} to the slower 'torch': {reason}", stacklevel=2)
    module = _module(backend)
    if (reason := module.unavailable(device)) is not None:
        raise ValueError(f"selective_scan: backend={backend!r} cannot run here: {reason}")
    if unsupported := dtypes - module.DTYPES:
        names = ", ".join(sorted(map(str, unsupported)))
        raise ValueError(f"selective_scan: backend={backend!r} does not take {names}; backend='torch' does")
    return module


def _backend(backend: str, *tensors: torch.Tensor | None) -> ModuleType:
    return _resolve(backend, tensors[0].device, frozenset(t.dtype for t in tensors if t is not None))


def _contiguous_last(module: ModuleType, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """Copies the tensors whose last axis is strided, if the backend cannot read them."""
    if not module.CONTIGUOUS_LAST:
        return tensors
    return tuple(t if t is None or t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous() for t in tensors)


def _forward(
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
    height: int,
    width: int,
    out_dtype: torch.dtype | None,
    backend: str,
    save_checkpoints: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    module = _backend(backend, u, delta, B, C, z)
    u, delta, B, C, z = _contiguous_last(module, u, delta, B, C, z)
    out_dtype = out_dtype or u.dtype
    problem = (u, delta, A, B, C, D, z, delta_bias, delta_softplus, tuple(routes), (height, width), save_checkpoints)
    if len(routes) == 1:
        y, last_state, checkpoints = module.forward(*problem, out_dtype)
        return y.squeeze(2), last_state, checkpoints
    if hasattr(module, "forward_merged"):
        return module.forward_merged(*problem, out_dtype)
    y, last_state, checkpoints = module.forward(*problem, A.dtype)
    return y.sum(2).to(out_dtype), last_state, checkpoints


def _infer(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
    y, last_state, _ = _forward(*args, save_checkpoints=False)
    return y, last_state


def _backward(
    dy: torch.Tensor,
    dlast_state: torch.Tensor | None,
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
    height: int,
    width: int,
    checkpoints: torch.Tensor,
    backend: str,
) -> tuple[torch.Tensor, ...]:
    module = _backend(backend, u, delta, B, C, z)
    dy, u, delta, B, C, z = _contiguous_last(module, dy, u, delta, B, C, z)
    options = (delta_softplus, tuple(routes), (height, width))
    grads = module.backward(dy, dlast_state, u, delta, A, B, C, D, z, delta_bias, *options, checkpoints)
    return tuple(A.new_empty(0) if grad is None else grad for grad in grads)  # an op cannot return None


for _name, _kernel in (("fwd", _forward), ("infer", _infer), ("bwd", _backward)):
    _library.impl(f"selective_scan_{_name}", _kernel, "CompositeExplicitAutograd")


@torch.library.register_fake("mixerzoo::selective_scan_fwd", lib=_library)
def _forward_fake(
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
    height: int,
    width: int,
    out_dtype: torch.dtype | None,
    backend: str,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, length, _, channels = delta.shape
    y = u.new_empty((batch, length, channels), dtype=out_dtype or u.dtype)
    return y, A.new_empty((batch, *A.shape)), A.new_empty(checkpoint_numel(batch, length, A))


@torch.library.register_fake("mixerzoo::selective_scan_infer", lib=_library)
def _infer_fake(*args: object) -> tuple[torch.Tensor, torch.Tensor]:
    return _forward_fake(*args)[:2]


@torch.library.register_fake("mixerzoo::selective_scan_bwd", lib=_library)
def _backward_fake(dy: torch.Tensor, dlast_state: torch.Tensor | None, *args: object) -> tuple[torch.Tensor, ...]:
    inputs = args[:8]  # u, delta, A, B, C, D, z, delta_bias
    A = inputs[2]
    return tuple(A.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)


def _below_autograd(
    op: torch._ops.OpOverload, keyset: torch._C.DispatchKeySet, *args: object
) -> tuple[torch.Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & torch._C._after_autograd_keyset, *args)


def _gradients(
    ctx: torch.autograd.function.FunctionCtx,
    dy: torch.Tensor | None,
    dlast_state: torch.Tensor | None,
    inputs: Sequence[torch.Tensor | None],
    checkpoints: torch.Tensor,
) -> list[torch.Tensor | None]:
    """Gradients of the eight arguments from those of y (B, L, E) and of last_state (B, K, E, N)."""
    delta = inputs[1]
    if dy is None:
        dy = delta.new_zeros(()).expand(delta.shape)
    else:
        dy = dy.unsqueeze(2).expand(delta.shape)  # every route adds to the same y
    grads = _ops.selective_scan_bwd.default(dy, dlast_state, *inputs, *ctx.options, checkpoints, ctx.backend)
    return [None if x is None else grad for x, grad in zip(inputs, grads, strict=True)]


class _Scan(torch.autograd.Function):
    """selective_scan_fwd with selective_scan_bwd as its derivative.

    ``torch.library.register_autograd`` would do, were it not for the 150 µs that it spends on the schema at each call.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, keyset: torch._C.DispatchKeySet, *args: object
    ) -> tuple[torch.Tensor, ...]:
        outputs = _below_autograd(_ops.selective_scan_fwd.default, keyset, *args)
        *tensors, delta_softplus, routes, height, width, _, backend = args
        _, _, checkpoints = outputs
        ctx.save_for_backward(*tensors, checkpoints)
        ctx.options, ctx.backend = (delta_softplus, routes, height, width), backend
        ctx.mark_non_differentiable(checkpoints)
        ctx.set_materialize_grads(False)  # the last state's gradient is usually absent
        return outputs

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx,
        dy: torch.Tensor | None,
        dlast_state: torch.Tensor | None,
        _: None,
    ) -> tuple[torch.Tensor | None, ...]:
        *inputs, checkpoints = ctx.saved_tensors
        grads = _gradients(ctx, dy, dlast_state, inputs, checkpoints)
        return None, *grads, *(None,) * 6


class _OnceOnly(torch.autograd.Function):
    """selective_scan_bwd under ``create_graph``: its values, and a clear error where its derivative is asked for."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, keyset: torch._C.DispatchKeySet, *args: object
    ) -> tuple[torch.Tensor, ...]:
        *_, ctx.backend = args
        return _below_autograd(_ops.selective_scan_bwd.default, keyset, *args)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor | None) -> None:
        raise RuntimeError(
            f"selective_scan(backend={ctx.backend!r}) has no double backward; use backend='reference', which is "
            "differentiable any number of times"
        )


def _register_autograd(op: torch._ops.OpOverload, function: type[torch.autograd.Function]) -> None:
    def kernel(keyset: torch._C.DispatchKeySet, *args: object) -> tuple[torch.Tensor, ...]:
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in args):
            return function.apply(keyset, *args)
        return _below_autograd(op, keyset, *args)

    _library.impl(op, kernel, "Autograd", with_keyset=True)


_register_autograd(_ops.selective_scan_fwd.default, _Scan)
_register_autograd(_ops.selective_scan_bwd.default, _OnceOnly)


def _canonical(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
) -> tuple[torch.Tensor | None, ...]:
    """Views of a sequence's arguments, with shared B and C, in the canonical shapes."""
    return (
        u.transpose(1, 2).unsqueeze(2),  # (B, L, 1, D)
        delta.transpose(1, 2).unsqueeze(2),
        A.unsqueeze(0),  # (1, D, N)
        B.transpose(1, 2)[:, :, None, None],  # (B, L, 1, 1, N)
        C.transpose(1, 2)[:, :, None, None],
        None if D is None else D.unsqueeze(0),
        None if z is None else z.transpose(1, 2),  # (B, L, D)
        None if delta_bias is None else delta_bias.unsqueeze(0),
    )


class SequenceScan(torch.autograd.Function):
    """selective_scan of a sequence in its logical shapes, as one node of the graph.

    The views between logical and canonical shapes would be fourteen nodes more, which
    take a twentieth of the time of a forward and backward at ViT's lengths.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, *args: torch.Tensor | bool | int | str | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        *tensors, delta_softplus, route, ctx.backend = args
        ctx.options = (delta_softplus, [route], 1, tensors[0].shape[2])
        with torch._C._AutoDispatchBelowAutograd():  # this node is the op's autograd
            y, last_state, checkpoints = _ops.selective_scan_fwd.default(
                *_canonical(*tensors), *ctx.options, None, ctx.backend
            )
        ctx.save_for_backward(*tensors, checkpoints)
        ctx.set_materialize_grads(False)
        return y.transpose(1, 2), last_state.squeeze(1)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, dout: torch.Tensor | None, dlast_state: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        *tensors, checkpoints = ctx.saved_tensors
        dy = None if dout is None else dout.transpose(1, 2)
        dlast_state = None if dlast_state is None else dlast_state.unsqueeze(1)
        # Below autograd is nothing to record unless create_graph asks for it.
        with nullcontext() if torch.is_grad_enabled() else torch._C._AutoDispatchBelowAutograd():
            du, ddelta, dA, dB, dC, dD, dz, dbias = _gradients(ctx, dy, dlast_state, _canonical(*tensors), checkpoints)
        return (
            du.squeeze(2).transpose(1, 2),
            ddelta.squeeze(2).transpose(1, 2),
            dA.squeeze(0),
            dB[:, :, 0, 0].transpose(1, 2),
            dC[:, :, 0, 0].transpose(1, 2),
            None if dD is None else dD.squeeze(0),
            None if dz is None else dz.transpose(1, 2),
            None if dbias is None else dbias.squeeze(0),
            *(None,) * 3,
        )


def is_one_node(backend: str, tensors: tuple[torch.Tensor | None, ...], dtype: torch.dtype) -> bool:
    """Whether `SequenceScan` does what is asked: a backward may follow, in eager mode, and nothing has to be cast,
    copied or repeated."""
    u, _, A, B, C, D, _, delta_bias = tensors
    return (
        torch.is_grad_enabled()
        and any(t is not None and t.requires_grad for t in tensors)
        and not torch.compiler.is_compiling()
        and backend not in ("reference", "mamba_ssm")
        and not torch.is_autocast_enabled(u.device.type)
        and B.ndim == C.ndim == 3
        and all(t is None or (t.dtype == dtype and t.is_contiguous()) for t in (A, D, delta_bias))
    )


def autocast(device_type: str, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The activations in the autocast dtype, if autocast is on; float64 stays, as everywhere in autocast."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switches autocast off on a device that has it; meta has none."""
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


def _register_autocast(name: str, device_type: str, key: torch._C.DispatchKey) -> None:
    op = getattr(_ops, name).default
    keys = torch._C.DispatchKeySet(key)

    def kernel(
        u: torch.Tensor,
        delta: torch.Tensor,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor | None,
        z: torch.Tensor | None,
        *rest: object,
    ) -> tuple[torch.Tensor, ...]:
        u, delta, B, C, z = autocast(device_type, u, delta, B, C, z)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(u, delta, A, B, C, D, z, *rest)

    _library.impl(name, kernel, key.name)


for _name in ("selective_scan_fwd", "selective_scan_infer"):
    _register_autocast(_name, "cpu", torch._C.DispatchKey.AutocastCPU)
    _register_autocast(_name, "cuda", torch._C.DispatchKey.AutocastCUDA)

for _packet in (_ops.selective_scan_fwd, _ops.selective_scan_infer):
    register_scan_flops(_packet, formulas.forward_exact, formulas.forward_paper)
register_scan_flops(_ops.selective_scan_bwd, formulas.backward_exact, formulas.backward_paper)
