"""What every operation needs beside its mathematics: argument checks, dtypes, autocast, derivatives, FLOP formulas.

FLOPs. A custom op is opaque to a dispatch-level counter: unregistered, it counts zero without a word. Each op therefore
registers two formulas that take the op's own arguments (as fake or meta tensors) and return an integer number of FLOPs
(a multiply-add is two):

* ``exact``: the arithmetic of the recurrence as it is computed step by step;
* ``paper``: the figure that the op's field prints (for the selective scan 9·B·L·D·N, state-spaces/mamba#110).

``exact`` is also handed to ``torch.utils.flop_counter``, so that PyTorch's own counter sees the op.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_strides = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)  # the former since torch 2.7
TAGS = (_strides, torch.Tag.pt2_compliant_tag)  # of every op

Tensors = Mapping[str, torch.Tensor | None]
Axes = tuple[str, ...]  # letters that name the axes of a tensor, such as ("B", "D", "L")


# ---- argument checks: one ValueError that says what was expected and what came ----


def check_choice(function: str, name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{function}: {name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_tensors(function: str, tensors: Tensors) -> None:
    """Checks type, dtype and device; the first entry says which device is right."""
    first, reference = next(iter(tensors.items()))
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"{function}: {name} must be a tensor, got {type(tensor).__name__}")
        if tensor.dtype not in FLOATING:
            hint = "; a complex state matrix is not supported" if tensor.is_complex() else ""
            raise ValueError(
                f"{function}: {name} {tuple(tensor.shape)} must be float16, bfloat16, float32 or float64, "
                f"got {tensor.dtype}{hint}"
            )
        if tensor.device != reference.device:
            raise ValueError(
                f"{function}: {name} {tuple(tensor.shape)} is on {tensor.device}, but {first} is on "
                f"{reference.device}; move all arguments to one device"
            )


def check_shapes(
    function: str, tensors: Tensors, forms: Mapping[str, tuple[Axes, ...]], sizes: dict[str, int], grouped: str
) -> None:
    """Checks that every tensor has one of its forms, and that a letter means one size throughout.

    Args:
        function: name of the caller, with which each message begins.
        tensors: the arguments, in an order in which a letter's first owner comes first.
        forms: for each argument its possible axes, which differ in number.
        sizes: sizes of letters known beforehand; those that the tensors fix are added.
        grouped: the letter of the axis that the G groups of B and C must divide.

    Raises:
        ValueError: a shape does not fit; the message names the argument, what was expected and what came.
    """
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        shape, axes = tuple(tensor.shape), next((form for form in forms[name] if len(form) == tensor.ndim), None)
        if axes is None:
            unknown = len(forms[name]) > 1 or any(letter not in sizes for letter in forms[name][0])
            wanted = " or ".join(f"({', '.join(form)})" for form in forms[name])
            if not unknown:
                wanted += f" = ({', '.join(str(sizes[letter]) for letter in forms[name][0])})"
            raise ValueError(f"{function}: {name} must be {wanted}, got {shape}")
        if 0 in shape[1:]:
            raise ValueError(f"{function}: {name} must not have an empty axis, got {shape}")
        for letter, size in zip(axes, shape, strict=True):
            sizes.setdefault(letter, size)
        expected = tuple(sizes[letter] for letter in axes)
        if shape != expected:
            spelled = ", ".join(str(size) for size in expected)
            raise ValueError(f"{function}: {name} must be ({', '.join(axes)}) = ({spelled}), got {shape}")
        if "G" in axes and sizes[grouped] % sizes["G"]:
            divided = f"the {sizes[grouped]} {'heads' if grouped == 'H' else 'channels'}"
            raise ValueError(f"{function}: {name} {shape} has {sizes['G']} groups, which must divide {divided}")


# ---- dtypes ----


def state_dtype(*tensors: torch.Tensor | None) -> torch.dtype:
    """dtype of all arithmetic: float64 if any of ``tensors`` is float64, else float32."""
    doubles = any(t is not None and t.dtype == torch.float64 for t in tensors)
    return torch.float64 if doubles else torch.float32


def upcast(x: torch.Tensor) -> torch.Tensor:
    """float16 and bfloat16 to float32; float32 and float64 stay."""
    return x.to(state_dtype(x))


def autocast(device_type: str, *tensors: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    """The activations in the autocast dtype, if autocast is on; float64 stays, as everywhere in autocast."""
    if device_type == "meta" or not torch.is_autocast_enabled(device_type):
        return tensors
    dtype = torch.get_autocast_dtype(device_type)
    return tuple(t if t is None or t.dtype == torch.float64 else t.to(dtype) for t in tensors)


def without_autocast(device_type: str) -> AbstractContextManager[Any]:
    """Switches autocast off where it is on: the arithmetic inside an op stays in the state dtype."""
    if device_type != "meta" and torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()


# ---- derivatives ----


def transforming() -> bool:
    """Whether a transform of torch.func (grad, vmap, jvp, …) is at work.

    An op's own autograd kernel runs inside one level of such a transform, where PyTorch allows no autograd.Function;
    the public functions then apply the op's Function themselves, which PyTorch takes through all levels.
    """
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def register_autograd(library: torch.library.Library, op: OpOverload, function: type[torch.autograd.Function]) -> None:
    """Makes ``function``, which takes the op's arguments, the derivative of ``op``.

    ``torch.library.register_autograd`` would do, did it work under torch.func and not spend 100 µs on the schema at
    each call. The Function is applied where a gradient is recorded or an argument has a forward-mode tangent, and may
    return more outputs than the op has.
    """
    count = len(op._schema.returns)

    def kernel(*args: Any) -> tuple[torch.Tensor, ...]:
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if (torch.is_grad_enabled() and any(x.requires_grad for x in tensors)) or _has_tangent(tensors):
            return function.apply(*args)[:count]
        return below_autograd(op, *args)

    library.impl(op, kernel, "Autograd")


def _has_tangent(tensors: list[torch.Tensor]) -> bool:
    return torch._C._is_fwd_grad_enabled() and any(forward_ad.unpack_dual(x).tangent is not None for x in tensors)


def below_autograd(op: OpOverload, *args: Any) -> tuple[torch.Tensor, ...]:
    """Calls ``op`` without recording it."""
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)


def no_derivative(function: str, backend: str, kind: str) -> RuntimeError:
    """The error where a fast backend lacks a derivative (``kind``), with the cure."""
    return RuntimeError(
        f"{function}(backend={backend!r}) has no {kind}; use backend='reference', which has derivatives of every order "
        "and mode (a network with scans is built with it: timm.create_model(NAME, backend='reference'))"
    )


def fold(x: torch.Tensor | None, dim: int | None, axis: int, size: int) -> torch.Tensor | None:
    """Merges vmap's axis ``dim`` of ``size`` (None: the same for all) into the front of ``axis`` of one sample."""
    if x is None:
        return None
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.movedim(0, axis).flatten(axis, axis + 1)


def unfold(x: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """Undoes `fold`: vmap's axis comes first."""
    return x.unflatten(axis, (size, -1)).movedim(axis, 0)


# ---- FLOP formulas ----

Formula = Callable[..., int]


@dataclass(frozen=True)
class ScanFlops:
    """FLOPs of one custom op, each a function of the op's arguments."""

    exact: Formula
    paper: Formula


SCAN_FLOPS: dict[OpOverloadPacket, ScanFlops] = {}


def register_scan_flops(op: OpOverloadPacket, exact: Formula, paper: Formula) -> None:
    """Registers both formulas of ``op`` (a ``torch.ops.mixerzoo.*`` packet).

    Raises:
        ValueError: the op has formulas already.
    """
    if op in SCAN_FLOPS:
        raise ValueError(f"FLOP formulas of {op} are registered already")
    SCAN_FLOPS[op] = ScanFlops(exact, paper)

    @register_flop_formula(op, get_raw=True)
    def exact_for_torch(*args: object, out_val: torch.Tensor | None = None, **kwargs: object) -> int:
        return exact(*args, **kwargs)
