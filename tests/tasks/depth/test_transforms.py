"""Image and depth stay on top of each other, and sizes are those of the published code."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mixerzoo.tasks.depth.transforms import (
    DEPTH_ANYTHING,
    DPT_384,
    DPT_KITTI,
    DPT_NYU,
    GENERIC,
    Convention,
    Crop,
    KBCrop,
    RandomColor,
    RandomCrop,
    RandomFlip,
    RandomRotate,
    Resize,
    evaluation,
    kitti_training,
    nyu_boundary_crop,
    nyu_training,
    square_training,
)


def joint_sample(height: int, width: int) -> dict:
    """The image's first channel is the depth itself, so that any transform that parts them shows."""
    depth = torch.rand(height, width) * 0.8 + 0.1
    return {"image": torch.stack([depth, torch.rand_like(depth), torch.rand_like(depth)]), "depth": depth, "name": "a"}


def together(sample: dict) -> None:
    torch.testing.assert_close(sample["image"][0], sample["depth"])
    assert sample["name"] == "a"


@pytest.mark.parametrize(
    ("transform", "size", "expected"),
    [
        (RandomFlip(p=1), (5, 7), (5, 7)),
        (RandomCrop(3, 4), (5, 7), (3, 4)),
        (RandomCrop(5, 7), (5, 7), (5, 7)),
        (Crop(1, 3, 2, 6), (5, 7), (2, 4)),
        (nyu_boundary_crop(), (480, 640), (427, 565)),
        (KBCrop(), (375, 1242), (352, 1216)),
    ],
)
def test_image_and_depth_move_together(transform, size, expected):
    sample = joint_sample(*size)
    before = {key: value.clone() for key, value in sample.items() if key != "name"}
    after = transform(sample)
    together(after)
    assert after["depth"].shape == expected
    assert all(torch.equal(sample[key], value) for key, value in before.items())


def test_flip():
    sample = joint_sample(4, 6)
    assert RandomFlip(p=0)(sample) is sample
    flipped = RandomFlip(p=1)(sample)
    for x, y in ((0, 5), (2, 3)):
        assert torch.equal(flipped["image"][:, :, x], sample["image"][:, :, y])
        assert torch.equal(flipped["depth"][:, x], sample["depth"][:, y])
    torch.manual_seed(0)
    share = sum(not torch.equal(RandomFlip()(sample)["depth"], sample["depth"]) for _ in range(400)) / 400
    assert 0.4 < share < 0.6


def test_crops_are_where_they_should_be():
    sample = {"image": torch.zeros(3, 375, 1242), "depth": torch.arange(375 * 1242.0).reshape(375, 1242)}
    cropped = KBCrop()(sample)["depth"]
    assert torch.equal(cropped, sample["depth"][23:375, 13:1229])
    whole = evaluation(DPT_KITTI)(sample)
    assert whole["image"].shape == (3, 352, 1216)
    assert whole["depth"] is sample["depth"]  # the metrics cut it, by either convention
    frame = {"image": torch.zeros(3, 480, 640), "depth": torch.arange(480 * 640.0).reshape(480, 640)}
    assert torch.equal(nyu_boundary_crop()(frame)["depth"], frame["depth"][45:472, 43:608])
    corners = {tuple(RandomCrop(479, 639)(frame)["depth"][0, :1].tolist()) for _ in range(50)}
    assert corners == {(0.0,), (1.0,), (640.0,), (641.0,)}


def test_rotation_takes_the_nearest_depth_and_marks_the_outside():
    torch.manual_seed(0)
    sample = {"image": torch.ones(3, 64, 96), "depth": torch.where(torch.rand(64, 96) < 0.5, 2.0, 5.0)}
    rotated = RandomRotate(10, p=1)(sample)
    values = set(rotated["depth"].unique().tolist())
    assert values == {0.0, 2.0, 5.0}  # never a mean of two
    assert not torch.equal(rotated["depth"], sample["depth"])
    outside = F.max_pool2d((rotated["image"][:1] < 1).float(), 3, 1, 1)[0].bool()  # or on its border
    assert ((rotated["depth"] > 0) | outside).all()
    # A bright spot and its depth stay on top of each other.
    spot = {"image": torch.zeros(3, 65, 97), "depth": torch.zeros(65, 97)}
    spot["image"][:, 20:25, 10:15] = 1
    spot["depth"][20:25, 10:15] = 3
    turned = RandomRotate(20, p=1)(spot)
    centers = [
        (weight[..., None] * torch.cartesian_prod(torch.arange(65.0), torch.arange(97.0)).reshape(65, 97, 2)).sum(
            (0, 1)
        )
        / weight.sum()
        for weight in (turned["image"][0], turned["depth"])
    ]
    assert (centers[0] - centers[1]).norm() < 0.5
    assert (centers[0] - torch.tensor([22.0, 12.0])).norm() > 1


def test_colour_changes_the_image_alone():
    sample = joint_sample(4, 5)
    sample["image"][0, 0, 0] = -0.05  # bicubic resizing overshoots
    changed = RandomColor(p=1)(sample)
    assert changed["depth"] is sample["depth"]
    assert changed["image"].isfinite().all()
    assert 0 <= changed["image"].min() <= changed["image"].max() <= 1
    assert not torch.equal(changed["image"], sample["image"].clamp(0, 1))
    fixed = RandomColor(gamma=(2, 2), brightness=(0.5, 0.5), color=(1, 1), p=1)(sample)
    torch.testing.assert_close(fixed["image"], sample["image"].clamp(0, 1) ** 2 / 2)


@pytest.mark.parametrize(
    ("convention", "image", "expected"),
    [
        (DPT_384, (480, 640), (384, 512)),  # 0.8 is nearer to 1 than 0.6
        (DPT_384, (375, 1242), (384, 1280)),
        (DPT_384, (300, 200), (384, 256)),
        (DPT_NYU, (480, 640), (480, 640)),
        (DPT_KITTI, (352, 1216), (352, 1216)),
        (DEPTH_ANYTHING, (480, 640), (518, 686)),
        (DEPTH_ANYTHING, (1000, 100), (5180, 518)),
        (Convention(384, 384, method="upper_bound"), (480, 640), (288, 384)),
        (GENERIC, (1, 1), (384, 384)),
        (DPT_384, (1, 2048), (32, 384)),
    ],
)
def test_published_sizes(convention, image, expected):
    assert convention.size(*image) == expected


def test_bounds_hold_whatever_the_rounding():
    for width in range(300, 700, 7):
        lower, upper = (
            Convention(384, 384, method=method).size(480, width) for method in ("lower_bound", "upper_bound")
        )
        assert min(lower) >= 384
        assert max(upper) <= 384
        assert not any(side % 32 for side in (*lower, *upper))
    with pytest.raises(ValueError, match="method: expected one of minimal, lower_bound, upper_bound, got 'nearest'"):
        Convention(384, 384, method="nearest")


def test_resized_depth_is_one_that_was_there():
    sample = {"image": torch.rand(3, 90, 120), "depth": torch.where(torch.rand(90, 120) < 0.3, 4.0, 0.0)}
    resized = Resize(Convention(64, 64))(sample)
    assert resized["image"].shape[1:] == resized["depth"].shape
    assert set(resized["depth"].unique().tolist()) == {0.0, 4.0}
    untouched = Resize(Convention(64, 64), depth=False)(sample)
    assert untouched["depth"] is sample["depth"]


def test_prepare_and_restore():
    image = torch.rand(3, 384, 512)
    torch.testing.assert_close(DPT_384.prepare(image), image[None] * 2 - 1)
    prediction = torch.rand(1, 20, 30)
    prediction[:, 10:] = 0
    for convention in (DPT_384, DEPTH_ANYTHING):
        back = convention.restore(prediction, (41, 59))
        assert back.shape == (1, 41, 59)
        assert 0 <= back.min() <= back.max() <= prediction.max()
    corners = DEPTH_ANYTHING.restore(prediction, (41, 59))[0, [0, 0], [0, -1]]
    torch.testing.assert_close(corners, prediction[0, 0, [0, -1]])


@pytest.mark.parametrize(
    ("recipe", "size", "expected"),
    [
        (nyu_training, (480, 640), (416, 544)),
        (kitti_training, (375, 1242), (352, 704)),
        (square_training, (500, 741), (384, 384)),
        (square_training, (200, 150), (384, 384)),
    ],
)
def test_recipes(recipe, size, expected):
    torch.manual_seed(0)
    sample = {"image": torch.rand(3, *size), "depth": torch.rand(size) + 1}
    for _ in range(3):
        out = recipe(GENERIC)(sample)
        assert out["image"].shape == (3, *expected)
        assert out["depth"].shape == expected
        assert out["image"].isfinite().all()
    assert out["image"].min() < 0  # normalised


def test_images_too_small_say_so():
    sample = joint_sample(100, 100)
    for transform in (nyu_boundary_crop(), KBCrop(), RandomCrop(416, 544)):
        with pytest.raises(ValueError, match="100×100"):
            transform(sample)
