"""Losses against loops over pixels, their gradients against finite differences."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from mixerzoo.tasks.depth.losses import (
    _trimmed,
    berhu_loss,
    least_squares_loss,
    scale_shift_invariant_loss,
    silog_loss,
)

ALL = [silog_loss, scale_shift_invariant_loss, least_squares_loss, berhu_loss]


def maps(batch: int = 2, height: int = 9, width: int = 7, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    prediction, target = torch.rand(2, batch, height, width, generator=generator, dtype=torch.double) + 0.5
    mask = torch.rand(batch, height, width, generator=generator) < 0.6
    return prediction.requires_grad_(), target, mask


def pixels(x, mask):
    """Valid values of one image, as a list."""
    return [x[i, j].item() for i in range(x.shape[0]) for j in range(x.shape[1]) if mask[i, j]]


@pytest.mark.parametrize(("lam", "weight"), [(0.85, 10), (0.5, 1), (1, 1), (0, 2)])
def test_silog(lam, weight):
    p, t, mask = maps()
    g = [
        math.log(a) - math.log(b)
        for n in range(2)
        for a, b in zip(pixels(p[n], mask[n]), pixels(t[n], mask[n]), strict=True)
    ]
    mean, squares = sum(g) / len(g), sum(x * x for x in g) / len(g)
    expected = weight * math.sqrt(squares - lam * mean**2)
    assert silog_loss(p, t, mask, lam, weight).item() == pytest.approx(expected, rel=1e-10)


def naive_normalised(x, mask):
    values = sorted(pixels(x, mask))
    median = values[(len(values) - 1) // 2]
    spread = sum(abs(v - median) for v in values) / len(values)
    return (x.detach() - median) / spread


def naive_scale_shift_invariant(p, t, mask, trim, weight, scales):
    total = 0.0
    for n in range(len(p)):
        r = naive_normalised(p[n], mask[n]) - naive_normalised(t[n], mask[n])
        errors = sorted(abs(v) for v in pixels(r, mask[n]))
        total += sum(errors[: int(len(errors) * (1 - trim))]) / (2 * len(errors))
        for k in range(scales):
            step, differences, count = 2**k, 0.0, 0
            rows, columns = range(0, r.shape[0], step), range(0, r.shape[1], step)
            for i in rows:
                for j in columns:
                    count += bool(mask[n, i, j])
                    for a, b in ((i + step, j), (i, j + step)):
                        if a in rows and b in columns and mask[n, i, j] and mask[n, a, b]:
                            differences += abs((r[a, b] - r[i, j]).item())
            total += weight * differences / max(count, 1)
    return total / len(p)


@pytest.mark.parametrize(("trim", "weight", "scales"), [(0.2, 0.5, 4), (0.0, 0.0, 4), (0.5, 2.0, 2)])
def test_scale_shift_invariant(trim, weight, scales):
    p, t, mask = maps()
    loss = scale_shift_invariant_loss(p, t, mask, trim, weight, scales)
    assert loss.item() == pytest.approx(naive_scale_shift_invariant(p, t, mask, trim, weight, scales), rel=1e-10)


@pytest.mark.parametrize("loss", [scale_shift_invariant_loss, least_squares_loss])
def test_no_scale_or_shift_of_the_prediction_changes_it(loss):
    p, t, mask = maps()
    torch.testing.assert_close(loss(3 * p + 2, t, mask), loss(p, t, mask))
    assert loss(5 * t - 1, t, mask) == pytest.approx(0, abs=1e-12)
    assert loss(p, t, mask) > 0.01


def test_medians_are_of_valid_pixels():
    p, t, _ = maps()
    mask = torch.zeros(2, 9, 7, dtype=torch.bool)
    mask[:, :2, :3] = True
    spoiled = torch.where(mask, p, 1e6)
    torch.testing.assert_close(
        scale_shift_invariant_loss(spoiled, t, mask), scale_shift_invariant_loss(p, t, mask), rtol=1e-8, atol=0
    )


def test_trimming_leaves_the_largest_errors_out():
    errors = torch.tensor([1.0, 100.0, 2.0, 3.0, 4.0], dtype=torch.double, requires_grad=True)
    loss = _trimmed(errors, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx((1 + 2 + 3 + 4) / (2 * 5))
    assert errors.grad.tolist() == pytest.approx([0.1, 0, 0.1, 0.1, 0.1])
    assert _trimmed(errors[:1], 0.9).item() == pytest.approx(0.5)  # at least one is kept


def test_least_squares():
    p, t, mask = maps()
    expected = 0.0
    for n in range(2):
        x, y = torch.tensor(pixels(p[n], mask[n])).double(), torch.tensor(pixels(t[n], mask[n])).double()
        design = torch.stack([x, torch.ones_like(x)], dim=1)
        fit = design @ torch.linalg.lstsq(design, y[:, None]).solution
        expected += ((fit[:, 0] - y) ** 2).sum().item() / (2 * len(x)) / 2
    assert least_squares_loss(p, t, mask).item() == pytest.approx(expected, rel=1e-5)


def test_berhu_and_its_gradient():
    p, t, mask = maps()
    differences = [(n, i, j, (p[n, i, j] - t[n, i, j]).item()) for n, i, j in mask.nonzero().tolist()]
    c = max(abs(d) for *_, d in differences) / 5
    expected = sum(abs(d) if abs(d) <= c else (d * d + c * c) / (2 * c) for *_, d in differences) / len(differences)
    loss = berhu_loss(p, t, mask)
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    loss.backward()
    gradient = torch.zeros_like(p)
    for n, i, j, d in differences:
        gradient[n, i, j] = (math.copysign(1, d) if abs(d) <= c else d / c) / len(differences)
    torch.testing.assert_close(p.grad, gradient)
    assert any(abs(d) <= c for *_, d in differences)


@pytest.mark.parametrize(
    "loss",
    [
        silog_loss,
        partial(silog_loss, lam=0.5, weight=1),
        scale_shift_invariant_loss,
        partial(scale_shift_invariant_loss, trim=0.0, gradient_weight=0.0),
        least_squares_loss,
    ],
)
def test_gradients(loss):
    p, t, mask = maps(2, 5, 4, seed=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, t, mask), p)


@pytest.mark.parametrize("loss", ALL)
def test_empty_mask_is_zero_with_a_gradient(loss):
    p, t, mask = maps()
    value = loss(p, t, torch.zeros_like(mask))
    value.backward()
    assert value == 0
    assert not p.grad.any()
    one = maps()[2]
    one[0] = False  # an image without ground truth beside one that has some
    q = maps()[0]
    torch.testing.assert_close(loss(q, t, one), loss(q[1:], t[1:], one[1:]))


@pytest.mark.parametrize("loss", ALL)
def test_perfect_and_constant_predictions_have_finite_gradients(loss):
    _, t, mask = maps()
    for start in (t.clone(), torch.ones_like(t)):
        p = start.requires_grad_()
        loss(p, t, mask).backward()
        assert p.grad.isfinite().all()
        assert not p.grad[~mask].any()


@pytest.mark.parametrize("loss", ALL)
def test_invalid_ground_truth_does_not_reach_the_gradient(loss):
    p, t, mask = maps()
    t = torch.where(mask, t, torch.nan)
    value = loss(p, t, mask)
    value.backward()
    assert value.isfinite()
    assert p.grad.isfinite().all()


def test_bad_arguments():
    p, t, mask = maps()
    with pytest.raises(ValueError, match="lam: expected a number from 0 to 1, got 2"):
        silog_loss(p, t, mask, lam=2)
    with pytest.raises(ValueError, match="trim"):
        scale_shift_invariant_loss(p, t, mask, trim=1.0)
    for loss in ALL:
        with pytest.raises(ValueError, match=r"one shape \(B, H, W\), got \(2, 9, 7\), \(2, 9, 7\), \(1, 9, 7\)"):
            loss(p, t, mask[:1])
