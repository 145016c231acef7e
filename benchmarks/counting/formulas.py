"""What each operator of PyTorch multiplies: the formulas of `counter`.

An operator without one that multiplies matrices or convolves, or that is not PyTorch's own, is refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch._ops import OpOverload, OpOverloadPacket

aten = torch.ops.aten


class Product(NamedTuple):
    """Shape of a batched matrix product, ``(batch, m, k) × (batch, k, n)``."""

    batch: int
    m: int
    k: int
    n: int

    @property
    def macs(self) -> int:
        return self.batch * self.m * self.k * self.n


class UnknownOperatorError(ValueError):
    """The network calls an operator whose FLOPs nobody has stated."""


# Names, with the namespace left out, of operators that multiply matrices or convolve.
_ARITHMETIC = re.compile(
    r"(^|_)(\w*mm|matmul|mv|addmv|\w*dot|addr|ger|linear|bilinear|trilinear|einsum|mha|lstm|gru|rnn|gemm|\w*dist"
    r"|kron|scan)(_|$)|conv|attention|transformer|^linalg_(?!vector_norm|norm|cross)"
)


def refuse_arithmetic(func: OpOverload, path: str) -> None:
    """Raises UnknownOperatorError if an operator without a formula does arithmetic; ``path``: who calls it."""
    namespace, _, name = func._schema.name.partition("::")
    if namespace in ("aten", "prims") and not _ARITHMETIC.search(name):
        return
    raise UnknownOperatorError(
        f"{path or 'the network'} calls {namespace}.{name}, whose FLOPs are unknown; register them with "
        "mixerzoo.backbones.ops.flops.register_scan_flops or torch.utils.flop_counter.register_flop_formula"
    )


def meeting_of_tokens(packet: OpOverloadPacket, args: tuple) -> str | None:
    """How a convolution or a pooling of stride 1 mixes tokens; with a stride it down-samples."""
    if packet is aten.convolution:
        _, weight, _, stride, *_ = args
        return "convolution" if math.prod(weight.shape[2:]) > 1 and set(stride) == {1} else None
    if packet in (aten.avg_pool2d, aten.max_pool2d_with_indices):
        return "pooling" if len(args) > 2 and set(args[2]) == {1} else None
    return None


class Work(NamedTuple):
    """Arithmetic of one call: multiply-adds, the two factors, the class if one of them is a weight, the shape."""

    macs: int
    operands: tuple[Any, Any]
    kind: str
    product: Product | None = None


def _product(a: torch.Tensor, b: torch.Tensor, product: Product) -> Work:
    return Work(product.macs, (a, b), "linear", product)


def _linear(args: tuple, out: torch.Tensor) -> Work:
    x, weight = args[:2]  # (…, k), (n, k) or (k,)
    k = weight.shape[-1]
    return _product(x, weight, Product(1, x.numel() // k, k, weight.numel() // k))


def _mm(a: torch.Tensor, b: torch.Tensor) -> Work:
    return _product(a, b, Product(1, a.shape[0], a.shape[1], b.shape[1]))


def _bmm(a: torch.Tensor, b: torch.Tensor) -> Work:
    return _product(a, b, Product(*a.shape, b.shape[2]))


def _mv(a: torch.Tensor, b: torch.Tensor) -> Work:
    return _product(a, b, Product(1, a.shape[0], a.shape[1], 1))


def _dot(args: tuple, out: torch.Tensor) -> Work:
    a, b = args[:2]
    return _product(a, b, Product(1, 1, a.numel(), 1))


def _convolution(args: tuple, out: torch.Tensor) -> Work:
    x, weight, _, _, _, _, transposed, _, _ = args
    # A weight is (C_out, C_in/groups, kernel…), transposed (C_in, C_out/groups, kernel…): either way each position of
    # one side meets all but the first of its axes.
    positions = x.numel() if transposed else out.numel()
    return Work(positions * math.prod(weight.shape[1:]), (x, weight), "convolution")


def _recurrent(args: tuple, out: Any) -> Work:
    x, _, params = args[:3]  # (L, B, C) or (B, L, C)
    if not isinstance(params, list | tuple):
        raise UnknownOperatorError("a recurrent layer on packed sequences has no stated FLOPs")
    steps = x.shape[0] * x.shape[1]
    return Work(steps * sum(p.numel() for p in params if p.ndim == 2), (x, params[0]), "linear")


RECURRENT = (aten.lstm, aten.gru, aten.rnn_tanh, aten.rnn_relu)
FORMULAS: dict[OpOverloadPacket, Callable[[tuple, Any], Work]] = {
    aten.linear: _linear,
    aten.mm: lambda args, out: _mm(args[0], args[1]),
    aten.addmm: lambda args, out: _mm(args[1], args[2]),
    aten.bmm: lambda args, out: _bmm(args[0], args[1]),
    aten.baddbmm: lambda args, out: _bmm(args[1], args[2]),
    aten.addbmm: lambda args, out: _bmm(args[1], args[2]),
    aten.mv: lambda args, out: _mv(args[0], args[1]),
    aten.addmv: lambda args, out: _mv(args[1], args[2]),
    aten.dot: _dot,
    aten.vdot: _dot,
    aten.convolution: _convolution,
    **dict.fromkeys(RECURRENT, _recurrent),
}


def _recurrent_shapes(args: tuple) -> tuple[torch.Tensor, ...]:
    x, states = args[:2]
    states = states if isinstance(states, list | tuple) else (states,)  # h, or h and c: (layers · directions, B, H)
    directions = 2 if args[7] else 1
    return x.new_empty(*x.shape[:2], directions * states[0].shape[-1]), *map(torch.empty_like, states)


def _element_wise(args: tuple) -> Any:
    """Of an operator whose output has the layout and dtype of its first argument; ``NotImplemented`` if it may not."""
    a, *others = args
    return torch.empty_like(a) if all(_keeps_layout(a, b) for b in others) else NotImplemented


def _keeps_layout(a: torch.Tensor, b: Any) -> bool:
    if not isinstance(b, torch.Tensor):
        return b is None or (a.is_floating_point() and isinstance(b, float | int))
    if a.dtype != b.dtype:
        return False
    if a.shape == b.shape and a.stride() == b.stride():
        return True
    sides = zip(reversed(a.shape), reversed(b.shape), strict=False)
    return a.is_contiguous() and a.ndim >= b.ndim and all(m == n or n == 1 for m, n in sides)


def _quotient(args: tuple) -> Any:
    return _element_wise(args) if args[0].is_floating_point() else NotImplemented


# Outputs of operators whose meta kernels take long: they walk all steps, or a decomposition in Python.
SHAPES: dict[OpOverloadPacket, Callable[[tuple], Any]] = {
    aten.batch_norm: lambda args: torch.empty_like(args[0]),
    aten.layer_norm: lambda args: args[0].new_empty(args[0].shape),
    aten._safe_softmax: lambda args: torch.empty_like(args[0]),
    aten.gelu: lambda args: torch.empty_like(args[0]),
    aten.linear: lambda args: args[0].new_empty(*args[0].shape[:-1], *args[1].shape[:-1]),
    **dict.fromkeys((aten.add, aten.mul, aten.sub, aten.clamp, aten.clamp_min), _element_wise),
    aten.div: _quotient,
    **dict.fromkeys(RECURRENT, _recurrent_shapes),
}


def _norm(affine: int) -> Callable[[Any, tuple], int]:
    return lambda out, args: args[0].numel() * (5 if any(arg is not None for arg in args[affine : affine + 1]) else 4)


def _batch_norm(out: Any, args: tuple) -> int:
    x, weight, training = args[0], args[1], args[5]
    if training:
        return _norm(1)(out, args)
    return x.numel() * (2 if weight is not None else 1)


# fvcore's estimates, which published figures contain: operations of an element as if they were multiply-adds.
PAPER_EXTRAS: dict[OpOverloadPacket, Callable[[Any, tuple], int]] = {
    aten.layer_norm: _norm(2),
    aten.group_norm: _norm(2),
    aten.batch_norm: _batch_norm,
    aten.instance_norm: _norm(1),
    aten.upsample_nearest2d: lambda out, args: out.numel(),
    aten.upsample_bilinear2d: lambda out, args: 4 * out.numel(),
    aten.adaptive_avg_pool2d: lambda out, args: args[0].numel(),
    aten.grid_sampler: lambda out, args: 4 * out.numel(),
}
