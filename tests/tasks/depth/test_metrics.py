"""Metrics against an independent NumPy/SciPy computation, on random and hand-made maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixerzoo.tasks.depth.metrics import (
    METRICS,
    PROTOCOLS,
    Protocol,
    as_protocol,
    crop_mask,
    flip_average,
    image_metrics,
    mean_metrics,
    with_cap,
)
from scipy import optimize, stats

PLAIN = PROTOCOLS["plain"]


def plain_metrics(p: np.ndarray, g: np.ndarray, low: float, high: float, mask: np.ndarray) -> dict[str, float] | None:
    """Written from the definitions, pixel by pixel where that is clearer."""
    pixels = []
    for row, column in np.argwhere(mask & np.isfinite(g)):
        truth, guess = float(g[row, column]), float(p[row, column])
        if not low < truth < high:
            continue
        guess = low if np.isnan(guess) else min(max(guess, low), high)
        pixels.append((truth, guess))
    if not pixels:
        return None
    g, p = np.array(pixels, dtype=np.float64).T
    ratio = np.where(g > p, g / p, p / g)
    return {
        "abs_rel": np.mean(np.abs(g - p) / g),
        "sq_rel": np.mean((g - p) ** 2 / g),
        "rmse": np.sqrt(np.mean((g - p) ** 2)),
        "rmse_log": np.sqrt(np.mean((np.log(g) - np.log(p)) ** 2)),
        "log10": np.mean(np.abs(np.log10(g) - np.log10(p))),
        "silog": 100 * np.sqrt(stats.describe(np.log(p) - np.log(g), ddof=0).variance),
        "delta1": np.mean(ratio < 1.25),
        "delta2": np.mean(ratio < 1.25**2),
        "delta3": np.mean(ratio < 1.25**3),
        "irmse": 1000 * np.sqrt(np.mean((1 / g - 1 / p) ** 2)),
        "bad_pixels": 100 * np.mean(ratio >= 1.25),
    }


def agree(ours: dict[str, float], expected: dict[str, float]) -> None:
    assert tuple(ours) == METRICS
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name


def random_maps(seed: int, height: int = 24, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(-1, 12, (height, width)).astype(np.float32)  # invalid ones below 0 and beyond the cap too
    prediction = (depth * rng.lognormal(0, 0.3, depth.shape)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.3] = 0
    prediction.flat[:6] = [np.nan, np.inf, -np.inf, -3, 0, 1e9]
    depth.flat[:6] = 2
    return torch.from_numpy(prediction), torch.from_numpy(depth)


@pytest.mark.parametrize("seed", range(5))
def test_random_maps(seed):
    prediction, depth = random_maps(seed)
    everything = np.ones(depth.shape, dtype=bool)
    agree(
        image_metrics(prediction, depth, PLAIN), plain_metrics(prediction.numpy(), depth.numpy(), 1e-3, 10, everything)
    )


def test_one_valid_pixel():
    depth = torch.zeros(3, 4)
    depth[1, 2] = 2.0
    values = image_metrics(torch.full((3, 4), 3.0), depth, PLAIN)
    assert values["abs_rel"] == pytest.approx(0.5)
    assert values["sq_rel"] == pytest.approx(0.5)
    assert values["rmse"] == pytest.approx(1.0)
    assert values["rmse_log"] == pytest.approx(np.log(1.5))
    assert values["silog"] == 0.0
    assert (values["delta1"], values["delta2"], values["delta3"]) == (0.0, 1.0, 1.0)
    assert values["bad_pixels"] == 100.0


def test_thresholds_are_strict():
    exactly = image_metrics(torch.tensor([[1.25]]).double(), torch.tensor([[1.0]]).double(), PLAIN)
    assert exactly["delta1"] == 0.0
    assert exactly["delta2"] == 1.0
    edges = torch.tensor([[1e-3, 10.0, 11.0, 0.0, float("nan"), float("inf")]], dtype=torch.double)
    assert image_metrics(torch.ones(1, 6), edges, PLAIN) is None


def test_silog_ignores_scale_and_is_times_100():
    depth = torch.rand(8, 8) + 1
    assert image_metrics(2 * depth, depth, PLAIN)["silog"] == pytest.approx(0, abs=1e-4)
    two = image_metrics(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]]), PLAIN)
    assert two["silog"] == pytest.approx(100 * np.log(2) / 2, rel=1e-6)


def test_predictions_are_clamped_before_they_count():
    depth = torch.full((1, 4), 5.0)
    prediction = torch.tensor([[float("nan"), float("inf"), -4.0, 25.0]])
    values = image_metrics(prediction, depth, PLAIN)
    assert values["rmse"] == pytest.approx(np.sqrt(np.mean([4.999**2, 25, 4.999**2, 25])))


@pytest.mark.parametrize("crop", ["kitti_garg", "kitti_eigen"])
def test_kitti_crops(crop):
    rows, columns = np.where(crop_mask(crop, 375, 1242).numpy())
    expected = {"kitti_garg": (153, 370, 44, 1196), "kitti_eigen": (124, 341, 44, 1196)}[crop]
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == expected


def test_nyu_crop_and_what_is_none():
    assert crop_mask("nyu_eigen", 480, 640).sum() == (471 - 45) * (601 - 41)
    assert crop_mask("none", 2, 3).all()
    with pytest.raises(ValueError, match=r"480×640 pixels only, got 10×10"):
        crop_mask("nyu_eigen", 10, 10)
    with pytest.raises(ValueError, match="expected one of none"):
        crop_mask("garg", 10, 10)


def test_both_kb_conventions():
    rng = np.random.default_rng(0)
    depth = torch.from_numpy(np.where(rng.random((375, 1242)) < 0.05, rng.uniform(1, 90, (375, 1242)), 0))
    prediction = torch.from_numpy(rng.uniform(1, 90, (352, 1216)))
    whole = np.zeros((375, 1242))
    whole[23:375, 13:1229] = prediction.numpy()
    pasted = np.zeros_like(whole, dtype=bool)
    pasted[153:371, 44:1197] = True
    agree(
        image_metrics(prediction, depth, PROTOCOLS["kitti_bts"]),
        plain_metrics(whole, depth.numpy(), 1e-3, 80, pasted),
    )
    cut = np.zeros((352, 1216), dtype=bool)
    cut[143:349, 43:1172] = True
    agree(
        image_metrics(prediction, depth, PROTOCOLS["kitti_adabins"]),
        plain_metrics(prediction.numpy(), depth.numpy()[23:375, 13:1229], 1e-3, 80, cut),
    )
    with pytest.raises(ValueError, match="expected a prediction of 352×1216"):
        image_metrics(torch.ones(375, 1242), depth, PROTOCOLS["kitti_bts"])
    with pytest.raises(ValueError, match="at least 352×1216"):
        image_metrics(prediction, depth[:, :1000], PROTOCOLS["kitti_bts"])


@pytest.mark.parametrize("seed", range(3))
def test_zero_shot_alignment_is_the_least_squares_fit(seed):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 9, (20, 30))
    inverse = 3 / depth + 0.4 + rng.normal(0, 0.05, depth.shape)
    depth[rng.random(depth.shape) < 0.4] = 0
    valid = depth > 0
    fit = optimize.least_squares(
        lambda st: st[0] * inverse[valid] + st[1] - 1 / depth[valid], [1.0, 0.0], xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    aligned = 1 / np.maximum(fit.x[0] * inverse + fit.x[1], 1 / 10)
    agree(
        image_metrics(torch.from_numpy(inverse), torch.from_numpy(depth), PROTOCOLS["zero_shot_nyu"]),
        plain_metrics(aligned, depth, 1e-3, 10, valid),
    )


def test_alignment_undoes_scale_and_shift_exactly():
    depth = torch.rand(16, 16, dtype=torch.double) * 8 + 1
    values = image_metrics(7 / depth - 2, depth, PROTOCOLS["zero_shot_nyu"])
    assert values["abs_rel"] < 1e-12
    assert values["bad_pixels"] == 0


def test_alignment_of_a_constant_and_of_one_pixel():
    depth = torch.tensor([[2.0, 4.0, 0.0]])
    values = image_metrics(torch.ones(1, 3), depth, PROTOCOLS["zero_shot_nyu"])
    guess = 1 / 0.375
    assert values["rmse"] == pytest.approx(np.sqrt(((guess - 2) ** 2 + (guess - 4) ** 2) / 2))
    alone = image_metrics(torch.rand(1, 3), torch.tensor([[0.0, 3.0, 0.0]]), PROTOCOLS["zero_shot_nyu"])
    assert alone["abs_rel"] < 1e-6
    with pytest.raises(ValueError, match="NaN or infinity"):
        image_metrics(torch.full((1, 3), float("nan")), depth, PROTOCOLS["zero_shot_nyu"])


def test_means_are_over_images_not_pixels():
    plain = PROTOCOLS["plain"]
    sparse, dense, empty = torch.zeros(3, 4, 4).unbind()
    sparse = sparse.clone()
    sparse[0, 0] = 1.0
    dense = dense + 1
    pairs = [(torch.full((4, 4), 2.0), sparse), (dense, dense), (dense, empty)]
    values = mean_metrics([image_metrics(*pair, plain) for pair in pairs], plain)
    assert values["abs_rel"] == pytest.approx(0.5)  # 1 and 0, though one has 16 pixels
    assert (values["images"], values["empty"]) == (2, 1)
    with pytest.raises(ValueError, match="none of 1 images has a valid pixel"):
        mean_metrics([image_metrics(dense, empty, plain)], plain)


def test_protocols_say_what_they_are():
    assert str(PROTOCOLS["kitti_bts"]) == "kitti_bts: 0.001 to 80 m, crop kitti_garg, KB crop by paste"
    assert "fitted per image in inverse depth" in str(PROTOCOLS["zero_shot_nyu"])
    assert with_cap(PROTOCOLS["kitti_bts"], 50.0).max_depth == 50
    with pytest.raises(ValueError, match="protocol: expected one of nyu, kitti_bts"):
        as_protocol("kitti")
    with pytest.raises(ValueError, match="alignment: expected one of none, inverse, got 'median'"):
        Protocol("mine", alignment="median")
    with pytest.raises(ValueError, match="min_depth < max_depth"):
        Protocol("mine", min_depth=20)
    with pytest.raises(ValueError, match="differ in size"):
        image_metrics(torch.ones(2, 2), torch.ones(3, 3), PLAIN)


def test_extra_mask_and_flip():
    depth = torch.ones(2, 2)
    prediction = torch.tensor([[1.0, 9.0], [1.0, 9.0]])
    mask = torch.tensor([[True, False], [True, False]])
    assert image_metrics(prediction, depth, PLAIN, mask)["abs_rel"] == 0

    def ramp(images):  # predicts the column, and so differs between an image and its mirror
        return images[:, 0] * torch.arange(images.shape[-1])

    images = torch.rand(2, 3, 4, 5)
    expected = images[:, 0] * (torch.arange(5) + torch.arange(4, -1, -1)) / 2
    torch.testing.assert_close(flip_average(ramp, images), expected)
