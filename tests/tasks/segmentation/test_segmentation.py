"""mmseg's UperNet on the engine: training, testing, predicting, data checks, and mmseg's own way with our backbone."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks import engine, recipes
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.engine.checkpoints import read_checkpoint
from mixerzoo.tasks.synthetic import composed
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from ..conftest import DATA, as_arguments

pytest.importorskip("mmseg", reason="needs the extra mm")

from mixerzoo.tasks.segmentation.check import check_data

DOCS = (Path(__file__).parents[3] / "docs" / "segmentation.md").read_text()
CONFIG = "segmentation/upernet_mambaout_femto_gatedcnn_composed"
MODEL = {
    "model.backbone.depths": (1, 1, 1, 1),
    "model.backbone.dims": (16, 24, 32, 48),
    "model.decode_head.in_channels": [16, 24, 32, 48],
    "model.decode_head.channels": 16,
    "model.auxiliary_head.in_channels": 32,
    "model.auxiliary_head.channels": 8,
    # 24 pictures teach little more than what is background, which is then to count
    "model.decode_head.loss_decode.class_weight": None,
    "model.auxiliary_head.loss_decode.class_weight": None,
}
SMALL = {
    **MODEL,
    "train_cfg.max_epochs": 12,
    "train_cfg.val_interval": 12,
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "test_dataloader.num_workers": 0,
    "optim_wrapper.optimizer.lr": 5e-3,
    "param_scheduler.0.end": 6,
    "param_scheduler.1.begin": 6,
}
ONE_EPOCH = {key: value for key, value in SMALL.items() if not key.startswith("param_scheduler")}
ONE_EPOCH.update({"train_cfg.max_epochs": 1, "param_scheduler": None})
TESTING = {key: value for key, value in SMALL.items() if key.startswith(("model", "test_dataloader"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder that --data takes: 24 and 8 pictures of 64×64."""
    folder = tmp_path_factory.mktemp("data") / "set"
    composed.compose(folder, 24, 8, 64, (1, 3), (24, 48), root=DATA)
    return folder / "ade/ADEChallengeData2016"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    return engine.train(CONFIG, tmp_path_factory.mktemp("runs") / "trained", options=SMALL, data=data, check_data=True)


def in_process(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_training_learns_and_testing_gives_the_last_validation(trained, data):
    result = json.loads((trained / "result.json").read_text())
    history = read_checkpoint(trained / "epoch_12.pth")["message_hub"]["log_scalars"]["train/loss"][0]
    assert history[-3:].mean() < 0.6 * history[:3].mean()
    assert result["metrics"]["seg/aAcc"] > 40  # of pixels; a third to two thirds are background
    assert result["iterations"] == 12 * 6
    tested = in_process("test", CONFIG, trained / "epoch_12.pth", "--data", data, *as_arguments(TESTING))
    assert tested.exit_code == 0, tested.output
    for key in ("seg/mIoU", "seg/aAcc", "seg/mAcc"):
        assert f"{key} {result['metrics'][key]:.2f}" in tested.output


def test_predict_draws_the_classes_onto_pictures(trained, data, tmp_path):
    images = sorted((data / "images/validation").iterdir())[:2]
    odd = tmp_path / "odd.png"
    Image.open(images[0]).resize((75, 50)).convert("L").save(odd)  # no multiple of anything, and grey
    out = tmp_path / "out"
    options = as_arguments(TESTING)
    predicted = in_process("predict", CONFIG, trained / "epoch_12.pth", *images, odd, "--out", out, *options)
    assert predicted.exit_code == 0, predicted.output
    records = json.loads((out / "predictions.json").read_text())
    assert [record["image"] for record in records] == [str(path) for path in (*images, odd)]
    for record in records:
        with Image.open(record["image"]) as picture, Image.open(out / record["labels"]) as labels:
            assert labels.size == picture.size
            values, counts = np.unique(np.asarray(labels), return_counts=True)
        assert values.min() >= 1  # 0 is ADE20K's "other", which is never predicted
        assert values.max() <= 11
        named = {composed.ADE_CLASSES[v - 1]: c / counts.sum() for v, c in zip(values, counts, strict=True)}
        assert {item["class"]: item["share"] for item in record["classes"]} == pytest.approx(named, abs=1e-4)
        with Image.open(out / record["picture"]) as drawn:
            assert drawn.width >= 320


def test_predict_writes_nothing_if_a_picture_is_none(trained, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    out = tmp_path / "out"
    options = as_arguments(TESTING)
    result = in_process("predict", CONFIG, trained / "epoch_12.pth", tmp_path / "no.png", "--out", out, *options)
    assert result.exit_code == 1
    assert "no.png: not a picture" in result.output
    assert not out.exists()


def _without_labels(folder):
    sorted((folder / "annotations/training").iterdir())[3].unlink()


def _with_label_200(folder):
    Image.new("L", (64, 64), 200).save(sorted((folder / "annotations/validation").iterdir())[1])


def _of_another_size(folder):
    Image.new("L", (32, 64), 1).save(sorted((folder / "annotations/training").iterdir())[0])


def _in_colour(folder):
    Image.new("RGB", (64, 64), "red").save(sorted((folder / "annotations/training").iterdir())[5])


def _broken(folder):
    path = sorted((folder / "images/training").iterdir())[7]
    path.write_bytes(path.read_bytes()[:100])


def _empty(folder):
    for path in (folder / "images/validation").iterdir():
        path.unlink()


def _no_folder(folder):
    shutil.rmtree(folder / "annotations/training")


@pytest.mark.parametrize(
    ("damage", "cheap", "message"),
    [
        (_without_labels, True, "ADE_train_00000004.png: no such label file; every image needs one"),
        (_with_label_200, False, "ADE_val_00000002.png: label 200, but with 11 classes the largest is 11"),
        (_of_another_size, True, "32×64 pixels, but its image 64×64"),
        (_in_colour, False, "ADE_train_00000006.png: expected one channel of 8 bits"),
        (_broken, False, "ADE_train_00000008.jpg: not a"),
        (_empty, True, "images/validation: no image that ends in .jpg"),
        (_no_folder, True, "annotations/training: no such folder; put the data there or give its place as --data"),
    ],
)
def test_damaged_data_is_found_before_training(damage, cheap, message, data, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(data, folder)
    damage(folder)
    arguments = [*as_arguments(MODEL), "--data", folder, "--work-dir", tmp_path / "run"]
    if not cheap:
        arguments.append("--check-data")
    result = in_process("train", CONFIG, *arguments)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.strip().splitlines()[-1]) < 300
    assert not (tmp_path / "run").exists()


def test_sound_data_passes(data):
    cfg = engine.load_config(CONFIG, data=data)
    assert check_data(cfg, thorough=True) == 24 + 8  # validation and test set are one
    cfg.model.decode_head.num_classes = 150
    with pytest.raises(
        ValueError, match=r"num_classes is 150, but train_dataloader\.dataset has 11 classes; set it to 11"
    ):
        check_data(cfg)


def relabel(folder, how):
    for path in (folder / "annotations").rglob("*.png"):
        with Image.open(path) as labels:
            Image.fromarray(how(np.array(labels))).save(path)


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        (
            lambda x: np.where(x > 1, 255, 0).astype(np.uint8),
            {"reduce_zero_label": False},
            r"24 of 24 label files hold the values 0, 255, where 255 means ignore: of the classes there is a [\d,]+; "
            r"no pixel of b; save 0 for a, 1 for the next class",
        ),
        (
            lambda x: (x > 1).astype(np.uint8),
            {"reduce_zero_label": True},
            r"hold the values 0, 1, where 255 means ignore, and with reduce_zero_label so does 0: .* no pixel of b; ",
        ),
    ],
)
def test_binary_masks_from_which_nothing_is_learnt_are_explained(how, options, message, data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "set")
    relabel(folder, how)
    changes = {f"{key}_dataloader.dataset.{name}": x for key in ("train", "val", "test") for name, x in options.items()}
    cfg = engine.load_config(CONFIG, {**changes, "classes": ("a", "b")}, folder)
    with pytest.raises(ValueError, match=message):
        check_data(cfg)


def test_one_class_under_a_softmax_is_refused(data):
    with pytest.raises(ValueError, match=r"num_classes is 1: a softmax over one class has the loss 0"):
        check_data(engine.load_config(CONFIG, {"classes": ("a",)}, data))
    with pytest.raises(engine.ConfigError, match=r"classes: expected a list of names such as .*, got 'fish'"):
        engine.load_config(CONFIG, {"classes": "fish"}, data)


def test_own_classes_are_named_once(data, tmp_path, capsys):
    """Two classes, given to the packaged config in one place, train and are measured; so is a part of the set's own."""
    folder = shutil.copytree(data, tmp_path / "set")
    relabel(folder, lambda x: np.where(x == 0, 0, np.where(x == 1, 1, 2)).astype(np.uint8))
    options = {**ONE_EPOCH, "train_cfg.val_interval": 1, "classes": ("ground", "thing")}
    run = engine.train(CONFIG, tmp_path / "own", options=options, data=folder)
    content = read_checkpoint(run / "epoch_1.pth")
    assert list(content["meta"]["dataset_meta"]["classes"]) == ["ground", "thing"]
    assert content["state_dict"]["decode_head.conv_seg.weight"].shape[0] == 2
    assert "pixels per class: ground " in capsys.readouterr().out
    part = engine.load_config(CONFIG, {**MODEL, "classes": ("background", "Bag")}, data)
    assert check_data(part, thorough=True) == 32
    assert re.search(r"pixels per class: .*Bag [\d,]+; ignored", capsys.readouterr().out)


def test_a_label_beyond_the_classes_is_named_without_a_check(data, tmp_path):
    folder = shutil.copytree(data, tmp_path / "set")
    last = sorted((folder / "annotations/training").iterdir())[-2]
    Image.new("L", (64, 64), 200).save(last)
    with pytest.raises(ValueError, match=rf"{last.name}: class 199 .* there are 11 classes"):
        engine.train(CONFIG, tmp_path / "a", options=ONE_EPOCH, data=folder)
    Image.new("L", (64, 32), 1).save(last)
    with pytest.raises(ValueError, match=rf"{last.name}: 64×32 pixels, but its picture .* has 64×64"):
        engine.train(CONFIG, tmp_path / "b", options=ONE_EPOCH, data=folder)


def test_the_config_of_the_docs_runs_through_mmseg_alone(data, tmp_path):
    """Nothing but its custom_imports is ours: mmengine's own Runner, as mmseg's tools/train.py."""
    (tmp_path / "mine.py").write_text(re.search(r"```python\n(.*?)```", DOCS, re.DOTALL)[1])
    cfg = Config.fromfile(tmp_path / "mine.py")
    cfg.work_dir, cfg.log_level, cfg.train_cfg.max_iters = str(tmp_path / "run"), "ERROR", 2
    cfg.train_dataloader.dataset.data_root, cfg.train_dataloader.num_workers = str(data), 0
    cfg.train_dataloader.dataset.pipeline[2].scale = cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.depths = (1, 1, 1, 1)
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.backbone.named_parameters()}
    runner.train()
    assert runner.iter == 2
    moved = [not torch.equal(before[name], value) for name, value in runner.model.backbone.named_parameters()]
    assert np.mean(moved) > 0.9


def test_commands_of_the_docs_are_there():
    lines = [
        line.partition("#")[0].split() for line in re.search(r"```bash\n(.*?)```", DOCS, re.DOTALL)[1].splitlines()
    ]
    for program, *words in lines:
        if program == "mixerzoo":
            main.get_command(None, words[0]).make_context(words[0], words[1:])
            names = [word.removeprefix("config:") for word in words]
            config = next(name for name in names if name.startswith("segmentation/"))
            assert recipes.experiment(config) if "/h2" in config else engine.find_config(config)
        elif program == "python":
            assert words[:2] == ["-m", composed.__name__]
            composed.main.make_context("composed", words[2:])
    assert len(lines) == 7


@pytest.mark.slow
def test_an_iteration_based_run_goes_on_with_the_same_bits_on_ade20k_layout(data, tmp_path):
    """ADE20K's own config, made small, on the composed set by --data alone; broken off after two of four iterations."""
    options = {
        **MODEL,
        "model.data_preprocessor.size": (64, 64),
        "model.backbone.init_cfg": None,
        "train_dataloader.dataset.pipeline.2.scale": (256, 64),
        "train_dataloader.dataset.pipeline.3.crop_size": (64, 64),
        "train_dataloader.num_workers": 1,
        "test_dataloader.dataset.pipeline.1.scale": (256, 64),
        "val_dataloader.dataset.pipeline.1.scale": (256, 64),
        "train_cfg.val_interval": 2,
        "default_hooks.checkpoint.interval": 2,
        "param_scheduler.0.end": 2,
        "param_scheduler.1.begin": 2,
        "param_scheduler.1.end": 5,
    }
    config = "segmentation/upernet_mambaout_tiny_gatedcnn_ade20k"
    whole = engine.train(config, tmp_path / "whole", options={**options, "train_cfg.max_iters": 4}, data=data)
    broken = engine.train(config, tmp_path / "broken", options={**options, "train_cfg.max_iters": 2}, data=data)
    engine.train(config, broken, resume=True, options={**options, "train_cfg.max_iters": 4}, data=data)
    a, b = (read_checkpoint(folder / "iter_4.pth")["state_dict"] for folder in (whole, broken))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    results = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (whole, broken)]
    assert results[0] == results[1]
    assert set(results[0]) == {"seg/aAcc", "seg/mIoU", "seg/mAcc"}


@pytest.mark.slow
def test_mixed_precision(data, tmp_path):
    options = {**SMALL, "train_cfg.max_epochs": 3, "train_cfg.val_interval": 3}
    folder = engine.train(CONFIG, tmp_path / "amp", amp="bfloat16", options=options, data=data)
    assert np.isfinite(json.loads((folder / "result.json").read_text())["metrics"]["seg/aAcc"])
