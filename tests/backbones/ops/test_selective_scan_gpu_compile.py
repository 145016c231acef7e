"""The Triton kernels compiled for sm_90, without a GPU, by the very calls that would launch them.

Machine code tells what a test on a CPU cannot: that the states stay in registers with one channel per lane (a loop
that exchanges them through shared memory computes the same), that rows are fetched ahead, and what a step costs. The
budgets are a few per cent above what was counted when the kernels were written, so that a regression shows.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from mixerzoo.backbones.ops.selective_scan.gpu import launch  # noqa: E402
from mixerzoo.backbones.ops.selective_scan.problem import Problem  # noqa: E402

TARGET = triton.backends.compiler.GPUTarget("cuda", 90, 32)
pytestmark = pytest.mark.skipif(
    not Path(triton.knobs.nvidia.nvdisasm.path).exists(), reason="Triton came without NVIDIA's disassembler"
)


class OfflineDriver:
    """Just enough of a driver for Triton to compile as if for an H100 or H200."""

    def get_current_target(self) -> Any:
        return TARGET

    def get_current_device(self) -> int:
        return -1  # compiled kernels are kept per device: these stay apart from those of a real one

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Name and compiled kernel of each launch, none of which happens."""
    launched = []
    run = triton.runtime.jit.JITFunction.run

    def compile_only(self: Any, *args: Any, warmup: bool, **kwargs: Any) -> Any:
        kernel = run(self, *args, warmup=True, **kwargs)
        launched.append((self.__name__, kernel))
        return kernel

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", compile_only)
    monkeypatch.setattr(launch, "_processors", lambda device: 132)
    monkeypatch.setattr(triton.runtime.driver, "_active", OfflineDriver())
    return launched


def scan(
    batch: int,
    grid: tuple[int, int],
    routes: tuple[int, ...],
    channels: int,
    states: int,
    gate: bool = True,
    offset: int = 0,
    backwards: bool = True,
) -> None:
    """Launches forward and backward on bfloat16 tensors without memory; B and C follow ``offset`` elements in a row."""
    length, K = grid[0] * grid[1], len(routes)
    half = {"dtype": torch.bfloat16, "device": "meta"}
    u = torch.empty(batch, length, 1, channels, **half)
    delta = torch.empty(batch, length, K, channels, **half)
    A, D, delta_bias = torch.empty(K, channels, states, device="meta"), *torch.empty(2, K, channels, device="meta")
    row = torch.empty(batch, length, K, 1, offset + 2 * states, **half)
    B, C = row[..., offset : offset + states], row[..., offset + states :]
    z = torch.empty(batch, length, channels, **half) if gate else None
    problem = Problem(u, delta, A, B, C, D, z, delta_bias, True, routes, grid)
    y, _, checkpoints = launch.forward(problem, backwards, torch.float32)
    if backwards:
        launch.backward(y, None, problem, checkpoints)


@dataclass(frozen=True)
class Code:
    """Machine code of a kernel."""

    registers: int
    stack: int  # bytes, of spilled registers
    loops: list[list[str]]  # instructions of the innermost loops, in order, predicates removed

    @classmethod
    def of(cls, kernel: Any, tmp_path: Path) -> Code:
        path = tmp_path / "kernel.cubin"
        path.write_bytes(kernel.asm["cubin"])
        usage = _tool("cuobjdump", "-res-usage", path)
        registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
        return cls(int(registers), int(stack), _innermost_loops(_tool("nvdisasm", "-c", path)))


def _tool(name: str, *arguments: object) -> str:
    command = [getattr(triton.knobs.nvidia, name).path, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _innermost_loops(sass: str) -> list[list[str]]:
    instructions, labels, loops = [], {}, []
    for line in sass.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?(.*?)\s*;", line):
            instructions.append(instruction[1])
            target = re.match(r"BRA.*`\((\.L_x_\d+)\)", instruction[1])
            if target and labels.get(target[1], len(instructions)) < len(instructions) - 1:
                loops.append((labels[target[1]], len(instructions)))
    inner = [a for a in loops if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in loops)]
    return [instructions[first:last] for first, last in inner]


def count(loop: list[str], *names: str) -> int:
    return sum(instruction.split(".")[0].split()[0] in names for instruction in loop)


def fetched_ahead(loop: list[str]) -> int:
    """Least number of instructions between a load from global memory and the first use of what it loaded."""
    distances = []
    for i, instruction in enumerate(loop):
        if load := re.match(r"LDG\S* (R\d+)", instruction):
            following = loop[i + 1 :] + loop[: i + 1]
            uses = (j for j, other in enumerate(following, 1) if load[1] in re.findall(r"\bR\d+\b", other)[1:])
            distances.append(next(uses))
    return min(distances)


def butterfly(values: int) -> int:
    """Shuffles that add ``values`` values over 32 lanes."""
    return sum(max(1, values >> stage) for stage in range(1, 6))


def check_loop(loop: list[str], steps: int, channels_per_lane: int, budget: float, shuffles: int) -> None:
    """``budget`` is in instructions per step and channel."""
    assert len(loop) <= budget * steps * channels_per_lane
    assert count(loop, "SHFL") == shuffles
    assert count(loop, "LDS", "STS", "BAR", "LDL", "STL") <= 0.02 * len(loop)
    assert fetched_ahead(loop) >= 50


@pytest.fixture
def code(launches: list[tuple[str, Any]], tmp_path: Path) -> Callable[..., dict[str, Code]]:
    """Code of every kernel that a call of :func:`scan` launches."""

    def compiled(*args: Any, **kwargs: Any) -> dict[str, Code]:
        scan(*args, **kwargs)
        return {name: Code.of(kernel, tmp_path) for name, kernel in launches}

    return compiled


def test_sixteen_states(code: Callable[..., dict[str, Code]]) -> None:
    kernels = code(128, (1, 197), (0,), 384, 16, offset=12)
    assert set(kernels) == {"forward_kernel", "backward_kernel"}
    forward, backward = kernels["forward_kernel"], kernels["backward_kernel"]
    assert forward.stack == 0
    assert forward.registers <= 128
    (loop,) = forward.loops
    check_loop(loop, steps=2, channels_per_lane=1, budget=11.5 * 16, shuffles=2 * 2 * 16)
    assert count(loop, "LDS", "STS", "BAR", "LDL", "STL") == 0
    assert backward.stack <= 32
    assert backward.registers <= 168
    for loop in backward.loops:
        check_loop(loop, steps=1, channels_per_lane=1, budget=22.5 * 16, shuffles=2 * 16 + butterfly(16))


def test_one_state_and_four_routes(code: Callable[..., dict[str, Code]]) -> None:
    kernels = code(256, (56, 56), (0, 2, 1, 3), 192, 1, gate=False)
    forward, backward = kernels["forward_kernel"], kernels["backward_kernel"]
    assert forward.stack == 0
    (loop,) = forward.loops
    check_loop(loop, steps=4, channels_per_lane=2, budget=43, shuffles=2 * 4)
    sweeps = backward.loops
    assert len(sweeps) == 2
    for loop, budget in zip(sweeps, (60, 81), strict=True):
        check_loop(loop, steps=2, channels_per_lane=2, budget=budget, shuffles=2 * 2 + butterfly(2))


def test_two_channels_per_lane(code: Callable[..., dict[str, Code]]) -> None:
    (forward,) = code(512, (1, 197), (0,), 384, 16, backwards=False).values()
    assert forward.stack == 0
    assert forward.registers <= 168
    (loop,) = forward.loops
    check_loop(loop, steps=2, channels_per_lane=2, budget=9.6 * 16, shuffles=2 * 2 * 16)


def test_split_sequence(code: Callable[..., dict[str, Code]]) -> None:
    kernels = code(1, (64, 64), (1,), 384, 16, backwards=False)
    assert set(kernels) == {"segment_kernel", "carry_kernel", "forward_kernel"}
    segment = kernels["segment_kernel"]
    assert segment.stack == 0
    (loop,) = segment.loops
    check_loop(loop, steps=2, channels_per_lane=1, budget=8.5 * 16, shuffles=2 * 16)


def test_compiles_once_for_every_size(launches: list[tuple[str, Any]]) -> None:
    scan(2, (1, 197), (0,), 384, 16)
    scan(64, (1, 1024), (0,), 768, 16, offset=7)  # another resolution, batch and model; unaligned B and C
    kernels = {name: {id(kernel) for other, kernel in launches if other == name} for name, _ in launches}
    assert {name: len(versions) for name, versions in kernels.items()} == {"forward_kernel": 1, "backward_kernel": 1}
