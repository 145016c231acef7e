"""Counts the arithmetic of one forward pass, exactly, without computing anything.

The network runs once on PyTorch's meta device, where tensors have shapes but no memory, under a dispatch mode that
sees every operator below the Python API. Composite operators (scaled_dot_product_attention, einsum, matmul, …) are
taken apart first, so fused and eager attention, grouped queries and nn.MultiheadAttention all come down to the same
few matrix products.

What an operator multiplies decides its class. A tensor is an *activation* if any part of it was computed from the
image; everything else (parameters, buffers, position tables, standardised weights) is a *weight*:

    linear       activation × weight, and recurrent layers (LSTM, GRU)
    convolution  a convolution of an activation with a weight
    attention    activation × activation, whatever the layer is called
    scan         selective scans and their like, by the formulas in `backbones.ops.flops`
    other        weight × weight: the same for any batch, and could be stored; in convention ``paper`` also norms etc.

Two conventions:

    exact  one multiply-add is 2 FLOPs and 1 MAC. Convolutions, matrix products and scans are counted, padding
           included; element-wise operators, norms, softmax and pooling are not, but listed with their elements.
           Attention called with is_causal=True counts the pairs that exist: L·(L + 1)/2 of L². A causal mask that is
           passed as a tensor is data and cannot be told from any other: it is counted in full.
    paper  what vision papers print as "FLOPs", in fact multiply-adds: fvcore's sums, in which a norm costs 5 per
           element (batch norm 2), bilinear resizing 4, adaptive pooling 1, plus the attention that fvcore leaves out
           (causal or not, in full) and scans by the figure of their field, added as if it were multiply-adds.

An operator that multiplies matrices or convolves, or any operator that is not PyTorch's own, for which no formula is
known, is an error and never a silent zero.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from ...backbones.ops.flops import SCAN_FLOPS
from .formulas import FORMULAS, PAPER_EXTRAS, SHAPES, Product, meeting_of_tokens, refuse_arithmetic
from .record import FLOP_CLASSES

Convention = Literal["exact", "paper"]
CONVENTIONS: tuple[Convention, ...] = ("exact", "paper")

aten = torch.ops.aten


@dataclass(frozen=True, slots=True)
class OpCount:
    """One call of a counted operator.

    Attributes:
        op: its name.
        kind: one of `analysis.FLOP_CLASSES`.
        flops: FLOPs in convention ``exact``.
        paper_macs: MACs in convention ``paper``.
        product: its shape, if it is a matrix product.
        causal: inside a causal attention.
    """

    op: str
    kind: str
    flops: int
    paper_macs: int
    product: Product | None = None
    causal: bool = False

    def cost(self, convention: Convention) -> int:
        """FLOPs in a convention."""
        return self.flops if convention == "exact" else 2 * self.paper_macs

    def macs(self, convention: Convention) -> int:
        """Multiply-adds; of a scan's single FLOPs two make one, rounded up."""
        return (self.flops + 1) // 2 if convention == "exact" else self.paper_macs


@dataclass(slots=True)
class ModuleCount:
    """What one module did itself, its submodules apart.

    Attributes:
        ops: counted operators in order of execution.
        bytes_moved: bytes that its operators read and write, counted or not, views apart.
        bytes_written: bytes that they write.
        out_shape: shape of the (first) tensor that its last call put out, ``None`` if it was none.
        mixers: operators without a product that make tokens meet: ``convolution`` (kernel > 1, stride 1), ``pooling``.
    """

    ops: list[OpCount] = field(default_factory=list)
    bytes_moved: int = 0
    bytes_written: int = 0
    out_shape: tuple[int, ...] | None = None
    mixers: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Uncounted:
    """Calls of an operator that no FLOPs are counted for, and their elements (read or written, the larger)."""

    calls: int = 0
    elements: int = 0


@dataclass(slots=True)
class Count:
    """The arithmetic of one forward pass.

    Attributes:
        modules: by path (``""`` is the network), in order of first execution.
        uncounted: by operator, with the most elements first.
    """

    modules: dict[str, ModuleCount]
    uncounted: dict[str, Uncounted]

    @property
    def causal(self) -> bool:
        """Whether some attention was causal."""
        return any(op.causal for module in self.modules.values() for op in module.ops)

    def flops(self, convention: Convention = "exact") -> int:
        """All FLOPs."""
        return sum(self.flops_by_class(convention).values())

    def macs(self, convention: Convention = "exact") -> int:
        """All multiply-adds."""
        return sum(op.macs(convention) for module in self.modules.values() for op in module.ops)

    def flops_by_class(self, convention: Convention = "exact") -> dict[str, int]:
        """FLOPs of each of `analysis.FLOP_CLASSES`."""
        return sum_by_class((op for module in self.modules.values() for op in module.ops), convention)


def sum_by_class(ops: Iterator[OpCount], convention: Convention) -> dict[str, int]:
    """FLOPs of each of `analysis.FLOP_CLASSES`."""
    totals = dict.fromkeys(FLOP_CLASSES, 0)
    for op in ops:
        totals[op.kind] += op.cost(convention)
    return totals


def count_flops(model: nn.Module, image_size: tuple[int, int], *, batch: int = 1, in_chans: int | None = None) -> Count:
    """Counts one forward pass in eval mode.

    Args:
        model: any network of an image (B, C, H, W); left as it is. On another device than meta it is run with meta
            copies of its parameters and buffers.
        image_size: (H, W) in pixels.
        batch: images B.
        in_chans: channels C; ``None`` for the network's own.

    Raises:
        UnknownOperatorError: an operator that multiplies has no formula.
    """
    if in_chans is None:
        in_chans = image_channels(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.get_default_dtype())
    on_meta = {name: t.to("meta") for name, t in tensors.items() if not t.is_meta}
    training = {module: module.training for module in model.modules()}
    # Inference mode also shows the composite operators, of which only scaled_dot_product_attention knows "causal".
    with torch.inference_mode(), torch.device("meta"):
        image = torch.empty(batch, in_chans, *image_size, dtype=dtype)
        counter = _Counter(model, image)
        try:
            model.eval()
            with counter.running():
                if on_meta:
                    torch.func.functional_call(model, on_meta, (image,))
                else:
                    model(image)
        finally:
            for module, mode in training.items():
                module.training = mode
    uncounted = sorted(counter.uncounted.items(), key=lambda item: (-item[1].elements, item[0]))
    return Count(counter.modules, dict(uncounted))


def image_channels(model: nn.Module) -> int:
    """Channels C of the images that a network takes."""
    cfg = getattr(model, "pretrained_cfg", None) or {}
    return getattr(model, "in_chans", None) or cfg.get("input_size", (3,))[0]


class _Counter(TorchDispatchMode):
    """Sees every operator, tells activations from weights, and books the arithmetic on the module that is running."""

    def __init__(self, model: nn.Module, image: torch.Tensor) -> None:
        super().__init__()
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.stack = [""]
        self.modules: dict[str, ModuleCount] = {"": ModuleCount()}
        self.uncounted: dict[str, Uncounted] = {}
        # Storages that hold activations, kept alive so that no address is used twice.
        self.activations: dict[int, torch.UntypedStorage] = {}
        self.causal: tuple[int, int] | None = None  # (queries, keys) while inside a causal attention
        self.inside_extra = False
        self._mark(image)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            for hook in (
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, always_call=True),
            ):
                stack.callback(hook.remove)
            stack.enter_context(self)
            yield

    def _enter(self, module: nn.Module, args: Any) -> None:
        path = self.paths.get(id(module))
        if path is not None:
            self.stack.append(path)
            self.modules.setdefault(path, ModuleCount())

    def _leave(self, module: nn.Module, args: Any, out: Any) -> None:
        path = self.paths.get(id(module))
        if path is not None:
            self.stack.pop()
            first = next(iter(tree_iter(out)), None)
            self.modules[path].out_shape = tuple(first.shape) if isinstance(first, torch.Tensor) else None

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        extra = PAPER_EXTRAS.get(packet) if not self.inside_extra else None
        known = packet in FORMULAS or packet in SCAN_FLOPS or packet in flop_registry
        out = SHAPES[packet](args) if packet in SHAPES else NotImplemented
        if not known and out is NotImplemented:
            out = self._take_apart(func, args, kwargs, inside_extra=extra is not None)
            if out is not NotImplemented:
                if extra is not None:
                    self._module.ops.append(OpCount(str(packet), "other", 0, extra(out, args)))
                return out
        if out is NotImplemented:
            out = func(*args, **kwargs)
        if extra is not None:
            self._module.ops.append(OpCount(str(packet), "other", 0, extra(out, args)))
        self._book(func, args, kwargs, out, known)
        return out

    def _take_apart(self, func: OpOverload, args: tuple, kwargs: dict[str, Any], inside_extra: bool) -> Any:
        """Runs a composite operator by its parts, which come back here; ``NotImplemented`` if it has none."""
        before = self.causal, self.inside_extra
        self.inside_extra |= inside_extra
        if func._overloadpacket is aten.scaled_dot_product_attention:
            is_causal = args[5] if len(args) > 5 else kwargs.get("is_causal", False)
            self.causal = (args[0].shape[-2], args[1].shape[-2]) if is_causal else None
        try:
            with self:
                return func.decompose(*args, **kwargs)
        finally:
            self.causal, self.inside_extra = before

    @property
    def _module(self) -> ModuleCount:
        return self.modules[self.stack[-1]]

    def _mark(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        self.activations[storage._cdata] = storage

    def is_activation(self, tensor: Any) -> bool:
        """Whether some of the tensor was computed from the image."""
        return isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata in self.activations

    def _book(self, func: OpOverload, args: tuple, kwargs: dict[str, Any], out: Any, known: bool) -> None:
        inputs = _tensors((*args, *kwargs.values()))
        outputs = _tensors((out,))
        mutable = func._schema.is_mutable
        if mutable:
            outputs += [t for t in _mutated(func, args, kwargs) if all(t is not other for other in outputs)]
        sources = {t.untyped_storage()._cdata for t in inputs}
        if not self.activations.keys().isdisjoint(sources) and not _CONSTANT.match(func._opname):
            for tensor in outputs:
                self._mark(tensor)
        if not mutable and all(t.untyped_storage()._cdata in sources for t in outputs):
            return  # a view does no work
        read, written = _bytes(inputs), _bytes(outputs)
        self._module.bytes_moved += read + written
        self._module.bytes_written += written
        if known:
            self._module.ops.append(self._count(func._overloadpacket, args, kwargs, out))
        else:
            refuse_arithmetic(func, self.stack[-1])
            elements = max((t.numel() for t in inputs + outputs), default=0)
            if elements and func._overloadpacket not in _ALLOCATIONS:
                entry = self.uncounted.setdefault(str(func._overloadpacket), Uncounted())
                entry.calls += 1
                entry.elements += elements
        if mixer := meeting_of_tokens(func._overloadpacket, args):
            self._module.mixers.add(mixer)

    def _count(self, packet: OpOverloadPacket, args: tuple, kwargs: dict[str, Any], out: Any) -> OpCount:
        name = str(packet)
        if packet in SCAN_FLOPS:
            formulas = SCAN_FLOPS[packet]
            return OpCount(name, "scan", formulas.exact(*args, **kwargs), formulas.paper(*args, **kwargs))
        if packet not in FORMULAS:  # somebody registered it with torch.utils.flop_counter
            flops = int(flop_registry[packet](*args, **kwargs, out_val=out))
            return OpCount(name, "attention" if "attention" in name else "other", flops, flops // 2)
        work = FORMULAS[packet](args, out)
        active = [self.is_activation(operand) for operand in work.operands]
        kind = ("other", work.kind, "attention")[sum(active)]
        product = work.product
        flops, causal = 2 * work.macs, False
        if self.causal is not None and product is not None:
            queries, keys = self.causal
            if product.m == queries and keys in (product.n, product.k):  # q·kᵀ, or its softmax times v
                triangle = min(queries, keys)  # query i sees keys 0…i
                pairs = triangle * (triangle + 1) // 2 + (queries - triangle) * keys
                flops, causal = flops // (queries * keys) * pairs, True
        return OpCount(name, kind, flops, work.macs, product, causal)


_ALLOCATIONS = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty)
# Made from a tensor's shape, not from its values.
_CONSTANT = re.compile(r"(new_.*|.*_like)$")


def _mutated(func: OpOverload, args: tuple, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The arguments that an operator writes into."""
    names = {spec.name for spec in func._schema.arguments if spec.alias_info is not None and spec.alias_info.is_write}
    given = {spec.name: value for spec, value in zip(func._schema.arguments, args, strict=False)} | kwargs
    return _tensors(given.get(name) for name in names)


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or outputs, which nest in lists only (so no slow pytree is needed)."""
    found = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
