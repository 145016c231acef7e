"""State-space duality: the block decomposition against the recurrence and against mamba-ssm's reference functions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mixerzoo.backbones.ops.flops import SCAN_FLOPS
from mixerzoo.backbones.ops.selective_scan import selective_scan
from mixerzoo.backbones.ops.ssd import blocks, ssd
from mixerzoo.benchmarks.scan import peers
from torch.utils.flop_counter import FlopCounterMode

Tensors = dict[str, torch.Tensor]
NAMES = ("x", "dt", "A", "B", "C", "D", "z", "dt_bias", "initial_states")


def arguments(
    batch: int = 2,
    length: int = 37,
    heads: int = 4,
    width: int = 8,
    groups: int = 2,
    states: int = 5,
    D: str = "HP",
    absent: tuple[str, ...] = (),
    seed: int = 0,
) -> Tensors:
    """Random arguments in float64, with step sizes of about 0.02 to 1 after softplus."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tensors = {
        "x": normal(batch, length, heads, width),
        "dt": normal(batch, length, heads) - 2,
        "A": -normal(heads).exp(),
        "B": normal(batch, length, groups, states),
        "C": normal(batch, length, groups, states),
        "D": {"HP": normal(heads, width), "H": normal(heads)}.get(D),
        "z": normal(batch, length, heads, width),
        "dt_bias": normal(heads),
        "initial_states": normal(batch, heads, width, states),
    }
    return {name: t for name, t in tensors.items() if t is not None and name not in absent}


def run(tensors: Tensors, dtypes: torch.dtype | dict[str, torch.dtype], **options: Any) -> tuple[Tensors, Tensors]:
    """Outputs, and gradients of a fixed random weighing of both outputs."""
    dtype_of = dtypes if isinstance(dtypes, dict) else dict.fromkeys(NAMES, dtypes)
    leaves = {name: t.detach().to(dtype_of.get(name, torch.float32)).requires_grad_() for name, t in tensors.items()}
    y, states = ssd(**leaves, return_final_states=True, **{"dt_softplus": True, **options})
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in (y, states)]
    grads = torch.autograd.grad([y, states], list(leaves.values()), weights)
    outputs = {"y": y.detach(), "states": states.detach()}
    return outputs, dict(zip(leaves, grads, strict=True))


def assert_close(actual: Tensors, expected: Tensors, tolerance: float) -> None:
    """Largest difference at most ``tolerance`` of the largest element, tensor by tensor."""
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = (actual[name].double() - value).abs().max().item() if value.numel() else 0.0
        scale = max(value.abs().max().item(), 1e-30) if value.numel() else 1.0
        assert error <= tolerance * scale, f"{name}: {error / scale:.1e} of the largest element"


def assert_agrees(tensors: Tensors, tolerances: tuple[float, float] = (1e-5, 2e-5), **options: Any) -> None:
    """The block decomposition in float32 against the recurrence in float64."""
    expected, expected_grads = run(tensors, torch.float64, **options, backend="reference")
    actual, grads = run(tensors, torch.float32, **options)
    assert_close(actual, expected, tolerances[0])
    assert_close(grads, expected_grads, tolerances[1])


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    groups, ratio = draw(st.sampled_from([(1, 1), (1, 3), (2, 1), (2, 2), (3, 2)]))
    optional = ("z", "dt_bias", "initial_states")
    shape = {
        "batch": draw(st.integers(1, 3)),
        "length": draw(st.integers(1, 150)),
        "heads": groups * ratio,
        "width": draw(st.integers(1, 20)),
        "groups": groups,
        "states": draw(st.sampled_from([1, 2, 7, 16, 64])),
        "D": draw(st.sampled_from(["HP", "H", "absent"])),
        "absent": tuple(draw(st.sets(st.sampled_from(optional)))),
        "seed": draw(st.integers(0, 1000)),
    }
    options = {
        "chunk_size": draw(st.none() | st.integers(1, 200)),
        "reverse": draw(st.booleans()),
        "dt_softplus": draw(st.booleans()),
        "dt_limit": draw(st.sampled_from([(0.0, math.inf), (0.05, 0.3)])),
    }
    return shape, options


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems())
def test_agrees_with_the_recurrence(problem: tuple[dict[str, Any], dict[str, Any]]) -> None:
    shape, options = problem
    assert_agrees(arguments(**shape), **options)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 31, 64, 65])
def test_state_is_carried_between_segments_and_samples(
    monkeypatch: pytest.MonkeyPatch, length: int, reverse: bool
) -> None:
    monkeypatch.setattr(blocks, "_CPU_ELEMENTS", 1)  # one sample and one chunk at a time
    assert_agrees(arguments(batch=3, length=length), chunk_size=16, reverse=reverse)


def test_long_sequence_against_the_recurrence() -> None:
    tensors = arguments(batch=1, length=5003, heads=2, width=4, groups=1, states=3)
    assert_agrees(tensors)
    assert_agrees(tensors, reverse=True, chunk_size=128)


def test_very_long_sequence_is_finite_and_right() -> None:
    tensors = arguments(batch=1, length=65536, heads=1, width=2, groups=1, states=2, absent=("z",))
    with torch.no_grad():
        expected = ssd(**tensors, dt_softplus=True, backend="reference")
    actual, grads = run(tensors, torch.float32)
    assert_close({"y": actual["y"]}, {"y": expected}, 1e-5)
    assert all(grad.isfinite().all() for grad in grads.values())


@pytest.mark.parametrize("layout", ["heads first", "tokens last", "every second"])
def test_any_strides(layout: str) -> None:
    tensors = arguments(length=50)
    for name in ("x", "z", "B", "C", "dt"):
        t = tensors[name]
        if layout == "heads first":
            tensors[name] = t.transpose(1, 2).contiguous().transpose(1, 2)
        elif layout == "tokens last":
            tensors[name] = t.movedim(1, -1).contiguous().movedim(-1, 1)
        else:
            tensors[name] = t.repeat_interleave(2, dim=1)[:, ::2]
        assert not tensors[name].is_contiguous()
    assert_agrees(tensors)


def test_expanded_gradient_is_accepted() -> None:
    tensors = {name: t.float().requires_grad_() for name, t in arguments().items()}
    (expanded,) = torch.autograd.grad(ssd(**tensors, dt_softplus=True).sum(), tensors["x"])  # dy has stride 0
    y = ssd(**tensors, dt_softplus=True)
    (contiguous,) = torch.autograd.grad(y, tensors["x"], torch.ones_like(y))
    assert torch.equal(expanded, contiguous)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_activations(dtype: torch.dtype) -> None:
    tensors = arguments(length=100, width=16, states=16)
    activations = dict.fromkeys(("x", "dt", "B", "C", "z"), dtype)
    rounded = {name: t.to(activations.get(name, torch.float32)).double() for name, t in tensors.items()}
    expected, expected_grads = run(rounded, torch.float64, backend="reference")
    actual, grads = run(tensors, activations)
    assert actual["y"].dtype == dtype
    assert actual["states"].dtype == torch.float32
    assert {name: grad.dtype for name, grad in grads.items()} == {n: activations.get(n, torch.float32) for n in grads}
    assert_close(actual, expected, 3e-2 if dtype == torch.bfloat16 else 4e-3)
    assert_close(grads, expected_grads, 3e-2 if dtype == torch.bfloat16 else 4e-3)


@pytest.mark.parametrize(("D", "reverse"), [("HP", False), ("H", True), ("absent", False)])
def test_gradcheck(D: str, reverse: bool) -> None:
    tensors = arguments(batch=1, length=7, heads=2, width=2, groups=1, states=3, D=D)
    tensors["dt"] += 2  # steps large enough for finite differences to see the decay
    leaves = [t.requires_grad_() for t in tensors.values()]

    def function(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(tensors, values, strict=True))
        return ssd(**named, dt_softplus=True, chunk_size=3, return_final_states=True, reverse=reverse)

    assert torch.autograd.gradcheck(function, leaves)


def test_second_derivatives() -> None:
    tensors = arguments(batch=1, length=3, heads=2, width=1, groups=1, states=2)
    leaves = [t.requires_grad_() for t in tensors.values()]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return ssd(**dict(zip(tensors, values, strict=True)), dt_softplus=True, backend="reference")

    assert torch.autograd.gradgradcheck(function, leaves)
    (grad,) = torch.autograd.grad(ssd(**tensors).sum(), tensors["A"], create_graph=True)
    with pytest.raises(RuntimeError, match="no double backward; use backend='reference'"):
        grad.sum().backward()


@pytest.mark.parametrize("dt", [1e-30, 1e-6, 30.0, 1e4, 1e30])
@pytest.mark.parametrize("chunk_size", [16, 64])
def test_extreme_step_sizes(dt: float, chunk_size: int) -> None:
    tensors = arguments(length=64, absent=("dt_bias",))
    tensors["dt"] = torch.full_like(tensors["dt"], dt)
    assert_agrees(tensors, dt_softplus=False, chunk_size=chunk_size)


def test_no_digits_are_lost_after_a_large_step() -> None:
    # A sum of exponents in float32 would be good to 0.06 from the first step on: 6% in every decay.
    tensors = arguments(length=64, absent=("dt_bias", "D", "z"))
    tensors["dt"] = tensors["dt"].exp().mul(0.1)
    tensors["dt"][:, 0] = 1e6
    assert_agrees(tensors, dt_softplus=False, chunk_size=64)


def test_growing_state_is_not_spoiled_by_masked_entries() -> None:
    # With A > 0 the masked exponents are the negative ones and those kept grow; a strong decay masks +inf in float32.
    tensors = arguments(length=40, absent=("dt_bias",))
    assert_agrees({**tensors, "A": tensors["A"].neg()}, tolerances=(2e-5, 5e-5), dt_limit=(0, 0.5), chunk_size=40)
    assert_agrees({**tensors, "A": tensors["A"] * 1e36}, dt_softplus=False, dt_limit=(1e-3, 1.0), chunk_size=40)


def test_equals_the_selective_scan_with_a_shared_A() -> None:
    t = arguments(length=45, heads=4, width=6, groups=2, states=7, absent=("initial_states",))
    y, states = ssd(**t, dt_softplus=True, return_final_states=True)

    def channels(value: torch.Tensor) -> torch.Tensor:  # (B, L, H, P) -> (B, H·P, L)
        return value.flatten(2).transpose(1, 2)

    out, last = selective_scan(
        channels(t["x"]),
        channels(t["dt"].unsqueeze(-1).expand_as(t["x"])),
        t["A"].repeat_interleave(6).unsqueeze(-1).expand(-1, 7),
        t["B"].permute(0, 2, 3, 1),
        t["C"].permute(0, 2, 3, 1),
        t["D"].flatten(),
        channels(t["z"]),
        t["dt_bias"].repeat_interleave(6),
        delta_softplus=True,
        return_last_state=True,
        backend="torch",
    )
    torch.testing.assert_close(channels(y), out, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(states.flatten(1, 2), last, rtol=1e-10, atol=1e-12)


def test_reverse_equals_flipping() -> None:
    tensors = arguments()
    per_token = ("x", "dt", "B", "C", "z")
    flipped = {name: t.flip(1) if name in per_token else t for name, t in tensors.items()}
    y, states = ssd(**flipped, return_final_states=True)
    reversed_y, reversed_states = ssd(**tensors, return_final_states=True, reverse=True)
    torch.testing.assert_close(reversed_y.flip(1), y)
    torch.testing.assert_close(reversed_states, states)


def test_final_states_continue_the_sequence() -> None:
    tensors = arguments(length=50)
    whole, last = ssd(**tensors, return_final_states=True)
    parts, state = [], tensors["initial_states"]
    for tokens in (slice(0, 23), slice(23, 50)):
        part = {name: t[:, tokens] if name in ("x", "dt", "B", "C", "z") else t for name, t in tensors.items()}
        y, state = ssd(**{**part, "initial_states": state}, return_final_states=True)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("used", [0, 1])
def test_gradient_of_one_output(used: int) -> None:
    tensors = arguments(absent=("z", "D"))
    grads = []
    for backend in ("auto", "reference"):
        leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
        output = ssd(**leaves, return_final_states=True, backend=backend)[used]
        values = torch.autograd.grad(output.square().sum(), list(leaves.values()), materialize_grads=True)
        grads.append(dict(zip(leaves, values, strict=True)))
    assert_close(*grads, 1e-9)


def test_bitwise_equal_over_runs() -> None:
    tensors = arguments(length=200, width=32, states=16)
    first, first_grads = run(tensors, torch.float32)
    for _ in range(2):
        again, grads = run(tensors, torch.float32)
        assert all(torch.equal(again[name], first[name]) for name in first)
        assert all(torch.equal(grads[name], first_grads[name]) for name in first_grads)


def test_backward_saves_only_arguments() -> None:
    tensors = arguments(length=300, heads=4, width=16, states=16, absent=("z",))
    leaves = {name: t.float().requires_grad_() for name, t in tensors.items()}
    saved: dict[int, int] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        ssd(**leaves, dt_softplus=True)
    size = {name: t.nbytes for name, t in leaves.items()}
    assert sum(saved.values()) <= sum(size.values()) + 4 * size["dt"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_empty_batch_and_meta_device(device: str) -> None:
    tensors = {name: t.float().to(device) for name, t in arguments(batch=0 if device == "cpu" else 2).items()}
    y, states = ssd(**tensors, return_final_states=True)
    assert y.shape == tensors["x"].shape
    assert states.shape == tensors["initial_states"].shape


OP_ARGUMENTS = ("x", "dt", "A", "B", "C", "D", "initial_states")


@pytest.mark.unpoisoned
@pytest.mark.parametrize("absent", [(), ("D", "initial_states")])
@pytest.mark.parametrize("op", ["ssd", "ssd_bwd"])
def test_opcheck(op: str, absent: tuple[str, ...]) -> None:
    tensors = {name: t.float() for name, t in arguments(length=20).items()}
    tensors["dt"] = tensors["dt"].exp()  # the op takes step sizes as they are
    values = [None if name in absent else tensors[name].requires_grad_(op == "ssd") for name in OP_ARGUMENTS]
    dy, dstates = torch.randn_like(tensors["x"]), torch.randn_like(tensors["initial_states"])
    outputs = () if op == "ssd" else (dy, dstates)
    torch.library.opcheck(getattr(torch.ops.mixerzoo, op).default, (*outputs, *values, 8, False))


def loss(**tensors: torch.Tensor) -> torch.Tensor:
    y, states = ssd(**tensors, dt_softplus=True, return_final_states=True)
    return y.square().sum() + states.sum()


@pytest.mark.unpoisoned
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_without_graph_breaks_for_training(dynamic: bool) -> None:
    compiled = torch.compile(loss, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for length in (20, 33) if dynamic else (20,):
        results = []
        for function in (loss, compiled):
            leaves = {name: t.float().requires_grad_() for name, t in arguments(length=length).items()}
            value = function(**leaves)
            value.backward()
            results.append((value.detach(), [t.grad for t in leaves.values()]))
        torch.testing.assert_close(results[0], results[1])


class Block(torch.nn.Module):
    def forward(self, x: torch.Tensor, dt: torch.Tensor, A: torch.Tensor, B: torch.Tensor) -> torch.Tensor:
        return ssd(x, dt, A, B, B, dt_softplus=True)


@pytest.mark.unpoisoned
def test_exports_with_dynamic_batch_and_length() -> None:
    def inputs(batch: int, length: int) -> tuple[torch.Tensor, ...]:
        tensors = arguments(batch=batch, length=length)
        return tuple(tensors[name].float() for name in ("x", "dt", "A", "B"))

    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=100_000)
    dynamic = {0: batch, 1: length}
    program = torch.export.export(Block(), inputs(2, 37), dynamic_shapes=(dynamic, dynamic, None, dynamic))
    program = program.run_decompositions()
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls.count(torch.ops.mixerzoo.ssd.default) == 1
    for shape in ((1, 1), (3, 200)):
        torch.testing.assert_close(program.module()(*inputs(*shape)), Block()(*inputs(*shape)))


@pytest.mark.parametrize("D", ["HP", "absent"])
def test_flops_are_those_of_the_recurrence(D: str) -> None:
    sizes = {"batch": 2, "length": 30, "heads": 4, "width": 8, "groups": 2, "states": 5}
    tensors = {
        name: t.float().to("meta") for name, t in arguments(**sizes, D=D, absent=("z", "initial_states")).items()
    }
    tokens, P, N, skip = 2 * 30 * 4, 8, 5, D == "HP"
    with FlopCounterMode(display=False) as counter:
        ssd(**tensors)
    assert counter.get_total_flops() == tokens * (5 * P * N + P + 2 + 2 * P * skip)
    tensors["x"].requires_grad_()
    with FlopCounterMode(display=False) as counter:
        ssd(**tensors).sum().backward()
    forward, backward = 5 * P * N + P + 2 + 2 * P * skip, 14 * P * N + 4 * P + 6 + 4 * P * skip
    assert counter.get_total_flops() == tokens * (forward + backward)
    paper = SCAN_FLOPS[torch.ops.mixerzoo.ssd].paper
    assert paper(*(tensors.get(name) for name in OP_ARGUMENTS), None, False) == tokens * P * (9 * N + skip)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_autocast_casts_activations_and_nothing_inside(backend: str) -> None:
    tensors = {name: t.float() for name, t in arguments(length=60).items()}
    rounded = {name: t.bfloat16() if name in ("x", "B", "C") else t for name, t in tensors.items()}
    expected, expected_grads = run(rounded, {name: t.dtype for name, t in rounded.items()})
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    with torch.autocast("cpu", torch.bfloat16):
        y, states = ssd(**leaves, dt_softplus=True, return_final_states=True, backend=backend)
        assert (y.dtype, states.dtype) == (torch.bfloat16, torch.float32)
        weights = torch.Generator().manual_seed(1)
        outputs = [torch.randn(t.shape, generator=weights, dtype=torch.float64).to(t.dtype) for t in (y, states)]
        grads = torch.autograd.grad([y, states], list(leaves.values()), outputs)  # still under autocast
    if backend == "auto":
        assert torch.equal(y, expected["y"])
        assert torch.equal(states, expected["states"])
    torch.testing.assert_close(y, expected["y"], rtol=1e-2, atol=1e-2)
    for grad, value in zip(grads, expected_grads.values(), strict=True):
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, value.float(), rtol=1e-2, atol=1e-2 * value.abs().max().item())


BAD = {
    "dt": (lambda t: t["dt"][:, :-1], r"dt must be \(B, L, H\) = \(2, 37, 4\), got \(2, 36, 4\)"),
    "A": (lambda t: t["A"].unsqueeze(-1), r"A must be \(H\) = \(4\), got \(4, 1\)"),
    "C": (lambda t: t["C"][..., :-1], r"C must be \(B, L, G, N\) = \(2, 37, 2, 5\), got \(2, 37, 2, 4\)"),
    "B": (lambda t: t["B"].flatten(2), r"B must be \(B, L, G, N\), got \(2, 37, 10\)"),
    "D": (lambda t: t["D"][:, :2], r"D must be \(H, P\) = \(4, 8\), got \(4, 2\)"),
    "z": (lambda t: t["z"].flatten(2), r"z must be \(B, L, H, P\) = \(2, 37, 4, 8\), got \(2, 37, 32\)"),
    "dt_bias": (lambda t: t["dt_bias"][:1], r"dt_bias must be \(H\) = \(4\), got \(1,\)"),
    "initial_states": (lambda t: t["initial_states"][0], r"initial_states must be \(B, H, P, N\)"),
    "x": (lambda t: t["x"].to(torch.complex64), r"x \(2, 37, 4, 8\) must be float16"),
    "chunk_size": (lambda t: 0, "chunk_size must be at least 1, or None, got 0"),
    "dt_limit": (lambda t: (1.0, 0.5), r"dt_limit must be \(lowest, highest\), got \(1.0, 0.5\)"),
    "backend": (lambda t: "cuda", "backend must be one of 'auto', 'torch', 'reference', got 'cuda'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument_is_named(name: str) -> None:
    tensors = arguments()
    value, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        ssd(**{**tensors, name: value(tensors)})


def test_bad_groups_length_and_device() -> None:
    tensors = arguments()
    three = {name: torch.cat([tensors[name], tensors[name][:, :, :1]], 2) for name in ("B", "C")}
    with pytest.raises(ValueError, match=r"B \(2, 37, 3, 5\) has 3 groups, which must divide the 4 heads"):
        ssd(**{**tensors, **three})
    with pytest.raises(ValueError, match="x must not have an empty axis"):
        ssd(**arguments(length=0))
    with pytest.raises(ValueError, match=r"A .* is on meta, but x is on cpu"):
        ssd(**{**tensors, "A": tensors["A"].to("meta")})


mamba_ssm = pytest.mark.skipif(not peers.installed(), reason="needs mamba-ssm: run .ci/install-oracles")


@mamba_ssm
@pytest.mark.oracle
def test_agrees_with_ssd_minimal_discrete() -> None:
    t = arguments(length=64, groups=4, absent=("z", "D", "dt_bias"))
    t["dt"] = t["dt"].exp()
    y, states = peers.load("ssd_minimal_discrete")(
        t["x"] * t["dt"].unsqueeze(-1), t["A"] * t["dt"], t["B"], t["C"], 16, t["initial_states"].unsqueeze(1)
    )
    ours, our_states = ssd(**t, return_final_states=True)
    assert_close({"y": ours, "states": our_states}, {"y": y, "states": states}, 1e-5)


@mamba_ssm
@pytest.mark.oracle
@pytest.mark.parametrize("D", ["HP", "H", "absent"])
@pytest.mark.parametrize("gated", [False, True])
def test_agrees_with_ssd_chunk_scan_combined_ref(D: str, gated: bool) -> None:
    tensors = arguments(length=64, D=D, absent=("initial_states",) if gated else ("initial_states", "z"))
    reference, grads = {}, {}
    for name, function in (
        ("theirs", lambda **t: peers.load("ssd_chunk_scan_combined_ref")(**t, chunk_size=16, dt_softplus=True)),
        ("ours", lambda **t: ssd(**t, chunk_size=24, dt_softplus=True)),
    ):
        leaves = {key: t.float().requires_grad_() for key, t in tensors.items()}
        y = function(**leaves)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        gradients = torch.autograd.grad(y, list(leaves.values()), weights)
        reference[name], grads[name] = {"y": y.detach()}, dict(zip(leaves, gradients, strict=True))
    assert_close(reference["ours"], reference["theirs"], 1e-5)
    assert_close(grads["ours"], grads["theirs"], 2e-5)
