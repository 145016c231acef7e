"""The C kernel: determinism, numerical extremes, 16-bit conversions, and life without it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator

import pytest
import torch
from mixerzoo.backbones.ops.selective_scan import dispatch, selective_scan, selective_scan_2d
from mixerzoo.backbones.ops.selective_scan.cpu import launch
from mixerzoo.backbones.ops.selective_scan.problem import Problem

BACKENDS = ["cpu", "torch"]
CPU = torch.device("cpu")


@pytest.fixture
def restore_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def sequence(batch: int, channels: int, length: int, states: int) -> list[torch.Tensor]:
    """u, delta, A, B, C, D, z, delta_bias; channels are the contiguous axis."""
    r = torch.randn
    activations = [r(batch, length, n).transpose(1, 2) for n in (channels, channels, states, states, channels)]
    u, delta, B, C, z = activations
    A = -torch.rand(channels, states) - 0.05
    return [u, delta - 2, A, B, C, r(channels), z, r(channels)]


def image(batch: int, height: int, width: int, channels: int, states: int) -> list[torch.Tensor]:
    r, pixels = torch.randn, (batch, height, width)
    A = -torch.rand(4, channels, states) - 0.05
    return [
        *(r(*pixels, channels), r(*pixels, 4, channels), A, r(*pixels, 4, states), r(*pixels, 4, states)),
        *(r(4, channels), r(*pixels, channels), r(4, channels)),
    ]


def everything(scan, inputs: list[torch.Tensor], backend: str = "cpu") -> list[torch.Tensor]:
    """Output, state and gradients."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, state = scan(*leaves, True, True, backend)
    grads = torch.autograd.grad((out.float().square().sum() + state.sum()), leaves)
    return [out.detach(), state.detach(), *grads]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sequence", "image"])
@pytest.mark.usefixtures("restore_threads")
def test_bitwise_equal_for_any_number_of_threads(kind: str, dtype: torch.dtype) -> None:
    scan, inputs = {
        "sequence": (selective_scan, sequence(2, 400, 130, 3)),
        "image": (selective_scan_2d, image(1, 12, 15, 200, 2)),
    }[kind]
    inputs = [x.to(dtype) if x.ndim > 2 and i != 2 else x for i, x in enumerate(inputs)]
    assert inputs[1].numel() * inputs[2].shape[-1] > 3 * launch.THREAD_WORK  # else one thread would do it all
    runs = []
    for threads in (1, 2, 3, 3, 3):
        torch.set_num_threads(threads)
        runs.append(everything(scan, inputs))
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sequence(backend: str) -> None:
    """65,536 steps against float64; with decays so slow that float32 itself loses digits."""
    inputs = sequence(1, 3, 65_536, 2)
    inputs[2] = torch.tensor([[-1e-4, -1.0], [-0.01, -16.0], [0.0, -300.0]])
    actual = everything(selective_scan, inputs, backend)
    expected = everything(selective_scan, [x.double() for x in inputs], "torch")
    for a, b in zip(actual, expected, strict=True):
        assert a.isfinite().all()
        assert (a - b).abs().max() <= 5e-4 * b.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_sequence_keeps_its_digits(backend: str) -> None:
    """65,536 steps, some remembered for ten thousand others: errors of a decay to one side would add up."""
    torch.manual_seed(0)
    inputs = sequence(1, 8, 65_536, 2)
    inputs[2] = -torch.logspace(-3, 1, 16).view(8, 2)
    actual = everything(selective_scan, inputs, backend)
    expected = everything(selective_scan, [x.double() for x in inputs], "cpu")
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(actual, expected, strict=True)]
    assert max(errors[:2]) <= 1e-5, errors
    assert max(errors[2:]) <= 2e-5, errors


def test_pieces_side_by_side_keep_digits_of_slow_decays() -> None:
    """Decays of some 300 ulp below 1: a running product of them errs to one side, by 1e-4 after 65,536 steps."""
    torch.manual_seed(0)
    u, B, C = torch.randn(1, 3, 65_536), torch.randn(1, 1, 5, 65_536), torch.randn(1, 1, 5, 65_536)
    delta, A = 1e-5 * (0.5 + torch.rand(1, 3, 65_536)), -0.2 - 4 * torch.rand(3, 5)
    actual, expected = (
        gradients_of_five([x.to(dtype) for x in (u, delta, A, B, C)]) for dtype in (torch.float32, torch.float64)
    )
    errors = [((a - b).abs().max() / b.abs().max()).item() for a, b in zip(actual, expected, strict=True)]
    assert max(errors) <= 1e-5, errors


def gradients_of_five(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Output of the torch backend and gradients of its five necessary arguments."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = selective_scan(*leaves, backend="torch")
    y.backward(torch.ones_like(y))
    return [y.detach(), *(x.grad for x in leaves)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("shift", "scale"),
    [(0, 1e30), (-100, 1), (-1e5, 1), (60, 1), (1e4, 1), (0, 1e-30), (3e38, 1)],
    ids=["delta up to 1e30", "e^-100", "zero step", "beyond the threshold", "decay to 0", "tiny", "overflowing"],
)
def test_extreme_steps(backend: str, shift: float, scale: float) -> None:
    """No NaN where the reference has none, and the same values wherever those are finite."""
    u, delta, A, B, C, D, z, bias = sequence(1, 4, 70, 3)
    delta = delta * scale + shift
    expected = selective_scan(u, delta, A, B, C, D, z, bias, True, backend="reference")
    actual = selective_scan(u, delta, A, B, C, D, z, bias, True, backend=backend)
    assert not actual[~expected.isnan()].isnan().any()
    finite = expected.isfinite()
    scale_of_y = expected[finite].abs().max() if finite.any() else 1.0
    torch.testing.assert_close(actual[finite], expected[finite], rtol=1e-4, atol=1e-5 * float(scale_of_y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_growing_state(backend: str) -> None:
    """A positive A is unusual, but no reason to return something else."""
    u, delta, A, B, C, *_ = sequence(1, 4, 50, 3)
    args = (u, delta.abs() * 0.1, -A, B, C)
    expected = selective_scan(*(x.double() for x in args), backend="reference")
    torch.testing.assert_close(selective_scan(*args, backend=backend).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("position", range(8))
def test_nan_is_not_lost(backend: str, position: int) -> None:
    """A NaN in any argument shows in the output: it must not vanish in a clamp."""
    inputs = sequence(1, 4, 6, 3)
    poisoned = inputs[position].clone()
    poisoned[(0,) * poisoned.ndim] = float("nan")
    inputs[position] = poisoned
    assert selective_scan(*inputs, True, backend=backend)[0, 0].isnan().any()


def all_halves() -> torch.Tensor:
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16)


def skip_only(u: torch.Tensor, out_dtype: torch.dtype) -> torch.Tensor:
    """y = 1·u (B, E), one step per batch element: what is read is what is written."""
    batch, channels = u.shape
    zeros, none = torch.zeros(batch, 1, 1, 1, 1), torch.zeros(1, 1).expand(batch, channels)
    rows = [x.view(batch, 1, 1, channels) for x in (u, none)]
    ones = torch.ones(1, channels)
    problem = Problem(*rows, -ones.unsqueeze(2), zeros, zeros, ones, None, None, False, (0,), (1, 1))
    y, _, _ = launch.forward(problem, False, out_dtype)
    return y.view(batch, channels)


@pytest.mark.parametrize("channels", [64, 16], ids=["full tiles", "partial tile"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reads_every_16_bit_value(dtype: torch.dtype, channels: int) -> None:
    u = all_halves().view(dtype).view(-1, channels)
    y = skip_only(u, torch.float32)
    assert torch.equal(y[u.isfinite()], u[u.isfinite()].float())
    assert not y[~u.isfinite()].isfinite().any()


@pytest.mark.parametrize("channels", [64, 16], ids=["full tiles", "partial tile"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_to_nearest_even(dtype: torch.dtype, channels: int) -> None:
    """Outputs halfway between two 16-bit values, beside them, overflowing and subnormal: as torch rounds them."""
    low = all_halves()[1 << 15 :].view(dtype)
    low = low[low.isfinite()].double()
    high = torch.cat([low[1:], low[-1:] * (1 + torch.finfo(dtype).eps)])
    middle = ((low + high) / 2).float()
    values = torch.cat([low.float(), middle, middle.nextafter(low.float()), middle.nextafter(high.float())])
    values = torch.cat([values, -values, torch.tensor([1e38, 3.4e38, 1e-45, 1e-40])])
    values = torch.cat([values, values.new_zeros(-len(values) % channels)]).view(-1, channels)
    values = torch.where(values.isfinite(), values, 0.0)
    assert torch.equal(skip_only(values, dtype), values.to(dtype))


def test_every_backend_keeps_inputs_and_flags_alone() -> None:
    """Loading and running the kernel must not switch the process to flush-to-zero."""
    inputs = sequence(1, 40, 40, 4)
    copies = [x.clone() for x in inputs]
    for backend in BACKENDS:
        everything(selective_scan, inputs, backend)
    assert all(torch.equal(a, b) for a, b in zip(inputs, copies, strict=True))
    assert (torch.tensor(1e-40) * 0.5).item() != 0


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(launch, "_kernels", lambda: None)
    dispatch.resolve.cache_clear()
    yield
    dispatch.resolve.cache_clear()


@pytest.mark.usefixtures("no_kernel")
def test_falls_back_with_one_notice() -> None:
    inputs = sequence(1, 4, 6, 3)
    with warnings.catch_warnings(record=True) as notices:
        warnings.simplefilter("always")
        out, *_ = [selective_scan(*inputs, True) for _ in range(3)]
    (notice,) = notices
    assert re.search(r"falls back from 'cpu' .* install a C compiler", str(notice.message))
    torch.testing.assert_close(out, selective_scan(*inputs, True, backend="torch"), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"backend='cpu' cannot run here: .* install a C compiler"):
        selective_scan(*inputs, True, backend="cpu")


def test_partial_sums_do_not_grow_with_the_channels() -> None:
    """dB and dC partials stay a fraction of the activations, but a small batch still has work for several threads."""
    for channels, states, batch in ((384, 16, 1), (1536, 1, 1), (768, 16, 128), (6144, 64, 2)):
        slices = launch._slices(1, channels, states, batch)
        tiles = -(-channels // launch.LANES)
        assert 1 <= slices <= tiles
        assert slices * states <= max(channels / 4, 4 * states)
        assert slices * batch >= min(4, tiles)
