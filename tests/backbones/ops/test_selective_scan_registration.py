"""The scan as PyTorch sees it: registration, compile, export, autocast, FLOP counts, second derivatives."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from mixerzoo.backbones.ops.common import SCAN_FLOPS
from mixerzoo.backbones.ops.cross_scan import VMAMBA_ROUTES
from mixerzoo.backbones.ops.selective_scan import selective_scan, selective_scan_2d
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

OPS = torch.ops.mixerzoo
BACKENDS = ["cpu", "torch"]


def sequence(batch: int = 2, channels: int = 5, length: int = 70, states: int = 3) -> list[torch.Tensor]:
    """u, delta, A, B, C, D, z, delta_bias."""
    r = torch.randn
    activations = [r(batch, length, n).transpose(1, 2) for n in (channels, channels, states, states, channels)]
    u, delta, B, C, z = activations
    return [u, delta, -torch.rand(channels, states), B, C, r(channels), z, r(channels)]


def image(batch: int = 2, height: int = 5, width: int = 7, channels: int = 5, states: int = 2) -> list[torch.Tensor]:
    r, pixels = torch.randn, (batch, height, width)
    return [
        *(r(*pixels, channels), r(*pixels, 4, channels), -torch.rand(4, channels, states)),
        *(r(*pixels, 4, states), r(*pixels, 4, states), r(4, channels), r(*pixels, channels), r(4, channels)),
    ]


def canonical(tensors: list[torch.Tensor | None], backend: str, grid: tuple[int, int] | None = None) -> tuple:
    """The arguments of selective_scan_fwd for a sequence, or an image on ``grid``."""
    u, delta, A, B, C, D, z, bias = tensors
    if grid is None:
        time_first = [None if x is None else x.transpose(1, 2) for x in (u, delta, B, C, z)]
        u, delta, B, C, z = time_first
        A, D, bias = (None if x is None else x.unsqueeze(0) for x in (A, D, bias))
        problem = (u.unsqueeze(2), delta.unsqueeze(2), A, B[:, :, None, None], C[:, :, None, None], D, z, bias)
        return (*problem, True, [0], 1, u.shape[1], None, backend)
    problem = (u.flatten(1, 2).unsqueeze(2), delta.flatten(1, 2), A, *(x.flatten(1, 2).unsqueeze(3) for x in (B, C)))
    return (*problem, D, z.flatten(1, 2), bias, True, [0, 2, 1, 3], *grid, torch.float32, backend)


def without(tensors: list[torch.Tensor], *positions: int) -> list[torch.Tensor | None]:
    return [None if i in positions else x for i, x in enumerate(tensors)]


def requiring_grad(tensors: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    return [x if x is None else x.detach().requires_grad_() for x in tensors]


@pytest.mark.unpoisoned
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["sequence", "bare", "image"])
def test_opcheck(backend: str, kind: str) -> None:
    """Schema, fakes, autograd key and AOT dispatch of the three ops."""
    tensors = {"sequence": sequence(), "bare": without(sequence(), 5, 6, 7), "image": image()}[kind]
    arguments = canonical(tensors, backend, (5, 7) if kind == "image" else None)
    leaves = (*requiring_grad(arguments[:8]), *arguments[8:])
    torch.library.opcheck(OPS.selective_scan_fwd, leaves)
    torch.library.opcheck(OPS.selective_scan_infer, arguments)
    y, state, checkpoints = OPS.selective_scan_fwd(*arguments)
    dy = y.unsqueeze(2).expand(arguments[1].shape)
    for dlast_state in (None, state):
        torch.library.opcheck(OPS.selective_scan_bwd, (dy, dlast_state, *arguments[:12], checkpoints, backend))


def loss_of(scan: Callable[..., torch.Tensor], **options: object) -> Callable[..., torch.Tensor]:
    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        out, state = scan(*inputs, True, True, **options)
        return out.square().mean() + state.square().mean()

    return loss


@pytest.mark.unpoisoned
@pytest.mark.parametrize("kind", ["sequence", "image"])
def test_compile_without_graph_breaks(kind: str) -> None:
    """Forward and training step."""
    torch._dynamo.reset()
    scan, inputs = (selective_scan, sequence()) if kind == "sequence" else (selective_scan_2d, image())
    loss = loss_of(scan)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), loss(*inputs))
    leaves = requiring_grad(inputs)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)


@pytest.mark.slow
@pytest.mark.unpoisoned
def test_compile_with_inductor() -> None:
    """A training step; 10 to 30 s, nearly all of it the C++ compiler."""
    torch._dynamo.reset()
    loss, leaves = loss_of(selective_scan), requiring_grad(sequence())
    compiled = torch.compile(loss, fullgraph=True)
    expected = torch.autograd.grad(loss(*leaves), leaves)
    torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)


@pytest.mark.unpoisoned
def test_compile_with_dynamic_length() -> None:
    torch._dynamo.reset()
    loss = loss_of(selective_scan)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (40, 33, 7, 100):
        leaves = requiring_grad(sequence(length=length))
        expected = torch.autograd.grad(loss(*leaves), leaves)
        torch.testing.assert_close(torch.autograd.grad(compiled(*leaves), leaves), expected)


class Scan(torch.nn.Module):
    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return selective_scan(*inputs, True, True)


class Scan2d(torch.nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return selective_scan_2d(*inputs, True)


@pytest.mark.unpoisoned
@pytest.mark.parametrize("grad", [False, True])
def test_export_with_dynamic_batch_and_length(grad: bool) -> None:
    """One node through run_decompositions, and any batch and length, below one chunk of 32 steps, too."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    activation = {0: batch, 2: length}
    shapes = (activation, activation, {}, activation, activation, {}, activation, {})
    with torch.set_grad_enabled(grad):
        program = torch.export.export(Scan(), tuple(sequence()), dynamic_shapes=(shapes,)).run_decompositions()
    assert sum("mixerzoo" in str(node.target) for node in program.graph.nodes) == 1
    for sizes in ((1, 1), (3, 2), (1, 31), (2, 32), (4, 129)):
        inputs = sequence(batch=sizes[0], length=sizes[1])
        torch.testing.assert_close(program.module()(*inputs), Scan()(*inputs))


@pytest.mark.unpoisoned
def test_export_2d_with_dynamic_grid() -> None:
    batch, height, width = (torch.export.Dim(name, min=2) for name in ("batch", "height", "width"))
    pixels = {0: batch, 1: height, 2: width}
    shapes = (pixels, pixels, {}, pixels, pixels, {}, pixels, {})
    program = torch.export.export(Scan2d(), tuple(image()), dynamic_shapes=(shapes,)).run_decompositions()
    for batch_size, rows, columns in ((2, 5, 7), (3, 8, 2), (2, 3, 11)):
        inputs = image(batch_size, rows, columns)
        torch.testing.assert_close(program.module()(*inputs), Scan2d()(*inputs))


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_autocast(backend: str) -> None:
    """Activations in the autocast dtype, parameters, state and their gradients in float32."""
    inputs = requiring_grad(sequence())
    with torch.autocast("cpu", torch.bfloat16):
        out, state = selective_scan(*inputs, True, True, backend)
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    halves = [x if i in (2, 5, 7) else x.bfloat16() for i, x in enumerate(inputs)]
    expected, expected_state = selective_scan(*halves, True, True, backend)
    torch.testing.assert_close((out, state), (expected, expected_state), rtol=0, atol=0)
    assert {grad.dtype for grad in torch.autograd.grad(out.float().sum(), inputs)} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):  # float64 is left alone, as by every op
        assert selective_scan(*[x.double() for x in inputs], True, backend=backend).dtype == torch.float64


@pytest.mark.unpoisoned
def test_autocast_is_traced() -> None:
    torch._dynamo.reset()
    inputs = sequence()
    compiled = torch.compile(lambda *x: selective_scan(*x, True), fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(*inputs), selective_scan(*inputs, True))


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_double_backward_is_a_clear_error(backend: str) -> None:
    u, *rest = requiring_grad(sequence())
    message = rf"selective_scan\(backend='{backend}'\) has no double backward; use backend='reference'"
    for reduce in (torch.sum, lambda out: out.square().sum()):  # the gradient of the output is constant, or is not
        out = selective_scan(u, *rest, True, backend=backend)
        (grad,) = torch.autograd.grad(reduce(out), u, create_graph=True)
        with pytest.raises(RuntimeError, match=message):
            torch.autograd.grad(grad.sum(), u)


def test_only_what_is_asked_for() -> None:
    """Frozen parameters: the others' gradients are those of the full call."""
    inputs = sequence()
    leaves = requiring_grad(inputs)
    full = torch.autograd.grad(selective_scan(*leaves, True).sum(), leaves)
    frozen = [x if i in (0, 3) else x.detach() for i, x in enumerate(leaves)]
    some = torch.autograd.grad(selective_scan(*frozen, True).sum(), [leaves[0], leaves[3]])
    assert torch.equal(some[0], full[0])
    assert torch.equal(some[1], full[3])


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_meta_tensors(backend: str) -> None:
    out, state = selective_scan(*[x.to("meta") for x in sequence()], True, True, backend=backend)
    assert (out.shape, state.shape, out.device.type) == ((2, 5, 70), (2, 5, 3), "meta")
    assert out.stride() == selective_scan(*sequence(), True, backend=backend).stride()


def test_fake_tensors() -> None:
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in image()]
        assert selective_scan_2d(*fakes, True).shape == (2, 5, 7, 5)


class Number:
    """A float that counts the arithmetic done with it."""

    flops = 0

    def __init__(self, value: float) -> None:
        self.value = value

    def _counted(self, value: float) -> Number:
        Number.flops += 1
        return Number(value)

    def __add__(self, other: Number) -> Number:
        return self._counted(self.value + other.value)

    def __rsub__(self, other: int) -> Number:
        return self._counted(other - self.value)

    def __mul__(self, other: Number) -> Number:
        return self._counted(self.value * other.value)

    def one_plus(self) -> Number:
        return self._counted(1 + self.value)

    def inverse(self) -> Number:
        return self._counted(1 / self.value)

    def exp(self) -> Number:
        return self._counted(math.exp(self.value))

    def log1p(self) -> Number:
        return self._counted(math.log1p(self.value))

    def sigmoid(self) -> Number:
        return Number(-self.value).exp().one_plus().inverse()  # a sign is no FLOP


def numbers(values: object) -> object:
    return [numbers(v) for v in values] if isinstance(values, list) else Number(values)


def count(tensors: list[torch.Tensor | None], backward: bool) -> tuple[int, float]:
    """The recurrence and its gradients in scalars: FLOPs, and the sum of what was computed last (y or du)."""
    batch, channels, length = tensors[0].shape
    u, delta, A, B, C, D, z, bias = (None if x is None else numbers(x.tolist()) for x in tensors)
    states = range(len(A[0]))
    dC = [[[Number(0.0) for _ in range(length)] for _ in states] for _ in range(batch)]
    dB = [[[Number(0.0) for _ in range(length)] for _ in states] for _ in range(batch)]
    dA = [[Number(0.0) for _ in states] for _ in range(channels)]
    dD, dbias, Number.flops, total = ([Number(0.0)] * channels, [Number(0.0)] * channels, 0, 0.0)
    for b in range(batch):
        for e in range(channels):
            h, steps = [Number(0.0) for _ in states], []
            for t in range(length):
                p = delta[b][e][t] if bias is None else delta[b][e][t] + bias[e]
                dt = p.exp().log1p()
                dtu = dt * u[b][e][t]
                a = [(dt * A[e][n]).exp() for n in states]
                before, h = h, [a[n] * h[n] + dtu * B[b][n][t] for n in states]
                y = Number(0.0)
                if not backward or z is not None:
                    for n in states:
                        y = y + C[b][n][t] * h[n]
                    if D is not None:
                        y = y + D[e] * u[b][e][t]
                if not backward and z is not None:
                    y = y * (z[b][e][t] * z[b][e][t].sigmoid())
                steps.append((p, dt, dtu, a, before, h, y))
                total += 0.0 if backward else y.value
            mu = [Number(0.0) for _ in states]
            for t in reversed(range(length) if backward else ()):
                p, dt, dtu, a, before, h, y = steps[t]
                g = dy = Number(1.0)
                if z is not None:
                    s = z[b][e][t].sigmoid()
                    g = dy * (z[b][e][t] * s)
                    dz = Number(0.0)
                    dz = dz + dy * (y * (s * (z[b][e][t] * (1 - s)).one_plus()))
                through_x, through_a = Number(0.0), Number(0.0)
                for n in states:
                    lam = g * C[b][n][t] + mu[n]
                    mu[n] = a[n] * lam
                    through_x = through_x + lam * B[b][n][t]
                    dC[b][n][t] = dC[b][n][t] + g * h[n]
                    dB[b][n][t] = dB[b][n][t] + lam * dtu
                    q = mu[n] * before[n]
                    through_a = through_a + A[e][n] * q
                    dA[e][n] = dA[e][n] + dt * q
                du = through_x * dt
                if D is not None:
                    du = du + D[e] * g
                    dD[e] = dD[e] + g * u[b][e][t]
                ddelta = (through_x * u[b][e][t] + through_a) * p.sigmoid()
                if bias is not None:
                    dbias[e] = dbias[e] + ddelta
                total += du.value
    return Number.flops, total


@pytest.mark.parametrize("absent", [(), (5,), (6,), (7,), (5, 6, 7)], ids=str)
def test_flops_are_those_of_the_recurrence(absent: tuple[int, ...]) -> None:
    """The registered exact counts against scalars that count themselves (and compute the right thing)."""
    tensors = without([x.double() for x in sequence(2, 3, 4, 5)], *absent)
    leaves = requiring_grad(tensors)
    with FlopCounterMode(display=False) as counter:
        out = selective_scan(*leaves, True)
        (du,) = torch.autograd.grad(out.sum(), leaves[0])
    counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
    forward, backward = count(tensors, backward=False), count(tensors, backward=True)
    assert counts["mixerzoo.selective_scan_fwd"] == forward[0]
    assert counts["mixerzoo.selective_scan_bwd"] == backward[0]
    assert math.isclose(out.sum().item(), forward[1], rel_tol=1e-9)
    assert math.isclose(du.sum().item(), backward[1], rel_tol=1e-9)


def test_flops_add_up_over_routes() -> None:
    """K routes cost K sequences, the addition of their outputs and, for a shared x, of its gradients."""
    inputs = image()
    batch, height, width, channels = inputs[0].shape
    length, K = height * width, len(VMAMBA_ROUTES)
    with FlopCounterMode(display=False) as images:
        selective_scan_2d(*requiring_grad(inputs), True).sum().backward()
    with FlopCounterMode(display=False) as sequences:
        selective_scan(*requiring_grad(sequence(batch, channels, length, 2)), True).sum().backward()
    images, sequences = ({str(k): v for k, v in c.get_flop_counts()["Global"].items()} for c in (images, sequences))
    one = batch * length * channels
    forward, backward = "mixerzoo.selective_scan_fwd", "mixerzoo.selective_scan_bwd"
    assert images[forward] == K * sequences[forward] + (K - 1) * one
    assert images[backward] == K * sequences[backward] + K * one


@pytest.mark.parametrize("absent", [(), (5,), (6,), (5, 6)], ids=str)
def test_flops_as_papers_count_them(absent: tuple[int, ...]) -> None:
    """9·B·L·D·N, B·L·D with D, B·L·D with z (state-spaces/mamba#110); per route on an image."""
    skip, gate = 5 not in absent, 6 not in absent
    arguments = canonical(without(sequence(), *absent), "auto")
    paper = SCAN_FLOPS[OPS.selective_scan_infer].paper
    assert paper(*arguments) == 2 * 70 * 5 * (9 * 3 + skip + gate)
    assert SCAN_FLOPS[OPS.selective_scan_fwd].paper(*arguments) == paper(*arguments)
    if not absent:
        assert paper(*canonical(image(), "auto", (5, 7))) == 4 * 2 * 35 * 5 * (9 * 2 + 2)
