"""Integer FLOPs and MACs of any model, counted on the meta device: nothing is computed, nothing is allocated.

A forward pass runs under a dispatch mode that sees every ATen operation after decomposition, so a fused attention, an
einsum or ``nn.MultiheadAttention``'s fast path are the matrix products that they are. Counters that hook modules or
traced operators miss those silently (pytorch/pytorch#195460; for ViT-S at 800×1280 that hides 63 % of the work).

What is counted, a multiply-add being two FLOPs:

* ``linear``       matrix products in which one factor is a weight;
* ``convolution``  convolutions, of any kernel and grouping;
* ``act×act``      matrix products of two activations: attention scores and values, whatever the module is called;
* ``scan``         operators that register a formula with ``backbones/ops/flops.py``.

A factor is a weight if its storage is a parameter's or a buffer's, or was computed from such storages and constants
alone. Biases, norms, activations, softmax and pooling are ``other``: they are listed by operator with calls and output
elements, but never added to FLOPs (about half a per cent). A matrix product, convolution or custom operator without a
formula is an error, not a zero. A causal attention is counted in full, as dense kernels without skipping compute it;
the count says in which modules that happens.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..backbones.ops.flops import SCAN_FLOPS

aten = torch.ops.aten

CLASSES = ("linear", "convolution", "act×act", "scan")
CONVENTIONS = ("exact", "paper")


def _product(m: int, k: int, n: int, batch: int = 1) -> int:
    return 2 * batch * m * k * n


# Operator: (FLOPs from the arguments, positions of its two factors).
_PRODUCTS: dict[Any, tuple[Callable[..., int], tuple[int, int]]] = {
    aten.mm: (lambda a, b: _product(a.shape[0], a.shape[1], b.shape[1]), (0, 1)),
    aten.bmm: (lambda a, b: _product(a.shape[1], a.shape[2], b.shape[2], a.shape[0]), (0, 1)),
    aten.addmm: (lambda _, a, b: _product(a.shape[0], a.shape[1], b.shape[1]), (1, 2)),
    aten.baddbmm: (lambda _, a, b: _product(a.shape[1], a.shape[2], b.shape[2], a.shape[0]), (1, 2)),
    aten.addbmm: (lambda _, a, b: _product(a.shape[1], a.shape[2], b.shape[2], a.shape[0]), (1, 2)),
    aten.mv: (lambda a, b: _product(a.shape[0], a.shape[1], 1), (0, 1)),
    aten.addmv: (lambda _, a, b: _product(a.shape[0], a.shape[1], 1), (1, 2)),
    aten.dot: (lambda a, b: _product(1, a.shape[0], 1), (0, 1)),
    aten.vdot: (lambda a, b: _product(1, a.shape[0], 1), (0, 1)),
    aten.addr: (lambda _, a, b: _product(a.shape[0], 1, b.shape[0]), (1, 2)),
}

# Names that say "matrix product" or "convolution": without a formula here such an operator must not pass as zero.
_SUSPICIOUS = ("mm", "matmul", "conv", "attention", "linear", "einsum", "dot", "lstm", "gru", "rnn", "fft", "cdist")
_HARMLESS = ("upsample", "linear_interp", "softmax", "gamma", "fill", "comm", "linspace", "rrelu", "_fft_c2r_dummy")

# Norm elements as fvcore counts them, per input element with an affine transform: what published figures include.
_NORMS = {
    aten.native_layer_norm: 5,
    aten.native_group_norm: 5,
    aten.native_batch_norm: 2,
    aten._native_batch_norm_legit_no_training: 2,
    aten.cudnn_batch_norm: 2,
    aten._fused_rms_norm: 5,
}


@dataclass(frozen=True)
class Op:
    """One counted operation."""

    module: str
    """Dotted path of the innermost module that called it; empty for the model itself."""
    kind: str
    """One of CLASSES."""
    flops: int


@dataclass(frozen=True)
class Uncounted:
    """Calls of one operator that has no part in the FLOPs."""

    calls: int
    elements: int
    """Output elements, summed over the calls."""


@dataclass
class Count:
    """Everything one forward pass did."""

    ops: list[Op] = field(default_factory=list)
    uncounted: dict[str, Uncounted] = field(default_factory=dict)
    norm_elements: int = 0
    """What fvcore adds for norms: 5 per element of a layer norm, 2 of a batch norm in eval mode."""
    fused_attention: int = 0
    """The part of act×act FLOPs that went through ``F.scaled_dot_product_attention``: what fvcore counts as zero."""
    paper_scan: int = 0
    """FLOPs of the scans by the field's formula instead of the recurrence's own arithmetic."""
    causal_modules: set[str] = field(default_factory=set)
    activation_elements: dict[str, int] = field(default_factory=dict)
    """Elements written by all operations but views, by module."""
    output_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shape of each module's (first) output tensor."""

    def flops(self, kind: str | None = None, within: str = "") -> int:
        """FLOPs of one class or of all, of the whole model or of the module ``within`` and those inside it."""
        return sum(op.flops for op in self.ops if kind in (None, op.kind) and inside(op.module, within))

    def macs(self, kind: str | None = None, within: str = "") -> int:
        """Multiply-adds: half the FLOPs."""
        return self.flops(kind, within) // 2

    def by_class(self, within: str = "") -> dict[str, int]:
        """FLOPs of every class."""
        return {kind: self.flops(kind, within) for kind in CLASSES}

    @property
    def paper(self) -> int:
        """The number that papers print as "FLOPs", in "G": MACs of the products and convolutions plus norm elements
        (fvcore's convention), plus 9·B·L·D·N for a scan, which the field adds without halving it."""
        return (self.flops() - self.flops("scan")) // 2 + self.norm_elements + self.paper_scan


def inside(module: str, ancestor: str) -> bool:
    """Whether the dotted path ``module`` is ``ancestor`` or lies within it; everything lies within ``""``."""
    return not ancestor or module == ancestor or module.startswith(ancestor + ".")


class _Weights:
    """Storages that hold weights or constants, or what was computed from them alone."""

    def __init__(self, model: nn.Module) -> None:
        tensors = (*model.parameters(), *model.buffers())
        self.storages = {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}  # kept alive: no reuse

    def __contains__(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self.storages

    def propagate(self, inputs: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        derived = all(t in self for t in inputs)  # also without inputs: a constant
        for out in outputs:
            storage = out.untyped_storage()
            if derived:
                self.storages[storage._cdata] = storage
            else:
                self.storages.pop(storage._cdata, None)


class _CausalAttention(TorchFunctionMode):
    """Notes who asks for a causal or fused attention, before it is decomposed."""

    def __init__(self, counter: _CountingMode) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        if kwargs.get("is_causal", args[5] if len(args) > 5 else False):
            self.counter.count.causal_modules.add(self.counter.module)
        before = self.counter.count.flops("act×act")
        out = func(*args, **kwargs)
        self.counter.count.fused_attention += self.counter.count.flops("act×act") - before
        return out


class _CountingMode(TorchDispatchMode):
    """Adds up every operation of a forward pass on meta tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.count = Count()
        self.weights = _Weights(model)
        self.stack: list[str] = [""]
        self.uncounted: Counter[str] = Counter()
        self.elements: Counter[str] = Counter()
        self.activations: defaultdict[str, int] = defaultdict(int)

    @property
    def module(self) -> str:
        return self.stack[-1]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        known = packet in _PRODUCTS or packet in SCAN_FLOPS or packet is aten.convolution
        if not known and packet not in _NORMS:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        out = func(*args, **kwargs)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self._record(func, packet, args, kwargs, inputs, outputs)
        self.weights.propagate(inputs, outputs)
        return out

    def _record(
        self, func: Any, packet: Any, args: tuple, kwargs: dict, inputs: list[torch.Tensor], outputs: list[torch.Tensor]
    ) -> None:
        if all(t in self.weights for t in inputs):
            return  # a constant, or a weight made ready: not work per image
        if func.is_view or packet in (aten.detach, aten.alias, aten._unsafe_view):
            return
        elements = outputs[0].numel() if outputs else 0  # further outputs are statistics and indices
        self.activations[self.module] += elements
        if packet in _PRODUCTS:
            formula, factors = _PRODUCTS[packet]
            weighted = any(args[i] in self.weights for i in factors)
            self._add("linear" if weighted else "act×act", formula(*args[: max(factors) + 1]))
        elif packet is aten.convolution:
            self._add("convolution" if args[1] in self.weights else "act×act", _convolution(*args, out=outputs[0]))
        elif packet in SCAN_FLOPS:
            self._add("scan", SCAN_FLOPS[packet].exact(*args, **kwargs))
            self.count.paper_scan += SCAN_FLOPS[packet].paper(*args, **kwargs)
        else:
            _refuse_unknown(func, self.module)
            self.uncounted[str(packet)] += 1
            self.elements[str(packet)] += elements
            if packet in _NORMS:
                self.count.norm_elements += args[0].numel() * _norm_factor(packet, args)

    def _add(self, kind: str, flops: int) -> None:
        self.count.ops.append(Op(self.module, kind, flops))

    def finish(self) -> Count:
        self.count.uncounted = {
            name: Uncounted(calls, self.elements[name]) for name, calls in sorted(self.uncounted.items())
        }
        self.count.activation_elements = dict(self.activations)
        return self.count


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *_: Any,
    out: torch.Tensor,
) -> int:
    """Every kernel tap meets every position of the output; of the input, if transposed. Padding counts."""
    positions = math.prod((x if transposed else out).shape[2:]) * x.shape[0]
    return 2 * positions * weight.numel()


def _norm_factor(packet: Any, args: tuple) -> int:
    """fvcore's FLOPs per element, one less without an affine weight."""
    weight = args[2] if packet in (aten.native_layer_norm, aten._fused_rms_norm) else args[1]
    return _NORMS[packet] - (0 if isinstance(weight, torch.Tensor) else 1)


def _refuse_unknown(func: Any, module: str) -> None:
    name = func.overloadpacket.__name__
    custom = func.namespace not in ("aten", "prims", "prim", "profiler", "inductor")
    product = any(part in name for part in _SUSPICIOUS) and not any(part in name for part in _HARMLESS)
    if custom or product:
        raise ValueError(
            f"no FLOP formula for operator {func.namespace}::{name}, called in {module or 'the model itself'}: "
            "register one with mixerzoo.backbones.ops.flops.register_scan_flops"
        )


@contextmanager
def _tracked_modules(model: nn.Module, counter: _CountingMode) -> Iterator[None]:
    """Keeps ``counter.stack`` at the module that is running, and notes output shapes."""
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        counter.stack.append(names.get(id(module), counter.module))

    def leave(module: nn.Module, _: Any, out: Any) -> None:
        name = counter.stack.pop()
        first = next((t for t in tree_leaves(out) if isinstance(t, torch.Tensor)), None)
        if first is not None:
            counter.count.output_shapes[name] = tuple(first.shape)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def count(model: nn.Module, image_size: tuple[int, int], *, batch: int = 1, in_chans: int = 3) -> Count:
    """Counts one forward pass of a model on the meta device.

    Args:
        model: built on, or moved to, the meta device. It is put in eval mode, and its parameters stop requiring
            gradients (checkpointing and autograd's own operations are not part of a forward pass).
        image_size: (H, W) in pixels.
        batch: images; FLOPs grow in proportion.
        in_chans: channels of the images.

    Raises:
        ValueError: the model is not on meta, does not take such an image, or runs an operator that looks like a
            matrix product, a convolution or a custom kernel and has no formula.
    """
    parameter = next(model.parameters(), None)
    if parameter is not None and parameter.device.type != "meta":
        raise ValueError(f"count needs a model on the meta device, got one on {parameter.device}")
    model.eval().requires_grad_(False)
    dtype = parameter.dtype if parameter is not None else torch.float32
    image = torch.zeros(batch, in_chans, *image_size, device="meta", dtype=dtype)
    counter = _CountingMode(model)
    with _tracked_modules(model, counter), _CausalAttention(counter), counter:
        try:
            model(image)
        except (RuntimeError, AssertionError, IndexError, TypeError) as error:
            height, width = image_size
            raise ValueError(f"the model does not take images of {height}×{width} pixels: {error}") from error
    return counter.finish()
