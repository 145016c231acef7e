"""The ``triton`` backend: the canonical problem of :mod:`..problem` on a GPU, channels last, without copies.

A program is one warp over 32 or 64 channels of one route of one image. It walks the route step by step with its states
in registers and addresses every pixel where it lies, so that a direction costs an addition per step. The kernels are in
:mod:`.forward` and :mod:`.backward`; this module lays out memory and chooses launches.

Where there are too few programs to fill the GPU (small batches of long sequences), the sequence is split into
segments: one pass finds what each segment makes of a zero state, a scan over the segments turns that into the state
which enters each, and the real pass runs all segments at once.

Nothing is tuned at run time, and a kernel is compiled once per combination of dtypes, N, routes and optional arguments,
not per resolution or batch size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..problem import CHUNK, Problem

CONTIGUOUS_LAST = True
DTYPES = frozenset({torch.float16, torch.bfloat16, torch.float32})
OLDEST_TRITON = (3, 4)
LANES = 32
SEGMENT = 256  # a segment has at least so many steps
FORWARD_WARPS, BACKWARD_WARPS = 16, 12  # that fill a multiprocessor, by the kernels' registers


@functools.cache
def unavailable(device: torch.device) -> str | None:
    """Why the backend cannot run on ``device``, or None; Triton's interpreter counts, and takes CPU tensors."""
    try:
        from triton import __version__ as version
    except ImportError:
        return "Triton is not installed; `pip install triton`, or a CUDA build of PyTorch, brings it"
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        return f"Triton {version} is too old for the kernels; PyTorch 2.8 or newer brings one that is not"
    if _interpreted():
        return None
    if device.type != "cuda":
        return (
            f"Triton needs a GPU, the tensors are on {device}; move them to 'cuda', or choose backend='cpu' or 'torch'"
        )
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (7, 0):
        return f"Triton needs a GPU of compute capability 7.0 or newer, {torch.cuda.get_device_name(device)} is older"
    return None


@functools.cache
def _interpreted() -> bool:
    """Whether TRITON_INTERPRET=1, set before Triton was imported, made the kernels Python functions."""
    from triton.runtime import JITFunction

    from . import forward as kernels

    return not isinstance(kernels.forward_kernel, JITFunction)


@functools.cache
def _processors(device: torch.device) -> int:
    """Multiprocessors of the GPU; 1 for the interpreter."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


def segment_length(length: int, programs: int, warps: int, least: int) -> int:
    """Steps per segment, a multiple of CHUNK, or ``length`` if the sequence is not to be split.

    Args:
        length: steps of the sequence.
        programs: programs without a split, one warp each.
        warps: how many warps fill the GPU.
        least: fewer segments than this are not worth the additional pass.
    """
    segments = min(length // SEGMENT, warps // max(1, programs))
    if segments < least:
        return length
    return -(-length // (segments * CHUNK)) * CHUNK


@dataclass(frozen=True)
class _Launch:
    """How the channels and the steps of a problem are divided among programs."""

    batch: int
    channels: int
    groups: int
    states: int
    routes: tuple[int, ...]
    grid: tuple[int, int]
    block_e: int
    unroll: int
    segment: int
    registers: int | None  # at most so many per thread

    @property
    def length(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def blocks_per_group(self) -> int:
        return -(-self.channels // (self.groups * self.block_e))

    @property
    def blocks(self) -> int:
        return self.groups * self.blocks_per_group

    @property
    def segments(self) -> int:
        return -(-self.length // self.segment)

    @property
    def programs(self) -> int:
        return self.batch * self.segments * len(self.routes) * self.blocks

    def integers(self) -> dict[str, int]:
        """Kernel arguments that change from call to call."""
        height, width = self.grid
        return {
            "L": self.length,
            "H": height,
            "W": width,
            "E": self.channels,
            "group_size": self.channels // self.groups,
            "blocks_per_group": self.blocks_per_group,
            "blocks": self.blocks,
            "segments": self.segments,
            "segment": self.segment,
        }

    def constants(self) -> dict[str, Any]:
        """Kernel arguments that a kernel is compiled for, and compiler options."""
        ptx = torch.version.hip is None and not _interpreted()
        return {
            "ROUTES": self.routes,
            "COLUMNS": any(code >= 2 for code in self.routes),
            "N": self.states,
            "BLOCK_N": _power_of_two(self.states),
            "BLOCK_E": self.block_e,
            "UNROLL": self.unroll,
            "MASKED": self.channels // self.groups % self.block_e != 0,
            "PTX": ptx,
            "num_warps": 1,
            "num_stages": 1,
            **({"maxnreg": self.registers} if ptx and self.registers else {}),
        }


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _plan(problem: Problem, backwards: bool) -> _Launch:
    """Chooses a launch.

    Two channels per lane share the work that a step costs whatever the channel, where registers suffice and the GPU is
    full anyway. UNROLL hides the latency of memory and fills the lanes of B and C; in the backward it is limited by
    registers and by the time to compile.
    """
    batch, length, channels = problem.batch, problem.length, problem.channels
    groups, states = problem.groups, problem.states
    block_n = _power_of_two(states)
    resident, widest, deepest, least = (BACKWARD_WARPS, 4, 2, 2) if backwards else (FORWARD_WARPS, 16, 4, 4)
    warps = resident * _processors(problem.delta.device)
    rows = batch * len(problem.routes) * channels
    wide = states <= widest and channels // groups % (2 * LANES) == 0 and rows >= 2 * LANES * warps
    launch = _Launch(
        batch,
        channels,
        groups,
        states,
        problem.routes,
        problem.grid,
        block_e=2 * LANES if wide else LANES,
        unroll=max(1, min(deepest, (8 if backwards else LANES) // block_n)),
        segment=length,
        registers=168 if block_n <= 16 and (backwards or wide) else None,  # 12 warps per multiprocessor
    )
    return replace(launch, segment=segment_length(length, launch.programs, warps, least))


def _strides(name: str, x: torch.Tensor | None, axes: str) -> dict[str, int]:
    """Strides of the axes in bytes as kernel arguments; 0 along an axis of size 1, along which one slice serves all."""
    if x is None:
        return {f"{name}_{axis}": 0 for axis in axes}
    strides = zip(axes, x.shape, x.stride(), strict=False)
    return {f"{name}_{axis}": 0 if size == 1 else stride * x.element_size() for axis, size, stride in strides}


def _scan_segments(
    launch: _Launch,
    problem: Problem,
    x: torch.Tensor,
    A: torch.Tensor,
    weights: torch.Tensor,
    first: torch.Tensor | None,
    backwards: bool,
) -> torch.Tensor | None:
    """State that enters each segment, (B, K, segments, N, E), or None if there is one segment only.

    Args:
        launch: how work is divided.
        problem: the problem.
        x: what is added to the states: u, or dy backwards.
        A: (K, N, E).
        weights: with what weight: B, or C backwards.
        first: the state before the first segment, or None for zeros.
        backwards: from the last step to the first; then the gate weighs ``x``, too.
    """
    from . import forward as kernels

    if launch.segments == 1:
        return None
    K = len(launch.routes)
    states = A.new_empty(launch.batch, K, launch.segments, launch.states, launch.channels)
    sums = A.new_empty(launch.batch, K, launch.segments, launch.channels)
    constants = launch.constants()
    z = problem.z if backwards else None
    kernels.segment_kernel[(launch.programs,)](
        x,
        problem.delta,
        A,
        weights,
        z,
        problem.delta_bias,
        states,
        sums,
        **_strides("u", x, "blk"),
        **_strides("delta", problem.delta, "blk"),
        **_strides("z", z, "bl"),
        **_strides("B", weights, "blkg"),
        **launch.integers(),
        **constants,
        SOFTPLUS=problem.softplus,
        BACKWARDS=backwards,
    )
    blocks = -(-launch.channels // LANES)
    kernels.carry_kernel[(launch.batch * K * blocks,)](
        A,
        sums,
        first,
        states,
        E=launch.channels,
        segments=launch.segments,
        blocks=blocks,
        K=K,
        N=launch.states,
        BLOCK_N=constants["BLOCK_N"],
        BLOCK_E=LANES,
        BACKWARDS=backwards,
        num_warps=1,
    )
    return states


def forward(
    problem: Problem, save_checkpoints: bool, out_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See :mod:`..problem`. The checkpoints are laid out as (B, K, chunks, N, E)."""
    from . import forward as kernels

    u, delta, A, B, C, D, z, delta_bias = problem.tensors
    launch = _plan(problem, backwards=False)
    y = torch.empty(delta.shape, dtype=out_dtype, device=delta.device)
    last_state = A.new_empty(problem.batch, *A.shape)
    checkpoints = A.new_empty(problem.checkpoint_numel if save_checkpoints else 0)
    if problem.batch == 0:
        return y, last_state, checkpoints
    A = A.transpose(1, 2).contiguous()  # (K, N, E): lanes are channels
    with torch.cuda.device_of(delta):
        starts = _scan_segments(launch, problem, u, A, B, None, backwards=False)
        kernels.forward_kernel[(launch.programs,)](
            u,
            delta,
            A,
            B,
            C,
            D,
            z,
            delta_bias,
            starts,
            y,
            last_state,
            checkpoints,
            **_strides("u", u, "blk"),
            **_strides("delta", delta, "blk"),
            **_strides("z", z, "bl"),
            **_strides("y", y, "blk"),
            **_strides("B", B, "blkg"),
            **_strides("C", C, "blkg"),
            **launch.integers(),
            **launch.constants(),
            CHUNK=CHUNK,
            SOFTPLUS=problem.softplus,
            SAVE=save_checkpoints,
        )
    return y, last_state, checkpoints


def backward(
    dy: torch.Tensor, dlast_state: torch.Tensor | None, problem: Problem, checkpoints: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """See :mod:`..problem`. What several programs add to is written as partial sums, which are then added in order."""
    from . import backward as kernels

    u, delta, A, B, C, D, z, delta_bias = problem.tensors
    batch, channels, K = problem.batch, problem.channels, len(problem.routes)
    launch = _plan(problem, backwards=True)
    partial = {"dtype": torch.float32, "device": delta.device}
    du = torch.empty(delta.shape, dtype=u.dtype if u.shape[2] == K else torch.float32, device=delta.device)
    ddelta = torch.empty(delta.shape, dtype=delta.dtype, device=delta.device)
    dz = None
    if z is not None:
        dz = torch.empty(delta.shape, dtype=z.dtype if K == 1 else torch.float32, device=delta.device)
    dB = torch.empty(launch.blocks_per_group, *B.shape, **partial)
    dC = torch.empty(launch.blocks_per_group, *C.shape, **partial)
    dA = torch.empty(batch * launch.segments, K, launch.states, channels, **partial)
    dD = None if D is None else torch.empty(batch * launch.segments, K, channels, **partial)
    dbias = None if delta_bias is None else torch.empty(batch * launch.segments, K, channels, **partial)
    A_rows = A.transpose(1, 2).contiguous()  # (K, N, E)
    if dlast_state is not None:
        dlast_state = dlast_state.float().contiguous()
    if batch > 0:
        alpha = torch.empty(launch.programs * CHUNK * launch.block_e, **partial)
        with torch.cuda.device_of(delta):
            carries = _scan_segments(launch, problem, dy, A_rows, C, dlast_state, backwards=True)
            kernels.backward_kernel[(launch.programs,)](
                dy,
                dlast_state,
                carries,
                u,
                delta,
                A_rows,
                B,
                C,
                D,
                z,
                delta_bias,
                checkpoints,
                alpha,
                du,
                ddelta,
                dz,
                dB,
                dC,
                dA,
                dD,
                dbias,
                **_strides("dy", dy, "blk"),
                **_strides("u", u, "blk"),
                **_strides("delta", delta, "blk"),
                **_strides("z", z, "bl"),
                **_strides("B", B, "blkg"),
                **_strides("C", C, "blkg"),
                **launch.integers(),
                groups=launch.groups,
                batch=batch,
                **launch.constants(),
                CHUNK=CHUNK,
                SOFTPLUS=problem.softplus,
            )
    return (
        du if u.shape[2] == K else du.sum(2, keepdim=True).to(u.dtype),
        ddelta,
        dA.sum(0).transpose(1, 2).contiguous(),
        dB.sum(0).to(B.dtype),
        dC.sum(0).to(C.dtype),
        None if dD is None else dD.sum(0),
        None if dz is None else (dz.squeeze(2) if K == 1 else dz.sum(2).to(z.dtype)),
        None if dbias is None else dbias.sum(0),
    )
