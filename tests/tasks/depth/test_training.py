"""Depth through the engine: training, testing, predicting, and every packaged config."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks import engine, recipes
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.config_source import image_shape, networks, sizes
from mixerzoo.tasks.depth.images import read_depth_png
from mixerzoo.tasks.depth.metrics import PROTOCOLS, image_metrics
from mixerzoo.tasks.depth.model import DepthModel
from mixerzoo.tasks.depth.score import DepthScore
from mixerzoo.tasks.depth.transforms import as_convention
from mixerzoo.tasks.engine.checkpoints import read_checkpoint
from mixerzoo.tasks.engine.optim import param_groups
from mixerzoo.tasks.experiments.headline import headline_of
from mixerzoo.tasks.experiments.report import macs
from mixerzoo.tasks.synthetic.rooms import write_nyu
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from ..conftest import as_arguments
from ..test_engine import DRIVER

CONFIG = "depth/mambaout_femto_gatedcnn_synthetic"
SMALL = {
    "model.net.depths": (1, 1, 1, 1),
    "model.net.dims": (8, 16, 24, 32),
    "model.net.features": 16,
    "train_cfg.max_epochs": 2,
    "train_dataloader.batch_size": 4,
    "val_dataloader.batch_size": 3,
    "test_dataloader.batch_size": 5,
    "param_scheduler.0.end": 4,
    **{
        f"{place}.convention.{side}": length
        for place in ("model", *(f"{key}_dataloader.dataset.transform" for key in ("train", "val", "test")))
        for side, length in (("height", 48), ("width", 64))
    },
}
MODEL = {key: value for key, value in SMALL.items() if key.startswith("model")}


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """16 rooms to train, 8 to test, 48×64."""
    root = tmp_path_factory.mktemp("rooms")
    write_nyu(root, 16, 8, scale=0.1)
    return root


@pytest.fixture(scope="module")
def trained(rooms, tmp_path_factory):
    """A finished run of 40 iterations."""
    options = {**SMALL, "train_cfg.max_epochs": 10, "train_cfg.val_interval": 5}
    return engine.train(CONFIG, tmp_path_factory.mktemp("runs") / "trained", options=options, data=rooms)


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def test_training_learns_and_reports(trained):
    losses = read_checkpoint(trained / "epoch_10.pth")["message_hub"]["log_scalars"]["train/loss"][0]
    assert losses[-8:].mean() < 0.8 * losses[:8].mean()
    metrics = result_of(trained)["metrics"]
    assert metrics["depth/images"] == 8
    assert metrics["depth/abs_rel"] < 1
    assert 0 < metrics["depth/delta1"] < 1
    rows = list(csv.DictReader((trained / "per_image.csv").open()))
    assert np.mean([float(row["abs_rel"]) for row in rows]) == pytest.approx(metrics["depth/abs_rel"])
    assert all(row["name"].endswith(".jpg") for row in rows)


def test_test_gives_the_last_validations_figures(trained, rooms):
    """In batches of another size."""
    tested = engine.test(CONFIG, trained / "epoch_10.pth", options=MODEL | SMALL, data=rooms)
    expected = result_of(trained)["metrics"]
    assert tested.keys() >= expected.keys()
    for key, value in expected.items():
        assert tested[key] == pytest.approx(value, rel=1e-4), key


def test_flipped_pictures_give_flipped_predictions(rooms):
    cfg = engine.load_config(CONFIG, {**MODEL, "model.flip_test": True})
    model = MODELS.build(cfg.model).eval()
    image, depth = torch.randn(2, 3, 64, 64), torch.ones(2, 48, 64)
    with torch.inference_mode():
        there, back = (torch.stack(model(x, depth, mode="predict")) for x in (image, image.flip(-1)))
    assert there.shape == depth.shape
    torch.testing.assert_close(there, back.flip(-1))


def test_predict_writes_depth_pictures_and_points(trained, rooms, tmp_path):
    images = sorted(rooms.glob("*/rgb_0000[0-2].jpg"))
    out = tmp_path / "out"
    options = as_arguments({**MODEL, "predict_cfg.point_cloud": True})
    command = ["predict", CONFIG, trained / "epoch_10.pth", *images, images[0], "--out", out, *options]
    run = CliRunner().invoke(main, [str(part) for part in command])
    assert run.exit_code == 0, run.output
    records = json.loads((out / "predictions.json").read_text())
    assert [record["image"] for record in records] == [str(image) for image in [*images, images[0]]]
    assert len({record["depth"] for record in records}) == 4
    for record in records:
        depth, unit = read_depth_png(out / record["depth"])
        assert depth.shape == (48, 64)
        assert unit == record["unit"] == "metre"
        assert np.percentile(depth.numpy(), (1, 99)).tolist() == pytest.approx(record["range"], abs=1e-3)
        assert (out / record["picture"]).stat().st_size > 5000
        assert (out / record["point_cloud"]).read_bytes().startswith(b"ply\nformat binary")
    assert f"{records[0]['range'][0]:.3g} to " in run.output

    (tmp_path / "no.png").write_text("no picture")
    command = ["predict", CONFIG, trained / "epoch_10.pth", images[0], tmp_path / "no.png", "--out", tmp_path / "none"]
    run = CliRunner().invoke(main, [str(part) for part in [*command, *options]])
    assert run.exit_code == 1
    assert "no.png: not a picture" in run.stderr
    assert not (tmp_path / "none").exists()


def test_a_relative_model_learns_inverse_depth(rooms, tmp_path):
    options = {
        **SMALL,
        "model.net.max_depth": None,
        "model.loss": {"_delete_": True, "name": "scale_shift_invariant"},
        "val_evaluator.protocol": "zero_shot_nyu",
        "train_cfg.max_epochs": 1,
    }
    metrics = result_of(engine.train(CONFIG, tmp_path, options=options, data=rooms))["metrics"]
    assert 0 < metrics["depth/abs_rel"] < 1
    model = MODELS.build(engine.load_config(CONFIG, options).model).train()
    image, depth = torch.randn(2, 3, 64, 64), torch.rand(2, 64, 64) + 0.5
    depth[:, :9] = 0
    expected = model.loss(model.net(image), 1 / depth, depth > 0)
    assert torch.equal(model(image, depth, mode="loss")["loss"], expected)


@pytest.mark.parametrize("dtype", ["bfloat16"])
def test_mixed_precision(rooms, tmp_path, dtype):
    folder = engine.train(CONFIG, tmp_path, amp=dtype, options={**SMALL, "train_cfg.max_epochs": 1}, data=rooms)
    checkpoint = read_checkpoint(folder / "epoch_1.pth")
    assert all(value.dtype == torch.float32 for value in checkpoint["state_dict"].values())
    assert checkpoint["message_hub"]["log_scalars"]["train/loss"][0].isfinite().all()


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(rooms, tmp_path):
    options = {**SMALL, "train_cfg.max_epochs": 4}
    arguments = json.dumps([CONFIG, str(rooms), options, str(tmp_path), 1])
    run = subprocess.run([sys.executable, "-c", DRIVER, arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    whole, killed = (read_checkpoint(tmp_path / name / "epoch_4.pth") for name in ("whole", "killed"))
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, killed["state_dict"][name]), (name, run.stdout)
    assert result_of(tmp_path / "whole")["metrics"] == result_of(tmp_path / "killed")["metrics"]


@pytest.mark.slow
def test_two_processes_train_as_one(rooms, tmp_path):
    """Gloo on the CPU; every parameter is used, so DDP has nothing to look for. SILog's root is per process: compared
    are the losses of a mean, berHu's, and the metrics of a test set that two processes do not divide evenly."""
    options = {**SMALL, "model.loss": {"_delete_": True, "name": "least_squares"}, "model.net.max_depth": None}
    options["val_evaluator.protocol"] = "zero_shot_nyu"
    one = engine.train(CONFIG, tmp_path / "one", options=options, data=rooms)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "mixerzoo.tasks.cli", "train", CONFIG, "--work-dir", str(tmp_path / "two"), "--data", str(rooms)]
    arguments = as_arguments({**options, "train_dataloader.batch_size": 2})
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    a, b = (read_checkpoint(folder / "epoch_2.pth") for folder in (one, tmp_path / "two"))
    losses = [content["message_hub"]["log_scalars"]["train/loss"][0] for content in (a, b)]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-5)
    figures = [result_of(folder)["metrics"] for folder in (one, tmp_path / "two")]
    assert figures[0]["depth/images"] == figures[1]["depth/images"] == 8
    assert figures[0]["depth/abs_rel"] == pytest.approx(figures[1]["depth/abs_rel"], rel=2e-2)


def test_scores_are_those_of_the_metrics():
    prediction, depth = torch.rand(3, 6, 8) + 1, torch.rand(3, 6, 8) + 1
    depth[1] = 0
    score = DepthScore("plain")
    score.process({"name": ["a", "b", "c"], "depth": depth}, list(prediction))
    figures = score.evaluate(3)
    singles = [image_metrics(prediction[i], depth[i], PROTOCOLS["plain"]) for i in (0, 2)]
    assert figures["depth/abs_rel"] == pytest.approx(np.mean([single["abs_rel"] for single in singles]))
    assert (figures["depth/images"], figures["depth/empty"]) == (2, 1)
    with pytest.raises(ValueError, match=r"protocol: .*max_dept"):
        DepthScore({"name": "mine", "max_dept": 3.0})


MISTAKES = [
    ({"model.loss.name": "sillog"}, "model: loss: expected a name of silog, .*got 'sillog'"),
    ({"model.loss.name": "least_squares"}, "model: loss: least_squares is for predictions of the unit relative.*silog"),
    ({"model.net.name": "mambaout_femto_gatedcn"}, "model: unknown depth model.*mambaout_femto_gatedcnn"),
    ({"model.net.dephts": (1, 1)}, "model: MambaOut.*dephts"),
    ({"model.convention.hight": 3}, "model: .*Convention.*hight"),
    ({"val_evaluator.protocol": "nyuu"}, "protocol: expected one of nyu, .*got 'nyuu'"),
    ({"train_dataloader.dataset.files": "none.txt"}, "train_dataloader: .*none.txt: expected a text file"),
    ({"train_dataloader.dataset.transform.type": "nyu_trainin"}, "train_dataloader: .*nyu_trainin"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[next(iter(options)) for options, _ in MISTAKES])
def test_mistakes_name_file_and_key(rooms, tmp_path, options, message):
    with pytest.raises(ValueError, match=f"synthetic.py: .*{message}"):
        engine.train(CONFIG, tmp_path / "run", options={**SMALL, **options}, data=rooms)
    assert not list((tmp_path / "run").glob("*.pth"))


def test_fine_tuning_is_of_the_networks_that_are_pre_trained():
    for backbone in recipes.experiment("depth/castel").backbones:
        fine, pre = (engine.load_config(f"depth/{which}", backbone=backbone).model for which in ("castel", "synthetic"))
        assert fine == pre  # or nothing would be loaded


@pytest.mark.parametrize(
    "name",
    ["dpt_hybrid_nyu", "dpt_large_kitti", "mambaout_femto_ssd_synthetic", "vim_tiny_synthetic", "vmamba_nano_castel"],
)
def test_config(name):
    cfg = engine.load_config(f"depth/{name}")
    with torch.device("meta"):
        model: DepthModel = MODELS.build(cfg.model)
    shape = image_shape(cfg)
    assert model(torch.zeros(1, *shape, device="meta")).shape == (1, *shape[1:])
    build_optim_wrapper(model, cfg.optim_wrapper)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert as_convention(loader.dataset.transform.convention) == model.net.convention
    assert sizes(cfg) == [(480, 640), (352, 1216)]
    assert headline_of(cfg).metric == "depth/abs_rel"


def test_the_pretrained_part_learns_slower():
    cfg = engine.load_config("depth/dpt_hybrid_nyu")
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    rates = {id(p): group["lr"] for group in param_groups(model, 1.0, 0.01, network_scale=0.1) for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert {rates[id(p)] for p in model.net.backbone.parameters()} == {0.1}
    assert {rates[id(p)] for p in model.net.head.parameters()} == {1.0}


def test_analyze_counts_a_configs_network():
    command = ["analyze", f"config:{CONFIG}", "--input", "96x128", "--json"]
    run = CliRunner().invoke(main, command)
    assert run.exit_code == 0, run.output
    whole, backbone = json.loads(run.stdout)
    counted = networks(engine.load_config(CONFIG))
    for record, network in zip((whole, backbone), counted.values(), strict=True):
        assert record["params"] == sum(p.numel() for p in network.parameters())
        assert record["length_class"] == "never"
    assert whole["macs"] == pytest.approx(macs(engine.load_config(CONFIG)), rel=1e-3)
    assert 0 < backbone["macs"] < whole["macs"]
    assert CliRunner().invoke(main, ["analyze"]).exit_code != 0
