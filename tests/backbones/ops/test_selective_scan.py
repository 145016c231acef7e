"""The selective scan's values and gradients, every backend against the recurrence in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixerzoo.backbones.ops.cross_scan import VIM_ROUTES, VMAMBA_ROUTES, Route
from mixerzoo.backbones.ops.selective_scan import selective_scan, selective_scan_2d

BACKENDS = ["cpu", "torch"]
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
LAYOUTS = ("channels last", "time last", "every other", "expanded")


def draw(*shape: int, layout: str = "time last", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Normal values of the logical shape (batch, channels..., time) in one of several memory layouts."""
    if layout == "channels last":
        return torch.randn(shape[0], shape[-1], *shape[1:-1], dtype=dtype).movedim(1, -1)
    if layout == "every other":
        return torch.randn(*shape[:-2], 2 * shape[-2], 2 * shape[-1], dtype=dtype)[..., ::2, 1::2]
    if layout == "expanded":
        return torch.randn(1, *shape[1:], dtype=dtype).expand(shape)
    return torch.randn(shape, dtype=dtype)


@dataclass(frozen=True)
class Case:
    """One 1-D problem."""

    batch: int
    channels: int
    length: int
    states: int
    groups: int | None  # None: B and C without a group axis
    skip: bool = True
    gate: bool = True
    bias: bool = True
    softplus: bool = True
    reverse: bool = False
    layout: str = "channels last"

    def inputs(self, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor | None]:
        torch.manual_seed(self.length * 64 + self.states)
        B, E, L, N = self.batch, self.channels, self.length, self.states
        shared = (B, N, L) if self.groups is None else (B, self.groups, N, L)
        delta = draw(B, E, L, layout=self.layout, dtype=dtype)
        values = {
            "u": draw(B, E, L, layout=self.layout, dtype=dtype),
            "delta": delta if self.softplus else delta.abs(),
            "A": -torch.rand(E, N, dtype=dtype) * 2 - 0.05,
            "B": draw(*shared, layout=self.layout, dtype=dtype),
            "C": draw(*shared, layout=self.layout, dtype=dtype),
            "D": torch.randn(E, dtype=dtype) if self.skip else None,
            "z": draw(B, E, L, layout=self.layout, dtype=dtype) if self.gate else None,
            "delta_bias": torch.randn(E, dtype=dtype) if self.bias and self.softplus else None,
        }
        return {name: x if x is None else x.detach() for name, x in values.items()}


@st.composite
def cases(draw_from: st.DrawFn) -> Case:
    length = draw_from(st.one_of(st.integers(1, 100), st.integers(1, 5000)))
    states = draw_from(st.sampled_from([1, 2, 3, 7, 16, 64]))
    per_group = draw_from(st.integers(1, max(1, min(70, 150_000 // (length * states)))))
    groups = draw_from(st.sampled_from([None, None, 1, 2, 3]))
    flags = draw_from(st.tuples(*[st.booleans()] * 5))
    layout = draw_from(st.sampled_from(LAYOUTS))
    return Case(draw_from(st.integers(1, 3)), per_group * (groups or 1), length, states, groups, *flags, layout)


def results(out: torch.Tensor, state: torch.Tensor, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values, and the gradients of a random linear loss, whose weights are the same in every dtype."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator).bfloat16().to(x.dtype) for x in (out, state)]
    grads = torch.autograd.grad((out, state), list(leaves.values()), weights)
    return {"y": out.detach(), "last state": state.detach(), **{f"d{n}": g for n, g in zip(leaves, grads, strict=True)}}


def run(case: Case, inputs: dict[str, torch.Tensor | None], backend: str) -> dict[str, torch.Tensor]:
    """Output, last state and every gradient of a loss that depends on both."""
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items() if x is not None}
    arguments = {**inputs, **leaves}
    out, state = selective_scan(
        **arguments,
        delta_softplus=case.softplus,
        return_last_state=True,
        backend=backend,
        reverse=case.reverse,
    )
    return results(out, state, leaves)


def in_double(inputs: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor | None]:
    return {name: x if x is None else x.double() for name, x in inputs.items()}


def error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference over the largest expected value."""
    assert actual.shape == expected.shape
    return ((actual.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item()


def compare(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], y: float, grads: float) -> None:
    errors = {name: error(actual[name], expected[name]) for name in expected}
    limits = {name: y if name in ("y", "last state") else grads for name in expected}
    wrong = {name: value for name, value in errors.items() if not value <= limits[name]}  # NaN is wrong, too
    assert not wrong, errors


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases())
def test_float32_against_float64_recurrence(case: Case) -> None:
    inputs = case.inputs()
    expected = run(case, in_double(inputs), "reference")
    for backend in BACKENDS:
        compare(run(case, inputs, backend), expected, y=1e-5, grads=2e-5)


def recurrence(inputs: dict[str, torch.Tensor], softplus: bool) -> torch.Tensor:
    """The definition, in scalars."""
    u, delta, A, B, C, D, z, bias = (inputs[name].tolist() for name in NAMES)
    y = torch.empty_like(inputs["u"])
    for b in range(y.shape[0]):
        for e in range(y.shape[1]):
            h = [0.0] * len(A[0])
            for t in range(y.shape[2]):
                dt = delta[b][e][t] + bias[e]
                if softplus and dt <= 20:
                    dt = math.log1p(math.exp(dt))
                h = [math.exp(dt * A[e][n]) * h[n] + dt * u[b][e][t] * B[b][n][t] for n in range(len(h))]
                out = sum(C[b][n][t] * h[n] for n in range(len(h))) + D[e] * u[b][e][t]
                y[b, e, t] = out * z[b][e][t] / (1 + math.exp(-z[b][e][t]))
    return y


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("softplus", [True, False])
def test_definition(backend: str, softplus: bool) -> None:
    case = Case(2, 3, 9, 4, None)
    inputs = case.inputs(torch.float64)
    inputs["delta"][:, 0] += 21  # where softplus is the identity
    out = selective_scan(**inputs, delta_softplus=softplus, backend=backend)
    torch.testing.assert_close(out, recurrence(inputs, softplus), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_reverse_is_flip_scan_flip(backend: str) -> None:
    case = Case(2, 5, 70, 3, 5)
    inputs = case.inputs()
    in_time = {"u", "delta", "B", "C", "z"}
    flipped = {name: x.flip(-1) if name in in_time else x for name, x in inputs.items()}
    backwards = selective_scan(**inputs, delta_softplus=True, backend=backend, reverse=True)
    forwards = selective_scan(**flipped, delta_softplus=True, backend=backend)
    torch.testing.assert_close(backwards, forwards.flip(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("constant", [("B",), ("C",), ("B", "C")], ids="+".join)
def test_constant_weights(backend: str, constant: tuple[str, ...]) -> None:
    """B and C of shape (D, N) are the same at every step, a row per channel."""
    case = Case(2, 6, 40, 3, None)
    inputs = case.inputs()
    inputs |= {name: torch.randn(6, 3) for name in constant}
    expected = run(case, in_double(inputs), "reference")
    compare(run(case, inputs, backend), expected, y=1e-5, grads=2e-5)
    spelled_out = dict(inputs)
    for name in constant:
        spelled_out[name] = inputs[name].view(1, 6, 3, 1).expand(2, 6, 3, 40)
    torch.testing.assert_close(
        selective_scan(**inputs, backend=backend), selective_scan(**spelled_out, backend=backend)
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision(backend: str, dtype: torch.dtype, layout: str) -> None:
    """16-bit activations, float32 parameters: only the rounding of what is stored is lost."""
    case = Case(2, 70, 45, 5, 2, layout=layout)
    inputs = case.inputs()
    halves = {name: x if name in ("A", "D", "delta_bias") else x.to(dtype) for name, x in inputs.items()}
    expected, actual = run(case, in_double(halves), "reference"), run(case, halves, backend)
    for name, value in actual.items():
        is_float32 = name in ("last state", "dA", "dD", "ddelta_bias")
        assert value.dtype == (torch.float32 if is_float32 else dtype), name
        torch.testing.assert_close(value.double(), expected[name], rtol=3e-2, atol=3e-2 * expected[name].abs().max())
        if not is_float32 and dtype == torch.bfloat16:  # rounded once, to nearest
            assert error(value, expected[name]) < 2**-8, name


def test_mixed_dtypes() -> None:
    """Each activation may have a dtype of its own; its gradient has that dtype."""
    case = Case(1, 8, 33, 4, None)
    inputs = case.inputs()
    inputs |= {"u": inputs["u"].half(), "B": inputs["B"].bfloat16(), "z": inputs["z"].bfloat16()}
    expected = run(case, in_double(inputs), "reference")
    for backend in BACKENDS:
        actual = run(case, inputs, backend)
        assert (actual["y"].dtype, actual["du"].dtype) == (torch.float16, torch.float16)
        assert (actual["dB"].dtype, actual["ddelta"].dtype) == (torch.bfloat16, torch.float32)
        assert error(actual["ddelta"], expected["ddelta"]) < 1e-3


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_gradcheck(backend: str) -> None:
    case = Case(2, 3, 5, 2, 3)
    inputs = [x.requires_grad_() for x in case.inputs(torch.float64).values()]
    inputs[1].data[0, 0] += 25  # beyond softplus's threshold

    def scan(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return selective_scan(*arguments, True, True, backend)

    assert torch.autograd.gradcheck(scan, inputs, atol=1e-7)


def test_reference_is_twice_differentiable() -> None:
    case = Case(1, 2, 4, 2, None)
    inputs = [x.requires_grad_() for x in case.inputs(torch.float64).values()]
    assert torch.autograd.gradgradcheck(lambda *x: selective_scan(*x, True, False, "reference"), inputs)


@dataclass(frozen=True)
class Image:
    """One 2-D problem."""

    height: int
    width: int
    channels: int = 6
    states: int = 3
    routes: tuple[int, ...] = VMAMBA_ROUTES
    per_route: bool = False  # x has a slice for each route
    groups: int | None = None
    gate: bool = True

    def inputs(self, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor | None]:
        torch.manual_seed(self.height * 100 + self.width)
        K, E, N, pixels = len(self.routes), self.channels, self.states, (2, self.height, self.width)
        shared = (K, N) if self.groups is None else (K, self.groups, N)
        x = torch.randn(2, E, self.height, self.width, dtype=dtype).permute(0, 2, 3, 1)  # as a convolution leaves it
        return {
            "x": torch.randn(*pixels, K, E, dtype=dtype) if self.per_route else x,
            "delta": torch.randn(*pixels, K, E, dtype=dtype),
            "A": -torch.rand(K, E, N, dtype=dtype) - 0.05,
            "B": torch.randn(*pixels, *shared, dtype=dtype),
            "C": torch.randn(*pixels, *shared, dtype=dtype),
            "D": torch.randn(K, E, dtype=dtype),
            "z": torch.randn(*pixels, E, dtype=dtype) if self.gate else None,
            "delta_bias": torch.randn(K, E, dtype=dtype),
        }


def run_2d(image: Image, inputs: dict[str, torch.Tensor | None], backend: str) -> dict[str, torch.Tensor]:
    leaves = {name: x.detach().requires_grad_() for name, x in inputs.items() if x is not None}
    out, state = selective_scan_2d(
        **{**inputs, **leaves},
        delta_softplus=True,
        return_last_state=True,
        backend=backend,
        routes=image.routes,
        out_dtype=torch.float64 if backend == "reference" else torch.float32,
    )
    return results(out, state, leaves)


IMAGES = {
    "vmamba": Image(7, 9),
    "one state, wide tile": Image(5, 13, channels=70, states=1, gate=False),
    "vim": Image(6, 6, routes=VIM_ROUTES, per_route=True),
    "repeated routes": Image(4, 11, routes=(0, 0, 1, 1), gate=False),
    "one column": Image(37, 1),
    "one row, groups": Image(1, 37, groups=3),
    "one route": Image(8, 5, routes=(Route.COLUMNS_REVERSED,)),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
def test_2d_against_float64_recurrence(backend: str, image: Image) -> None:
    inputs = image.inputs()
    compare(run_2d(image, inputs, backend), run_2d(image, in_double(inputs), "reference"), y=1e-5, grads=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_2d_half_precision(backend: str, dtype: torch.dtype) -> None:
    """The routes are added in float32 and rounded once."""
    image = Image(6, 7, channels=40)
    inputs = image.inputs()
    halves = {name: x if name in ("A", "D", "delta_bias") else x.to(dtype) for name, x in inputs.items()}
    expected, actual = run_2d(image, in_double(halves), "reference"), run_2d(image, halves, backend)
    assert error(actual["y"], expected["y"]) < 1e-5  # asked for in float32
    for name in ("dx", "dz", "ddelta", "dB", "dC"):
        assert actual[name].dtype == dtype
        assert error(actual[name], expected[name]) < 2**-8, name
    rounded = selective_scan_2d(**halves, delta_softplus=True, backend=backend)
    assert rounded.dtype == dtype
    torch.testing.assert_close(rounded.float(), actual["y"], rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_2d_gradcheck(backend: str) -> None:
    image = Image(2, 3, channels=2, states=2)
    inputs = [x.requires_grad_() for x in image.inputs(torch.float64).values()]
    assert torch.autograd.gradcheck(lambda *x: selective_scan_2d(*x, True, True, backend), inputs, atol=1e-7)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_no_batch(backend: str) -> None:
    inputs = {
        name: x if name in ("A", "D", "delta_bias") else x[:0] for name, x in Case(1, 4, 6, 2, None).inputs().items()
    }
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    out = selective_scan(**leaves, delta_softplus=True, backend=backend)
    assert out.shape == (0, 4, 6)
    assert torch.autograd.grad(out.sum(), leaves["A"])[0].eq(0).all()


def test_state_alone_is_differentiable() -> None:
    """A loss on the last state only: y then has no gradient."""
    case = Case(2, 5, 40, 3, None)
    inputs = case.inputs(torch.float64)
    grads = []
    for backend in ("reference", *BACKENDS):
        leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
        _, state = selective_scan(**leaves, delta_softplus=True, return_last_state=True, backend=backend)
        used = [leaves[name] for name in ("u", "delta", "A", "B", "delta_bias")]
        grads.append(torch.autograd.grad(state.square().sum(), used))
    for other in grads[1:]:
        for actual, expected in zip(other, grads[0], strict=True):
            torch.testing.assert_close(actual, expected)
