"""The ``cpu`` backend: the C kernel of ``kernel.c``, called through ctypes.

The file is compiled when the package is installed; it needs neither Python's nor PyTorch's headers. Importing torch
first matters: the kernel then shares torch's OpenMP runtime.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
from array import array
from ctypes import c_int, c_int64, c_void_p

import torch

from ..problem import Problem

CONTIGUOUS_LAST = False
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
LANES = 32  # channels of one tile, as in problem.h
THREAD_WORK = 1 << 15  # states updated in about the time in which a thread is woken
_DTYPE_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_SUFFIXES = {torch.float32: "float", torch.float64: "double"}
_ABSENT = (0,) * 7
_EXTENSION = f"{__package__}._kernel"


@functools.cache
def _kernels() -> ctypes.CDLL | None:
    """The compiled library, or None if it was not built."""
    spec = importlib.util.find_spec(_EXTENSION)
    if spec is None or spec.origin is None:
        return None
    library = ctypes.CDLL(spec.origin)
    for suffix in _SUFFIXES.values():
        for name in ("scan_forward", "scan_backward"):
            kernel = getattr(library, f"{name}_{suffix}")
            kernel.argtypes, kernel.restype = (c_void_p,), c_int
        kernel = getattr(library, f"scan_reduce_{suffix}")
        kernel.argtypes, kernel.restype = (c_void_p, c_void_p, *(c_int64,) * 4), None
    return library


def unavailable(device: torch.device) -> str | None:
    """Why the kernel cannot run on ``device``, and what would mend it; None if it can."""
    if device.type != "cpu":
        return f"it needs CPU tensors, got {device}; use backend='auto'"
    if _kernels() is None:
        return "its C kernel was not built; install a C compiler with OpenMP (gcc) and reinstall mixerzoo"
    return None


def _run(kernel: str, dtype: torch.dtype, *fields: int) -> None:
    """Calls a kernel on a ``problem`` of problem.h, all of whose fields, pointers included, have 64 bits."""
    problem = array("q", fields)  # filled in a fifth of the time that ctypes would take
    if getattr(_kernels(), f"{kernel}_{_SUFFIXES[dtype]}")(problem.buffer_info()[0]):
        raise MemoryError(f"{kernel}: no memory for the states of {LANES} channels per thread")


def _threads(work: int) -> int:
    return min(torch.get_num_threads(), 1 + work // THREAD_WORK)


def _pointer(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _activation(x: torch.Tensor) -> tuple[int, ...]:
    """A ``tensor`` of problem.h: u, delta, dy, y or a gradient of one of them, (B, L, K or 1, E)."""
    batch, step, route, lane = x.stride()
    return x.data_ptr(), _DTYPE_CODES[x.dtype], batch, step, route if x.shape[2] > 1 else 0, 0, lane


def _gate(z: torch.Tensor | None) -> tuple[int, ...]:
    """z or dz (B, L, E)."""
    if z is None:
        return _ABSENT
    batch, step, lane = z.stride()
    return z.data_ptr(), _DTYPE_CODES[z.dtype], batch, step, 0, 0, lane


def _weights(x: torch.Tensor) -> tuple[int, ...]:
    """B or C (B, L, K, G, N)."""
    return x.data_ptr(), _DTYPE_CODES[x.dtype], *x.stride()


def _sizes(problem: Problem) -> tuple[int, ...]:
    """The first ten fields of a ``problem``."""
    threads = _threads(problem.batch * problem.length * problem.A.numel())
    sizes = (problem.batch, problem.length, len(problem.routes), problem.channels, problem.states, problem.groups)
    return *sizes, *problem.grid, problem.softplus, threads


def _inputs(problem: Problem) -> tuple[int, ...]:
    weights = (*_weights(problem.B), *_weights(problem.C))
    return *_activation(problem.u), *_activation(problem.delta), *weights, *_gate(problem.z)


def _parameters(problem: Problem) -> tuple[int, ...]:
    return _pointer(problem.A), _pointer(problem.D), _pointer(problem.delta_bias)


def forward(
    problem: Problem, save_checkpoints: bool, out_dtype: torch.dtype, merge: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :mod:`..problem`; with ``merge`` the y of all routes are added to one, (B, L, 1, E)."""
    A, K = problem.A, len(problem.routes)
    y = torch.empty(
        (problem.batch, problem.length, 1 if merge else K, problem.channels),
        dtype=A.dtype if merge and K > 1 else out_dtype,
    )
    last_state = A.new_empty((problem.batch, *A.shape))
    checkpoints = A.new_empty(problem.checkpoint_numel if save_checkpoints else 0)
    codes = array("q", problem.routes)
    _run(
        "scan_forward",
        A.dtype,
        *(*_sizes(problem), 0, codes.buffer_info()[0]),
        *(*_inputs(problem), *_ABSENT),
        *(*_parameters(problem), 0),
        *(*_activation(y), *_ABSENT, *_ABSENT, *_ABSENT),
        *(_pointer(last_state), _pointer(checkpoints) if save_checkpoints else 0, 0, 0, 0, 0, 0),
    )
    return y.to(out_dtype), last_state, checkpoints


def forward_merged(
    problem: Problem, save_checkpoints: bool, out_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :mod:`..problem`."""
    y, last_state, checkpoints = forward(problem, save_checkpoints, out_dtype, merge=True)
    return y.squeeze(2), last_state, checkpoints


def _slices(groups: int, channels: int, states: int, batch: int) -> int:
    """Parts of a group's channels with a dB and dC of their own.

    Enough for parallel work at small batches, few enough that the partials stay small beside the activations. Never a
    function of the number of threads: the partials are added in a fixed order, and this choice fixes the summands.
    """
    per_group = channels // groups
    tiles = -(-per_group // LANES)
    return min(tiles, max(4, per_group // (4 * states)), -(-64 // (batch * groups)))


def _reduce(parts: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
    """Sums axis 0, in order; nothing to do for a single part of the right dtype."""
    if parts.shape[0] == 1 and parts.dtype == dtype:
        return parts.view(shape)
    total = torch.empty(shape, dtype=dtype)
    reduce = getattr(_kernels(), f"scan_reduce_{_SUFFIXES[parts.dtype]}")
    sizes = (parts.shape[0], total.numel(), _threads(parts.numel()))
    reduce(parts.data_ptr(), total.data_ptr(), _DTYPE_CODES[dtype], *sizes)
    return total


def backward(
    dy: torch.Tensor, dlast_state: torch.Tensor | None, problem: Problem, checkpoints: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """See :mod:`..problem`."""
    u, delta, A, B, C, D, z, delta_bias = problem.tensors
    batch, K = problem.batch, len(problem.routes)
    shared = K > 1 and u.shape[2] == 1
    du = torch.empty(u.shape, dtype=A.dtype if shared else u.dtype)
    ddelta = torch.empty(delta.shape, dtype=delta.dtype)
    dz = None if z is None else torch.empty(z.shape, dtype=A.dtype if K > 1 else z.dtype)
    slices = _slices(problem.groups, problem.channels, problem.states, max(batch, 1))
    dB, dC = A.new_empty((slices, *B.shape)), A.new_empty((slices, *B.shape))
    dA, dD, dbias = (None if x is None else A.new_empty((batch, *x.shape)) for x in (A, D, delta_bias))
    dlast_state = None if dlast_state is None else dlast_state.to(A.dtype).contiguous()

    codes = array("q", problem.routes)
    _run(
        "scan_backward",
        A.dtype,
        *(*_sizes(problem), slices, codes.buffer_info()[0]),
        *(*_inputs(problem), *_activation(dy)),
        *(*_parameters(problem), _pointer(dlast_state)),
        *(*_ABSENT, *_activation(du), *_activation(ddelta), *_gate(dz)),
        *(0, _pointer(checkpoints), _pointer(dA), _pointer(dD), _pointer(dbias), _pointer(dB), _pointer(dC)),
    )
    return (
        du.to(u.dtype),
        ddelta,
        _reduce(dA, A.shape, A.dtype),
        _reduce(dB, B.shape, B.dtype),
        _reduce(dC, C.shape, C.dtype),
        None if D is None else _reduce(dD, D.shape, D.dtype),
        None if z is None else dz.to(z.dtype),
        None if delta_bias is None else _reduce(dbias, delta_bias.shape, delta_bias.dtype),
    )
