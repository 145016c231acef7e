"""The composed data set: masks are what was drawn, boxes are tight, the layouts are COCO's and ADE20K's."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from mixerzoo.tasks.synthetic import composed
from PIL import Image

from ..conftest import DATA

NUMBERS = {"images": 6, "val_images": 3, "size": 96, "sides": (10, 60), "items": (4, 9), "root": DATA}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return composed.compose(tmp_path_factory.mktemp("composed") / "set", **NUMBERS)


def decoded(segmentation):
    """COCO's definition of run lengths, one by one."""
    height, width = segmentation["size"]
    values = [i % 2 for i, run in enumerate(segmentation["counts"]) for _ in range(run)]
    return np.array(values, bool).reshape(width, height).T


@pytest.mark.parametrize(
    "mask",
    [np.eye(3, 5), np.ones((2, 3)), np.zeros((2, 3)), np.arange(20).reshape(4, 5) % 3 == 0],
    ids=["diagonal", "full", "empty", "stripes"],
)
def test_run_lengths_decode_to_the_mask(mask):
    mask = mask.astype(bool)
    rle = composed.run_lengths(mask)
    assert sum(rle["counts"]) == mask.size
    np.testing.assert_array_equal(decoded(rle), mask)


def test_pycocotools_reads_the_run_lengths():
    coder = pytest.importorskip("pycocotools.mask", reason="pycocotools comes with the mm extra")
    mask = np.random.default_rng(0).random((37, 53)) < 0.3
    rle = composed.run_lengths(mask)
    np.testing.assert_array_equal(coder.decode(coder.frPyObjects(rle, *rle["size"])).astype(bool), mask)


def test_an_item_is_where_the_picture_differs_from_its_background():
    painter = composed.Painter("train", 96, (1, 1), (30, 40), 0, DATA)
    for number in range(1, 6):
        rng = np.random.default_rng([0, sorted(composed.PHOTOS).index("train"), number])
        background, drawn = painter.background(rng), painter.draw(number)
        changed = (background != drawn.picture).any(-1)
        assert not (changed & (drawn.owner == 0)).any()  # nothing is painted outside the mask
        inside = drawn.owner == 1
        assert inside.any()
        assert changed[inside].mean() > 0.95  # paint may hit the background's own colour


def test_later_items_hide_earlier_ones_and_what_is_hidden_is_no_item():
    painter = composed.Painter("val", 64, (12, 12), (30, 60), 3, DATA)
    hidden = 0
    for number in range(1, 6):
        drawn = painter.draw(number)
        visible = drawn.visible()
        total = np.sum([mask for _, mask in visible], axis=0)
        assert total.max() <= 1  # no pixel belongs to two
        labels = drawn.ade_labels()
        assert set(np.unique(labels)) <= set(range(12))
        for label, mask in visible:
            assert set(labels[mask]) == {label + 2}
        np.testing.assert_array_equal(labels == 1, drawn.owner == 0)
        np.testing.assert_array_equal(labels == 0, (drawn.owner > 0) & (total == 0))
        hidden += (labels == 0).any()
        assert all(0 <= seen <= 1 for seen in drawn.seen)
    assert hidden


def test_coco_layout_masks_and_boxes(written):
    for split, count in (("train", 6), ("val", 3)):
        content = json.loads((written / f"coco/annotations/instances_{split}2017.json").read_text())
        assert [category["id"] for category in content["categories"]] == list(range(1, 11))
        assert [category["name"] for category in content["categories"]] == list(composed.ITEM_CLASSES)
        assert len(content["images"]) == count
        assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
        painter = composed.Painter(split, 96, (4, 9), (10, 60), 0, DATA)
        for entry in content["images"]:
            with Image.open(written / f"coco/{split}2017" / entry["file_name"]) as picture:
                assert picture.size == (entry["width"], entry["height"]) == (96, 96)
            own = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
            drawn = painter.draw(entry["id"])
            assert len(own) == len(drawn.visible())
            for annotation, (label, mask) in zip(own, drawn.visible(), strict=True):
                np.testing.assert_array_equal(decoded(annotation["segmentation"]), mask)
                assert annotation["category_id"] == label + 1
                assert annotation["area"] == mask.sum()
                x, y, w, h = annotation["bbox"]
                assert mask[y : y + h, x : x + w].sum() == mask.sum()
                for edge in (mask[y, x : x + w], mask[y + h - 1, x : x + w]):
                    assert edge.any()
                for edge in (mask[y : y + h, x], mask[y : y + h, x + w - 1]):
                    assert edge.any()


def test_ade_layout(written):
    ade = written / "ade/ADEChallengeData2016"
    for split, short, count in (("training", "train", 6), ("validation", "val", 3)):
        names = sorted(path.name for path in (ade / "images" / split).iterdir())
        assert names == [f"ADE_{short}_{i:08d}.jpg" for i in range(1, count + 1)]
        painter = composed.Painter(short, 96, (4, 9), (10, 60), 0, DATA)
        for number, name in enumerate(names, start=1):
            with Image.open(ade / "annotations" / split / name.replace(".jpg", ".png")) as labels:
                assert labels.mode == "L"
                np.testing.assert_array_equal(np.asarray(labels), painter.draw(number).ade_labels())


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(written, tmp_path):
    again = composed.compose(tmp_path / "again", **NUMBERS)
    files = sorted(path.relative_to(written) for path in written.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (written / file).read_bytes() == (again / file).read_bytes(), file
    more = composed.compose(tmp_path / "more", **{**NUMBERS, "images": 7})
    first = "coco/train2017/000000000001.jpg"
    assert (more / first).read_bytes() == (written / first).read_bytes()
    other = composed.compose(tmp_path / "other", **NUMBERS, seed=1)
    assert (other / first).read_bytes() != (written / first).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "at least 1"),
        ({"size": 8}, "32 to 4096"),
        ({"items": (3, 2)}, "least ≤ largest"),
        ({"sides": (4, 20)}, "8 ≤ least"),
        ({"root": "/nowhere"}, "dataset-fashion-mnist"),
    ],
)
def test_bad_input_leaves_nothing(options, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        composed.compose(tmp_path / "bad", **{**NUMBERS, **options})
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(composed, "_coco", full)
    with pytest.raises(OSError, match="no space"):
        composed.compose(tmp_path / "half", **NUMBERS)
    assert not list(tmp_path.iterdir())


def test_command(tmp_path):
    arguments = ["--out", tmp_path / "set", "--images", 1, "--size", 64, "--data", DATA]
    first = CliRunner().invoke(composed.main, [str(argument) for argument in arguments])
    assert first.exit_code == 0, first.output
    assert (tmp_path / "set/coco/annotations/instances_val2017.json").is_file()
    second = CliRunner().invoke(composed.main, [str(argument) for argument in arguments])
    assert second.exit_code == 1
    assert "exists already" in second.output
