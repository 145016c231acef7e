"""The data check: every way in which a COCO file can be wrong is one line before training starts."""

from __future__ import annotations

import copy
import json
import re
import shutil

import pytest
from click.testing import CliRunner
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.detection.check import DataError, check_data
from mixerzoo.tasks.synthetic.composed import ITEM_CLASSES
from mmengine.config import Config, ConfigDict
from PIL import Image

from ..conftest import as_arguments
from .conftest import CONFIG, SMALL


@pytest.fixture
def broken(coco, tmp_path):
    """A copy of the data to break."""
    return shutil.copytree(coco, tmp_path / "coco")


def config(root):
    """A config as far as the check reads it."""
    dataset = {
        "data_root": str(root),
        "ann_file": "annotations/instances_train2017.json",
        "data_prefix": {"img": "train2017/"},
        "metainfo": {"classes": ITEM_CLASSES},
    }
    heads = {"bbox_head": {"num_classes": 10}, "mask_head": {"num_classes": 10}}
    return Config({"model": {"roi_head": heads}, "train_dataloader": {"dataset": dataset}}, filename=__file__)


def change(root, what):
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    what(content)
    path.write_text(json.dumps(content))


def polygon(*points):
    return lambda c: c["annotations"][2].update(segmentation=[list(points)])


MISTAKES = {
    "key": (lambda c: c.pop("categories"), r"lacks the key 'categories'; COCO's format has images, annotations"),
    "empty": (lambda c: c["annotations"].clear(), r"'annotations' is empty"),
    "entry": (
        lambda c: c["images"][1].pop("height"),
        r"entry 1 of 'images' lacks 'height'; every entry needs id",
    ),
    "twice": (lambda c: c["images"][1].update(id=1), r"'images' has the id 1 twice; ids must be unique"),
    "image": (lambda c: c["annotations"][2].update(image_id=99), r"annotation 3 is of image 99, which is not listed"),
    "category": (
        lambda c: [a.update(category_id=11) for a in c["annotations"]],
        r"annotation 1 has category_id 11, which is not among .* \(and \d+ more like it\)",
    ),
    "name": (lambda c: c["categories"][0].update(name="Shoe"), r"has no category 'T-shirt/top', which the config's"),
    "same": (
        lambda c: c["categories"].append({"id": 77, "name": "Trouser"}),
        r"the categories with the ids 2 and 77 are both called 'Trouser'; rename or merge them",
    ),
    "text": (lambda c: c["annotations"][2].update(bbox=["1", 3, 9, 5]), r"four numbers x, y, width, height, got \['1'"),
    "nan": (lambda c: c["annotations"][2].update(bbox=[float("nan"), 3, 9, 5]), r"four numbers .*, got \[nan"),
    "high": (lambda c: c["images"][1].update(height="64"), r"image 2 has height '64'; expected a number of pixels"),
    "words": (polygon("a", 1, 2, 3, 4, 5), r"its polygon must be a list of numbers"),
    "box": (lambda c: c["annotations"][2].update(bbox=[60, 3, 9, 5]), r"image 1 \(64×64\): its bbox .* lies outside"),
    "polygon": (polygon(1, 1, 90, 1, 9, 9), r"annotation 3 .* its mask reaches from x = 1 to 90, outside the image"),
    "below": (polygon(1, -9, 9, 1, 9, 9), r"its mask reaches from y = -9 to 9, outside the image"),
    "points": (polygon(1, 1, 9, 1), r"at least three points x, y, got 4 numbers"),
    "size": (
        lambda c: c["annotations"][2]["segmentation"].update(size=[32, 64]),
        r"its mask is made for size \[32, 64\], not \[64, 64\]",
    ),
    "mask": (lambda c: c["annotations"][2].pop("segmentation"), r"it has no segmentation, which this model learns"),
    "file": (
        lambda c: c["images"][3].update(file_name="no.jpg"),
        r"train2017/no\.jpg is missing; put the picture",
    ),
}


def test_good_data_passes(coco):
    assert check_data(config(coco), thorough=True) == 8
    wrapped = config(coco)
    wrapped.train_dataloader.dataset = ConfigDict(type="RepeatDataset", dataset=wrapped.train_dataloader.dataset)
    assert check_data(wrapped) == 8


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(broken, name):
    what, message = MISTAKES[name]
    change(broken, what)
    with pytest.raises(DataError, match=rf"instances_train2017\.json: .*{message}") as caught:
        check_data(config(broken))
    assert "\n" not in str(caught.value)


def test_a_text_for_a_list_and_a_byte_order_mark_are_named(broken):
    cfg = config(broken)
    cfg.train_dataloader.dataset.metainfo.classes = "fish"
    with pytest.raises(DataError, match=r"metainfo\.classes is the text 'fish', not a list .*\('fish',\), with"):
        check_data(cfg)
    path = broken / "annotations" / "instances_train2017.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    with pytest.raises(DataError, match=r"instances_train2017\.json: begins with a byte-order mark"):
        check_data(config(broken))


def test_boxes_per_class_are_said(coco, capsys):
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    trousers = sum(annotation["category_id"] == 2 for annotation in content["annotations"])
    check_data(config(coco))
    said = capsys.readouterr().out
    assert "8 pictures; boxes per class: T-shirt/top " in said
    assert f", Trouser {trousers}, " in said


def test_a_test_set_needs_no_annotations(coco, broken):
    change(broken, lambda c: c.pop("annotations"))
    cfg = config(coco)
    cfg.test_dataloader = {"dataset": {**cfg.train_dataloader.dataset, "data_root": str(broken)}}
    assert check_data(cfg, thorough=True) == 16
    cfg.val_dataloader = cfg.test_dataloader
    with pytest.raises(DataError, match="lacks the key 'annotations'"):
        check_data(cfg)


def test_pictures_are_opened_on_request(broken):
    path = broken / "train2017" / "000000000002.jpg"
    Image.new("RGB", (32, 64)).save(path)
    assert check_data(config(broken)) == 8
    with pytest.raises(DataError, match=r"000000000002\.jpg is 32×64, not 64×64 as stated"):
        check_data(config(broken), thorough=True)
    path.write_text("no picture")
    with pytest.raises(DataError, match=r"000000000002\.jpg: not a picture"):
        check_data(config(broken), thorough=True)


def test_no_file_and_another_number_of_classes(coco, tmp_path):
    with pytest.raises(DataError, match=r"instances_train2017\.json: no such file; put the annotations there"):
        check_data(config(tmp_path))
    cfg = copy.deepcopy(config(coco))
    cfg.model.roi_head.mask_head.num_classes = 80
    with pytest.raises(DataError, match=r"test_check\.py: mask_head\.num_classes is 80, but .* 10 classes; set it"):
        check_data(cfg)


def test_training_does_not_start_on_wrong_data(broken, tmp_path):
    pytest.importorskip("mmdet", reason="mmdet comes with the mm extra")
    path = broken / "train2017" / "000000000002.jpg"
    path.write_text("no picture")
    arguments = ["train", CONFIG, "--data", str(broken), "--work-dir", str(tmp_path / "run"), *as_arguments(SMALL)]
    result = CliRunner().invoke(main, [*arguments, "--check-data"])
    assert result.exit_code == 1
    assert re.fullmatch(r"mixerzoo: .*000000000002\.jpg: not a picture.*\n", result.stderr), result.stderr
    path.unlink()
    result = CliRunner().invoke(main, arguments)
    assert re.fullmatch(r"mixerzoo: .*000000000002\.jpg is missing; .*\n", result.stderr), result.stderr
    assert not (tmp_path / "run").exists()
