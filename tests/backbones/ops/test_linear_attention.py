"""Linear attention against its sums, and rotary positions against theirs."""

from __future__ import annotations

import math

import pytest
import torch
from mixerzoo.backbones.ops.linear_attention import linear_attention
from mixerzoo.backbones.ops.rope import axial_rope, rotate
from torch.utils.flop_counter import FlopCounterMode


def tensors(length: int, dtype: torch.dtype = torch.double) -> list[torch.Tensor]:
    """q, k, v and the normaliser's pair, positive so that the denominator is far from 0."""
    q, k = torch.rand(2, 2, length, 3, 5, dtype=dtype).requires_grad_().unbind(0)
    v = torch.randn(2, length, 3, 4, dtype=dtype, requires_grad=True)
    others = [torch.rand(2, length, 3, 6, dtype=dtype, requires_grad=True) for _ in range(2)]
    return [q, k, v, *others]


def naive(q, k, v, q2, k2, causal: bool, normalized: bool) -> torch.Tensor:
    """Token by token and head by head."""
    rows = []
    for t in range(q.shape[1]):
        seen = slice(0, t + 1 if causal else q.shape[1])
        weights = torch.einsum("bhn,bshn->bhs", q[:, t], k[:, seen])
        y = torch.einsum("bhs,bshp->bhp", weights, v[:, seen])
        if normalized:
            mean = torch.einsum("bhn,bshn->bhs", q2[:, t], k2[:, seen]).mean(-1, keepdim=True) + 1e-6
            y = y / (mean * weights.shape[-1])
        rows.append(y)
    return torch.stack(rows, 1)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize(("length", "chunk"), [(1, 64), (7, 64), (13, 4), (16, 8), (9, 1)])
def test_values_and_gradients(causal, normalized, length, chunk):
    inputs = tensors(length)
    pair = tuple(inputs[3:]) if normalized else None
    used = inputs if normalized else inputs[:3]
    expected = naive(*inputs, causal, normalized)
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), used)
    for backend in ("auto", "reference"):
        y = linear_attention(*inputs[:3], causal, normalizer=pair, chunk_size=chunk, backend=backend)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(torch.autograd.grad((y * weight).sum(), used), wanted)


def test_sums_stay_float32_under_autocast():
    """Sums of 4096 products of 16: float16 would overflow, bfloat16 lose most digits."""
    q = k = torch.full((1, 4096, 1, 16), 4.0)
    v = torch.ones(1, 4096, 1, 2, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = linear_attention(q.half(), k.half(), v, normalizer=(q, k))
    assert y.dtype == torch.float16
    torch.testing.assert_close(y, torch.ones_like(y))


@pytest.mark.parametrize("causal", [False, True])
def test_cost_is_linear_in_tokens(causal):
    flops = []
    for length in (256, 512):
        q, k, v = (torch.empty(1, length, 2, 8, device="meta") for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            linear_attention(q, k, v, causal)
        flops.append(counter.get_total_flops())
    assert flops[1] == 2 * flops[0]
    per_token = 2 * 2 * 2 * 8 * 8  # KᵀV and its reading, two heads
    assert flops[0] == 256 * (per_token + (2 * 2 * 2 * 64 * 8 if causal else 0))


def test_errors():
    q, k, v, *_ = tensors(5)
    for arguments, options, message in (
        ((q, k[:, 1:], v), {}, r"q and k must both be \(B, L, H, N\)"),
        ((q, k, v[0]), {}, r"v must be \(B, L, H, P\)"),
        ((q, k, v), {"normalizer": (q, v)}, r"normalizer must be two \(B, L, H, M\)"),
        ((q, k, v), {"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ((q, k, v), {"backend": "cpu"}, "backend must be one of 'auto', 'reference', got 'cpu'"),
    ):
        with pytest.raises(ValueError, match=message):
            linear_attention(*arguments, **options)


def test_rotary_positions():
    frequencies = torch.tensor([1.0, 0.1], dtype=torch.double)
    x = torch.randn(2, 3, 5, 8, dtype=torch.double)
    y = rotate(x, axial_rope(3, 5, frequencies))
    for row, column in ((0, 0), (2, 1), (1, 4)):
        for pair, angle in enumerate((row * 1.0, row * 0.1, column * 1.0, column * 0.1)):
            a, b = x[:, row, column, 2 * pair], x[:, row, column, 2 * pair + 1]
            torch.testing.assert_close(y[:, row, column, 2 * pair], a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(y[:, row, column, 2 * pair + 1], a * math.sin(angle) + b * math.cos(angle))
