"""The choice of a backend, and what stands between the ops and it."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

import torch

from ..common import without_autocast
from .problem import Problem, contiguous_last

_AUTO = {"cuda": ("triton", "torch"), "cpu": ("cpu", "torch")}  # best first


@functools.cache
def _module(name: str) -> ModuleType:
    """The module of ``triton``, ``cpu`` or ``torch``; Triton is imported only where it is used."""
    if name == "triton":
        from .gpu import launch as module
    elif name == "cpu":
        from .cpu import launch as module
    else:
        from . import chunked as module
    return module


@functools.cache
def resolve(backend: str, device: torch.device, dtypes: frozenset[torch.dtype]) -> ModuleType:
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


def _backend(backend: str, problem: Problem) -> ModuleType:
    activations = (problem.u, problem.delta, problem.B, problem.C, problem.z)
    return resolve(backend, problem.u.device, frozenset(t.dtype for t in activations if t is not None))


def forward(
    problem: Problem, out_dtype: torch.dtype | None, backend: str, save_checkpoints: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y (B, L, E), summed over the routes; last_state (B, K, E, N); the checkpoints, or an empty tensor."""
    module = _backend(backend, problem)
    out_dtype = out_dtype or problem.u.dtype
    if module.CONTIGUOUS_LAST:
        problem = problem.contiguous_last()
    with without_autocast(problem.u.device.type):
        if len(problem.routes) == 1:
            y, last_state, checkpoints = module.forward(problem, save_checkpoints, out_dtype)
            return y.squeeze(2), last_state, checkpoints
        if hasattr(module, "forward_merged"):
            return module.forward_merged(problem, save_checkpoints, out_dtype)
        y, last_state, checkpoints = module.forward(problem, save_checkpoints, problem.dtype)
        return y.sum(2).to(out_dtype), last_state, checkpoints


def backward(
    dy: torch.Tensor, dlast_state: torch.Tensor | None, problem: Problem, checkpoints: torch.Tensor, backend: str
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of the eight tensors, None for those that are None."""
    module = _backend(backend, problem)
    if module.CONTIGUOUS_LAST:
        dy, problem = contiguous_last(dy), problem.contiguous_last()
    with without_autocast(problem.u.device.type):
        return module.backward(dy, dlast_state, problem, checkpoints)
