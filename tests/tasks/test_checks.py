"""Data of classification and depth, checked before training: ``--check-data``, units, and sizes that do not fit."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks import engine
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.depth.check import check_range
from mixerzoo.tasks.depth.losses import silog_loss
from mixerzoo.tasks.engine.sampling import collate
from mixerzoo.tasks.synthetic.rooms import write_nyu
from PIL import Image

from .conftest import CONFIG, as_arguments

DEPTH = "depth/mambaout_femto_gatedcnn_synthetic"


def folders(root, split):
    for name, count in (("cat", 2), ("dog", 3)):
        (root / split / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (28, 28), 40 * number).save(root / split / name / f"{number}.png")


def test_every_picture_is_read_and_counted(tmp_path, small):
    for split in ("train", "val"):
        folders(tmp_path, split)
    options = {
        **small,
        "classes": ("cat", "dog"),
        "model.net.in_chans": 3,
        "train_cfg.max_epochs": 1,
        "train_dataloader.batch_size": 2,
        "train_dataloader.dataset.type": "ImageFolder",
        "val_dataloader.dataset.type": "ImageFolder",
        "val_dataloader.dataset.split": "val",
        "test_dataloader.dataset.type": "ImageFolder",
        "test_dataloader.dataset.split": "val",
    }
    command = ["train", CONFIG, "--data", str(tmp_path), "--check-data", *as_arguments(options)]
    result = CliRunner().invoke(main, [*command, "--work-dir", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "train_dataloader: 5 pictures can be read: cat 2, dog 3" in result.output
    assert "val_dataloader: 5 pictures can be read: cat 2, dog 3" in result.output
    (tmp_path / "val" / "dog" / "1.png").write_text("no picture")
    result = CliRunner().invoke(main, [*command, "--work-dir", str(tmp_path / "other")])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "val_dataloader: " in result.stderr
    assert "dog/1.png: not a picture" in result.stderr
    assert not (tmp_path / "other").exists()


def test_depth_in_another_unit_is_named(tmp_path):
    from mixerzoo.tasks.depth.check import check_data

    write_nyu(tmp_path, 6, 4, scale=0.1)
    assert check_data(engine.load_config(DEPTH, data=tmp_path), thorough=True) == 10
    for depth in (2000.0, 0.002):
        with pytest.raises(ValueError, match=r"first batch: the median of its depth is .* m, .*; is counts_per_metre"):
            check_range(torch.full((2, 8, 8), depth), (1e-3, 10.0), "the first batch")
    check_range(torch.zeros(2, 8, 8), (1e-3, 10.0), "an empty one")
    check_range(torch.rand(2, 8, 8) * 10, (1e-3, 10.0), "indoors")
    assert silog_loss(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)) == 0


def test_depth_in_another_unit_stops_the_training(tmp_path):
    """Not at the first validation, after an epoch with the loss 0."""
    from mixerzoo.tasks.depth.model import DepthModel

    net = {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32), "features": 16}
    model = DepthModel({**net, "max_depth": 10.0}, {"name": "silog"})
    image = torch.rand(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"the first batch: the median of its depth is 3e\+03 m"):
        model(image, torch.full((1, 32, 32), 3000.0), mode="loss")
    assert model(image, torch.full((1, 32, 32), 3.0), mode="loss")["loss"].isfinite()


def test_pictures_of_two_sizes_in_a_batch_are_named():
    samples = [
        {"image": torch.zeros(3, *size), "depth": torch.zeros(size), "name": name}
        for name, size in (("wide.png", (4, 6)), ("high.png", (6, 4)))
    ]
    with pytest.raises(ValueError, match=r"wide\.png has \(3, 4, 6\), high\.png \(3, 6, 4\); set batch_size=1"):
        collate(samples)
    batch = collate([samples[0], samples[0]])
    assert batch["image"].shape == (2, 3, 4, 6)
    images, labels = collate([(torch.zeros(1, 2, 2), 3), (torch.ones(1, 2, 2), 4)])
    assert images.shape == (2, 1, 2, 2)
    assert labels.tolist() == [3, 4]


def test_a_checkpoint_says_the_largest_depth_it_was_trained_with(tmp_path):
    from .depth.test_training import SMALL

    write_nyu(tmp_path / "data", 6, 4, scale=0.1)
    options = {**SMALL, "train_cfg.max_epochs": 1}
    folder = engine.train(DEPTH, tmp_path / "run", options=options, data=tmp_path / "data")
    other = {**options, "model.net.max_depth": 80.0}
    with pytest.raises(ValueError, match=r"epoch_1\.pth: trained with model\.net\.max_depth = 10\.0, .* has 80\.0"):
        engine.test(DEPTH, folder / "epoch_1.pth", options=other, data=tmp_path / "data")
    with pytest.raises(ValueError, match=r"trained with model\.net\.max_depth = 10\.0"):
        engine.predict(DEPTH, folder / "epoch_1.pth", [], tmp_path / "out", options=other)
    insisted = {**other, "allow_other_context": True}
    far = engine.test(DEPTH, folder / "epoch_1.pth", options=insisted, data=tmp_path / "data")
    near = engine.test(DEPTH, folder / "epoch_1.pth", options=options, data=tmp_path / "data")
    assert far["depth/abs_rel"] > near["depth/abs_rel"]
