"""The Triton kernels against the recurrence in float64, under Triton's interpreter or on a GPU.

TRITON_INTERPRET=1 must be set before Triton is imported, which PyTorch may have done: so without a GPU one test runs
this file again in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch
from mixerzoo.backbones.ops.cross_scan import VMAMBA_ROUTES
from mixerzoo.backbones.ops.selective_scan import reference, selective_scan, selective_scan_2d
from mixerzoo.backbones.ops.selective_scan.gpu import launch
from mixerzoo.backbones.ops.selective_scan.problem import Problem

pytest.importorskip("triton", reason="Triton is not installed")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NATIVE = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if NATIVE else "cpu"
runs_kernels = pytest.mark.skipif(not (INTERPRETED or NATIVE), reason="run by test_under_the_interpreter")
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


@pytest.mark.slow
def test_under_the_interpreter() -> None:
    if INTERPRETED:
        pytest.skip("this is it")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-m", "", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@dataclass(frozen=True)
class Case:
    """A canonical problem; ``shared`` is Ku = 1."""

    routes: tuple[int, ...] = (0,)
    grid: tuple[int, int] = (1, 5)
    batch: int = 1
    channels: int = 3
    states: int = 2
    groups: int = 1
    shared: bool = True
    options: bool = True  # D, z and delta_bias
    softplus: bool = True
    dlast_state: bool = True
    dtype: torch.dtype = torch.float32

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """u, delta, A, B, C, D, z, delta_bias; what is read where it lies lies between NaNs, with odd strides."""
        batch, length, K = self.batch, self.grid[0] * self.grid[1], len(self.routes)
        E, N = self.channels, self.states
        u = torch.randn(batch, length, 1 if self.shared else K, E)
        delta = torch.randn(batch, length, K, E) - 1
        A = -0.1 - 2 * torch.rand(K, E, N)
        B, C = torch.randn(2, batch, length, K, self.groups, N)
        D = z = delta_bias = None
        if self.options:
            D, z, delta_bias = torch.randn(K, E), torch.randn(batch, length, E), torch.randn(K, E)
        u, delta, B, C, z = (None if x is None else between_nans(x.to(self.dtype)) for x in (u, delta, B, C, z))
        return tuple(None if x is None else x.to(DEVICE) for x in (u, delta, A, B, C, D, z, delta_bias))


def between_nans(x: torch.Tensor) -> torch.Tensor:
    """``x`` (B, L, ...) as a view of a larger tensor that is NaN elsewhere."""
    around = torch.full((x.shape[0], x.shape[1] + 2, *x.shape[2:-1], x.shape[-1] + 3), float("nan"), dtype=x.dtype)
    view = around.to(DEVICE)[:, 1:-1, ..., 1:-2]
    return view.copy_(x)


def solve(case: Case, tensors: tuple[torch.Tensor | None, ...], dy: torch.Tensor, dlast_state: torch.Tensor | None):
    """y, last_state and the gradients of the kernels."""
    problem = Problem(*tensors, case.softplus, case.routes, case.grid)
    y, last_state, checkpoints = launch.forward(problem, True, torch.float32)
    return y, last_state, *launch.backward(dy, dlast_state, problem, checkpoints)


def expected(case: Case, tensors: tuple[torch.Tensor | None, ...], dy: torch.Tensor, dlast_state: torch.Tensor | None):
    """The same in float64, by the recurrence and autograd."""
    leaves = [None if x is None else x.detach().double().requires_grad_() for x in tensors]
    y, last_state = reference.scan(Problem(*leaves, case.softplus, case.routes, case.grid), torch.float64)
    loss = (y * dy.double()).sum()
    if dlast_state is not None:
        loss = loss + (last_state * dlast_state.double()).sum()
    grads = iter(torch.autograd.grad(loss, [x for x in leaves if x is not None]))
    return y.detach(), last_state.detach(), *(None if x is None else next(grads) for x in leaves)


def check(case: Case, forward: float = 1e-5, backward: float = 2e-5) -> None:
    tensors = case.tensors()
    delta, A = tensors[1:3]
    dy = torch.randn(*delta.shape[:2], 1, delta.shape[3], device=DEVICE).expand(delta.shape)  # as the dispatch does
    dlast_state = torch.randn(case.batch, *A.shape, device=DEVICE) if case.dlast_state else None
    actual = solve(case, tensors, dy, dlast_state)
    wanted = expected(case, tensors, dy, dlast_state)
    for name, x, got, want in zip(("y", "last_state", *NAMES), (None, None, *tensors), actual, wanted, strict=True):
        if want is None:
            assert got is None, name
            continue
        assert got.shape == want.shape, name
        assert got.is_contiguous(), name
        assert got.dtype == (torch.float32 if x is None else x.dtype), name
        error = (got.double() - want).abs().max() / want.abs().max().clamp_min(0.1)  # dA of a single step is 0
        assert error <= (forward if x is None else backward), f"{name}: {error:.1e}"  # a NaN fails, too


CASES = {
    "more than a chunk": Case(grid=(1, 35), channels=5, states=3),
    "reversed, nothing optional": Case(routes=(1,), states=1, options=False, softplus=False, dlast_state=False),
    "four routes of one image": Case(routes=(0, 2, 1, 3), grid=(2, 3), channels=33),
    "an image per route, groups": Case(routes=(3, 2), grid=(3, 2), channels=4, groups=2, states=1, shared=False),
    "one step": Case(grid=(1, 1), batch=2, states=4),
    "a group per channel": Case(grid=(1, 3), channels=2, groups=2),
    "sixteen states": Case(grid=(1, 4), channels=32, states=16),
    "more states than lanes": Case(grid=(1, 2), states=40),
}


@runs_kernels
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_and_gradients(case: Case) -> None:
    check(case)


@runs_kernels
def test_two_channels_per_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "FORWARD_WARPS", 0)
    monkeypatch.setattr(launch, "BACKWARD_WARPS", 0)
    monkeypatch.setattr(launch, "segment_length", lambda length, *_: length)
    check(Case(grid=(1, 5), channels=64, states=2))


@runs_kernels
@pytest.mark.parametrize(
    "case",
    [Case(grid=(1, 37), states=1), Case(routes=(3,), grid=(5, 7), channels=2, states=1, dlast_state=False)],
    ids=["one route", "columns"],
)
def test_split_sequence(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "segment_length", lambda *_: 32)
    check(case)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    # The interpreter truncates where a GPU rounds to nearest.
    ulp = torch.finfo(dtype).eps
    check(Case(grid=(1, 4), dtype=dtype), backward=2 * ulp)


@runs_kernels
def test_large_steps_that_forget_the_state() -> None:
    case = Case(grid=(1, 33), channels=2, states=1, options=False)
    u, delta, A, *rest = case.tensors()
    tensors = (u, 40 + 40 * delta.abs(), A, *rest)
    dy = torch.randn(delta.shape, device=DEVICE)
    for name, got, want in zip(
        ("y", "last_state", *NAMES), solve(case, tensors, dy, None), expected(case, tensors, dy, None), strict=True
    ):
        if want is not None and name != "A":  # dL/dA is all but zero
            torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-5 * float(want.abs().max()), msg=name)
        elif name == "A":
            assert float((got - want).abs().max()) < 1e-3


@runs_kernels
@pytest.mark.unpoisoned
@pytest.mark.parametrize("gigabytes", [1.5, 2.5], ids=["stride of 32 bits", "stride of 64 bits"])
def test_rows_far_apart(gigabytes: float) -> None:
    case = Case(grid=(1, 4), states=1)
    tensors = case.tensors()
    dy = torch.randn(tensors[1].shape, device=DEVICE)
    near = solve(case, tensors, dy, None)
    stride = int(gigabytes * 2**30) // 4
    storage = torch.empty(4 * stride, device=DEVICE)  # only the pages that are written take memory
    u = storage.as_strided((1, 4, 1, 3), (0, stride, 0, 1)).copy_(tensors[0])
    far = solve(case, (u, *tensors[1:]), dy, None)
    assert all(torch.equal(one, two) for one, two in zip(near, far, strict=True))


@runs_kernels
def test_bitwise_reproducible() -> None:
    case = Case(routes=(0, 1), grid=(1, 2), channels=40, states=1)
    tensors = case.tensors()
    dy, dlast_state = torch.randn(tensors[1].shape, device=DEVICE), torch.randn(1, *tensors[2].shape, device=DEVICE)
    first, second = (solve(case, tensors, dy, dlast_state) for _ in range(2))
    for name, one, two in zip(("y", "last_state", *NAMES), first, second, strict=True):
        assert torch.equal(one, two), name


@runs_kernels
def test_empty_batch() -> None:
    case = Case(batch=0)
    tensors = case.tensors()
    y, last_state, *grads = solve(case, tensors, torch.zeros_like(tensors[1]), None)
    assert y.shape == (0, 5, 1, 3)
    assert last_state.shape == (0, 1, 3, 2)
    for x, grad in zip(tensors, grads, strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


@runs_kernels
def test_public_functions() -> None:
    leaves = [
        x.to(DEVICE).requires_grad_()
        for x in (
            torch.randn(1, 3, 4),
            torch.randn(1, 3, 4),
            -torch.rand(3, 2),
            torch.randn(1, 2, 4),
            torch.randn(3, 2),
        )
    ]
    results = []
    for backend in ("triton", "reference"):
        y, state = selective_scan(*leaves, delta_softplus=True, return_last_state=True, backend=backend, reverse=True)
        results.append((y, state, *torch.autograd.grad(y.square().sum() + state.sum(), leaves)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)

    K = len(VMAMBA_ROUTES)
    image = [
        x.to(DEVICE)
        for x in (
            torch.randn(1, 2, 2, 3),
            torch.randn(1, 2, 2, K, 3),
            -torch.rand(K, 3, 1),
            *torch.randn(2, 1, 2, 2, K, 1),
        )
    ]
    got, want = (selective_scan_2d(*image, delta_softplus=True, backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes CPU tensors")
def test_names_what_is_missing() -> None:
    reason = launch.unavailable(torch.device("cpu"))
    assert "GPU" in reason
    assert "backend=" in reason
    assert "\n" not in reason
    x = torch.randn(1, 2, 3)
    with pytest.raises(ValueError, match="needs a GPU"):
        selective_scan(x, x, -torch.rand(2, 1), x[:, :1], x[:, :1], backend="triton")


@pytest.mark.parametrize(
    ("length", "programs", "warps", "least", "segments"),
    [
        (197, 12, 2112, 4, 1),  # too short
        (4000, 24, 2112, 4, 15),  # detection: at least SEGMENT steps each
        (16384, 96, 2112, 4, 22),  # as many programs as fill the GPU
        (16384, 768, 2112, 4, 1),  # full enough
        (1 << 20, 1, 2112, 2, 2048),
    ],
)
def test_segment_length(length: int, programs: int, warps: int, least: int, segments: int) -> None:
    segment = launch.segment_length(length, programs, warps, least)
    count = -(-length // segment)
    assert segment == length or segment % 32 == 0
    assert count == segments or (segments > 1 and 0 <= segments - count <= segments // 8)


LARGE = {
    "vim": Case(grid=(1, 197), batch=3, channels=384, states=16),
    "vmamba": Case(routes=(0, 2, 1, 3), grid=(28, 29), batch=2, channels=192, states=1),
    "detection": Case(grid=(1, 4001), batch=1, channels=96, states=16),
    "sixty-four states": Case(routes=(1,), grid=(1, 130), batch=2, channels=80, states=64, groups=2),
    "full": Case(routes=(0, 1), grid=(1, 70), batch=64, channels=1536, states=2),
}


@pytest.mark.gpu
@pytest.mark.skipif(not NATIVE, reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE)
def test_large_shapes_on_a_gpu(case: Case, dtype: torch.dtype) -> None:
    case = replace(case, dtype=dtype)
    backward = 2e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    check(case, backward=backward)
    tensors = case.tensors()
    dy = torch.randn(tensors[1].shape, device=DEVICE)
    first, second = (solve(case, tensors, dy, None) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
