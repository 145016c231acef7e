"""Argument checks of the public scans: one ValueError that says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..cross_scan import Route

BACKENDS = ("auto", "triton", "cpu", "torch", "reference", "mamba_ssm")
FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROUTE_CODES = [int(route) for route in Route]  # dynamo cannot iterate over an enum


def check_tensors(function: str, tensors: dict[str, torch.Tensor | None]) -> None:
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


def check_shape(function: str, name: str, tensor: torch.Tensor | None, letters: str, sizes: Sequence[int]) -> None:
    """Checks one shape; ``letters`` names the axes, such as "B, D, L"."""
    if tensor is not None and tuple(tensor.shape) != tuple(sizes):
        expected = ", ".join(str(size) for size in sizes)
        raise ValueError(f"{function}: {name} must be ({letters}) = ({expected}), got {tuple(tensor.shape)}")


def check_rank(function: str, name: str, tensor: torch.Tensor, forms: dict[int, str]) -> None:
    """Checks the number of axes and that none is empty; ``forms`` maps each rank to its letters."""
    if tensor.ndim not in forms:
        expected = " or ".join(f"({letters})" for letters in forms.values())
        raise ValueError(f"{function}: {name} must be {expected}, got {tuple(tensor.shape)}")
    if 0 in tensor.shape[1:]:
        raise ValueError(f"{function}: {name} must not have an empty axis, got {tuple(tensor.shape)}")


def check_groups(function: str, name: str, tensor: torch.Tensor, groups: int, channels: int) -> None:
    """Checks that the channels split evenly into the groups of B and C."""
    if channels % groups:
        raise ValueError(
            f"{function}: {name} {tuple(tensor.shape)} has {groups} groups, which must divide the {channels} channels"
        )


def check_backend(function: str, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"{function}: backend must be one of {', '.join(map(repr, BACKENDS))}, got {backend!r}")


def check_routes(function: str, routes: Sequence[int]) -> None:
    if len(routes) == 0 or any(int(route) not in ROUTE_CODES for route in routes):
        raise ValueError(f"{function}: routes must be one or more of {ROUTE_CODES} (see Route), got {list(routes)}")


def check_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    backend: str,
) -> None:
    """Checks the arguments of ``selective_scan``."""
    name = "selective_scan"
    check_backend(name, backend)
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    check_tensors(name, tensors)
    check_rank(name, "u", u, {3: "B, D, L"})
    check_rank(name, "A", A, {2: "D, N"})
    batch, channels, length = u.shape
    states = A.shape[1]
    check_shape(name, "A", A, "D, N", (channels, states))
    check_shape(name, "delta", delta, "B, D, L", (batch, channels, length))
    check_shape(name, "z", z, "B, D, L", (batch, channels, length))
    check_shape(name, "D", D, "D", (channels,))
    check_shape(name, "delta_bias", delta_bias, "D", (channels,))
    for label, tensor in (("B", B), ("C", C)):
        check_rank(name, label, tensor, {2: "D, N", 3: "B, N, L", 4: "B, G, N, L"})
        if tensor.ndim == 2:
            check_shape(name, label, tensor, "D, N", (channels, states))
        elif tensor.ndim == 3:
            check_shape(name, label, tensor, "B, N, L", (batch, states, length))
        else:
            groups = tensor.shape[1]
            check_shape(name, label, tensor, "B, G, N, L", (batch, groups, states, length))
            check_groups(name, label, tensor, groups, channels)
    if B.ndim == 4 and C.ndim == 4:
        check_shape(name, "C", C, "B, G, N, L", tuple(B.shape))


def check_scan_2d(
    x: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None,
    z: torch.Tensor | None,
    delta_bias: torch.Tensor | None,
    routes: Sequence[int],
    out_dtype: torch.dtype | None,
    backend: str,
) -> None:
    """Checks the arguments of ``selective_scan_2d``."""
    name = "selective_scan_2d"
    check_backend(name, backend)
    check_routes(name, routes)
    if out_dtype is not None and out_dtype not in FLOATING:
        raise ValueError(f"{name}: out_dtype must be a real floating dtype or None, got {out_dtype}")
    tensors = {"x": x, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    check_tensors(name, tensors)
    check_rank(name, "x", x, {4: "B, H, W, E", 5: "B, H, W, K, E"})
    check_rank(name, "A", A, {3: "K, E, N"})
    K, (batch, height, width), channels, states = len(routes), x.shape[:3], x.shape[-1], A.shape[2]
    if x.ndim == 5:
        check_shape(name, "x", x, "B, H, W, K, E", (batch, height, width, K, channels))
    check_shape(name, "A", A, "K, E, N", (K, channels, states))
    check_shape(name, "delta", delta, "B, H, W, K, E", (batch, height, width, K, channels))
    check_shape(name, "z", z, "B, H, W, E", (batch, height, width, channels))
    check_shape(name, "D", D, "K, E", (K, channels))
    check_shape(name, "delta_bias", delta_bias, "K, E", (K, channels))
    for label, tensor in (("B", B), ("C", C)):
        check_rank(name, label, tensor, {5: "B, H, W, K, N", 6: "B, H, W, K, G, N"})
        if tensor.ndim == 5:
            check_shape(name, label, tensor, "B, H, W, K, N", (batch, height, width, K, states))
        else:
            groups = tensor.shape[4]
            check_shape(name, label, tensor, "B, H, W, K, G, N", (batch, height, width, K, groups, states))
            check_groups(name, label, tensor, groups, channels)
    if B.ndim == 6 and C.ndim == 6:
        check_shape(name, "C", C, "B, H, W, K, G, N", tuple(B.shape))
