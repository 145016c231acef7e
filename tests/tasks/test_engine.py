"""Training, testing and predicting from end to end, and what can go wrong on the way."""

from __future__ import annotations

import json
import os
import pickle
import re
import resource
import subprocess
import sys
import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks import engine, pictures
from mixerzoo.tasks.classification.data import read_idx
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.engine import overhead
from mixerzoo.tasks.engine.checkpoints import (
    load_from_url,
    newest_checkpoint,
    read_checkpoint,
    use_safe_loader,
    write_atomically,
)
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image

from .conftest import CONFIG, DATA, SMALL, as_arguments

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run on all 512 images: its folder."""
    options = {
        **SMALL,
        "train_cfg.max_epochs": 12,
        "train_dataloader.dataset.limit": 512,
        "val_dataloader.dataset.limit": 256,
        "train_cfg.val_interval": 4,
    }
    return engine.train(CONFIG, tmp_path_factory.mktemp("runs") / "trained", options=options, data=DATA)


def in_process(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_training_learns_and_reports(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["metrics"]["acc/top1"] > 60  # ten classes, and 512 images to learn them from
    assert result["metrics"]["acc/top5"] > 90
    assert result["iterations"] == 12 * 16
    assert result["train_images_per_s"] > 0
    for picture in ("curves.png", "confusion.png"):
        with Image.open(trained / picture) as image:
            assert image.width > 300
    rows = (trained / "per_class.csv").read_text().splitlines()
    assert len(rows) == 11
    assert sum(int(row.split(",")[1]) for row in rows[1:]) == 256
    assert list(trained.rglob("events.out.tfevents.*"))
    assert sorted(path.name for path in trained.glob("*.pth")) == ["epoch_11.pth", "epoch_12.pth"]
    content = torch.load(trained / "epoch_12.pth", weights_only=True)  # PyTorch's own safe loader takes all of it
    assert content["meta"]["epoch"] == 12


def test_test_gives_the_same_figures_and_predict_labels_pictures(trained, tmp_path):
    result = json.loads((trained / "result.json").read_text())
    options = as_arguments({key: SMALL[key] for key in SMALL if key.startswith("model")})
    tested = in_process("test", CONFIG, trained / "epoch_12.pth", "--data", DATA, *options)
    assert tested.exit_code == 0, tested.output
    assert f"acc/top1 {result['metrics']['acc/top1']:.4f}" in tested.output
    assert (trained / "test" / "confusion.png").exists()

    images = read_idx(DATA / "t10k-images-idx3-ubyte.gz", 3)
    labels = read_idx(DATA / "t10k-labels-idx1-ubyte.gz", 1)
    names = [tmp_path / f"{index}.png" for index in range(20)]
    for name, image in zip(names, images, strict=False):
        Image.fromarray(image).save(name)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn clockwise
    Image.fromarray(np.rot90(images[0]).copy()).save(tmp_path / "turned.png", exif=exif)
    out = tmp_path / "out"
    every = [*names, tmp_path / "turned.png"]
    predicted = in_process("predict", CONFIG, trained / "epoch_12.pth", *every, "--out", out, *options)
    assert predicted.exit_code == 0, predicted.output
    records = json.loads((out / "predictions.json").read_text())
    classes = read_checkpoint(trained / "epoch_12.pth")["meta"]["dataset_meta"]["classes"]
    right = [record["top5"][0]["class"] == classes[label] for record, label in zip(records, labels, strict=False)]
    assert np.mean(right) > 0.5
    assert records[-1]["top5"] == records[0]["top5"]
    for record in records:
        assert sum(item["probability"] for item in record["top5"]) <= 1.001
        with Image.open(out / record["picture"]) as picture:
            assert picture.width >= 320


def test_predict_writes_nothing_if_a_picture_is_none(trained, tmp_path):
    (tmp_path / "no.png").write_text("no picture")
    out = tmp_path / "out"
    options = as_arguments({key: SMALL[key] for key in SMALL if key.startswith("model")})
    result = in_process("predict", CONFIG, trained / "epoch_12.pth", tmp_path / "no.png", "--out", out, *options)
    assert result.exit_code == 1
    assert "no.png: not a picture" in result.output
    assert not out.exists()


def test_predict_takes_folders_and_videos_one_picture_at_a_time(trained, tmp_path, monkeypatch):
    images = read_idx(DATA / "t10k-images-idx3-ubyte.gz", 3)[:6]
    (folder := tmp_path / "pictures").mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("left out")
    video = cv2.VideoWriter(str(folder / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for image in images[:3]:
        video.write(cv2.cvtColor(cv2.resize(image, (64, 64)), cv2.COLOR_GRAY2BGR))
    video.release()
    options = {key: SMALL[key] for key in SMALL if key.startswith("model")}
    alive, most, whole = set(), [], pictures.read_picture

    def counted(*args):
        picture = whole(*args)
        alive.add(id(picture))
        weakref.finalize(picture, alive.discard, id(picture))
        most.append(len(alive))
        return picture

    monkeypatch.setattr(pictures, "read_picture", counted)
    records = engine.predict(CONFIG, trained / "epoch_12.pth", [folder], tmp_path / "out", options=options)
    names = [f"{folder}/{index}.png" for index in range(6)] + [f"{folder}/film.avi#{frame}" for frame in range(3)]
    assert [record["image"] for record in records] == names
    assert max(most) <= 2
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == records
    assert (tmp_path / "out" / "film_000002_labelled.png").exists()
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.mp4").write_text("no video")
    for given, message in (("empty", "empty: no picture here"), ("no.mp4", "no.mp4: not a video that can be read")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            engine.predict(CONFIG, trained / "epoch_12.pth", [tmp_path / given], tmp_path / "none", options=options)
    with pytest.raises(ValueError, match="gives no scores to objects"):
        engine.predict(CONFIG, trained / "epoch_12.pth", [folder], tmp_path / "none", 0.5, options=options)
    assert not (tmp_path / "none").exists()


# A driver that imports the engine once and trains in forked children, so that four runs cost one import.
DRIVER = """
import json, os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from mixerzoo.tasks import engine, pictures
from mixerzoo.tasks.engine import overhead
import mixerzoo.tasks.classification

config, data, options, folder, kills = json.loads(sys.argv[1])

def start(name, **kwargs):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            engine.train(config, os.path.join(folder, name), options=options, data=data, **kwargs)
            code = 0
        finally:
            os._exit(code)
    return child

begun = time.monotonic()
assert os.waitstatus_to_exitcode(os.waitpid(start("whole"), 0)[1]) == 0
whole = time.monotonic() - begun
draw = random.Random()
moments = []
for _ in range(kills):
    child = start("killed", resume=True)
    moments.append(draw.uniform(0.1, 0.8) * whole)
    time.sleep(moments[-1])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
print("killed after", moments, "of", whole, "s; there were", sorted(os.listdir(os.path.join(folder, "killed"))))
assert os.waitstatus_to_exitcode(os.waitpid(start("killed", resume=True), 0)[1]) == 0
"""


@pytest.mark.slow
def test_a_run_killed_thrice_ends_with_the_same_bits(tmp_path):
    """Mixup, stochastic depth, EMA, clipping and accumulation on: everything that is random or has a memory."""
    options = {
        **SMALL,
        "train_cfg.max_epochs": 4,
        "model.net.drop_path_rate": 0.2,
        "model.mixup": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
        "model.label_smoothing": 0.1,
        "optim_wrapper.accumulative_counts": 2,
        "custom_hooks": [{"type": "EMAHook", "momentum": 0.01}],
        "train_dataloader.num_workers": 1,
        "train_dataloader.persistent_workers": True,
    }
    arguments = json.dumps([CONFIG, str(DATA), options, str(tmp_path), 3])
    run = subprocess.run([sys.executable, "-c", DRIVER, arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    whole, killed = (read_checkpoint(tmp_path / name / "epoch_4.pth") for name in ("whole", "killed"))
    for key in ("state_dict", "ema_state_dict"):
        assert whole[key].keys() == killed[key].keys()
        for name, value in whole[key].items():
            assert torch.equal(value, killed[key][name]), (key, name, run.stdout)
    for slot, state in whole["optimizer"]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, killed["optimizer"]["state"][slot][name]), (slot, name)
    a, b = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "killed"))
    assert a["metrics"] == b["metrics"]
    assert a["iterations"] == b["iterations"]


def test_the_validation_that_a_kill_prevented_is_made_up_for(tmp_path, small, data):
    """Killed between the last checkpoint and its validation, a run resumes to a complete result."""
    folder = engine.train(CONFIG, tmp_path / "run", options=small, data=data)
    whole = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    engine.train(CONFIG, folder, resume=True, options=small, data=data)
    again = json.loads((folder / "result.json").read_text())
    assert again["metrics"] == whole["metrics"]
    assert again["metrics"]["acc/top1"] > 0


def test_resuming_with_another_seed_is_refused(tmp_path, small, data):
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    with pytest.raises(ValueError, match=r"of a run with seed 0, not 7; set randomness\.seed=0"):
        engine.train(CONFIG, folder, resume=True, options={**small, "randomness.seed": 7}, data=data)
    with pytest.raises(ValueError, match=r"holds a run up to epoch_1\.pth: add --resume"):
        engine.train(CONFIG, folder, options=small, data=data)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, small, data):
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    before = (folder / "epoch_1.pth").read_bytes()
    assert len(before) > 60_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # logs fit, a checkpoint does not
    try:
        with pytest.raises(OSError, match=r"epoch_2\.pth: could not be written .*; what was there before is intact"):
            engine.train(CONFIG, folder, resume=True, options=small, data=data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (folder / "epoch_1.pth").read_bytes() == before
    assert newest_checkpoint(folder).name == "epoch_1.pth"
    assert not list(folder.glob(".*"))
    engine.train(CONFIG, folder, resume=True, options=small, data=data)
    assert (folder / "epoch_2.pth").exists()


def test_atomic_writing_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(b"old", path)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"file: could not be written \(No space left on device\)"):
        write_atomically(b"new", path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_checkpoint_is_named(tmp_path, small, data):
    folder = engine.train(CONFIG, tmp_path / "run", options=small, data=data)
    whole = (folder / "epoch_2.pth").read_bytes()
    expected = read_checkpoint(folder / "epoch_2.pth")["state_dict"]
    (folder / "result.json").unlink()
    for damaged in (whole[: len(whole) // 2], b"hello", whole[:100] + b"\0" * 9999, b""):
        (folder / "epoch_2.pth").write_bytes(damaged)
        with pytest.raises(
            ValueError, match=r"epoch_2\.pth.*; remove that file to resume from the checkpoint before it"
        ):
            engine.train(CONFIG, folder, resume=True, options=small, data=data)
        with pytest.raises(ValueError, match=r"epoch_2\.pth"):
            engine.test(CONFIG, folder / "epoch_2.pth", options=small, data=data)
    (folder / "epoch_2.pth").unlink()
    engine.train(CONFIG, folder, resume=True, options=small, data=data)
    for name, value in read_checkpoint(folder / "epoch_2.pth")["state_dict"].items():
        assert torch.equal(value, expected[name])


class Bomb:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


class Script(torch.nn.Module):
    """Its TorchScript archive makes a file named "executed" when ``torch.load`` opens it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.zeros(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.weight

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        made = torch.from_file("executed", shared=True, size=2)
        self.weight, self.training = state[0] + made, state[1]


@pytest.mark.parametrize("kind", ["zip", "pickle", "torchscript"])
def test_a_malicious_checkpoint_executes_nothing(tmp_path, small, data, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    target = tmp_path / "executed"
    content = {"state_dict": {"x": torch.zeros(2)}, "meta": {"epoch": 1, "iter": 1, "bomb": Bomb(target)}}
    folder = tmp_path / "run"
    folder.mkdir()
    path = folder / "epoch_1.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    elif kind == "zip":
        torch.save(content, path)
    else:
        torch.jit.script(Script()).save(path)
        target.unlink(missing_ok=True)
    for attempt in (
        lambda: engine.train(CONFIG, folder, resume=True, options=small, data=data),
        lambda: engine.train(CONFIG, tmp_path / "other", options={**small, "load_from": str(path)}, data=data),
        lambda: engine.test(CONFIG, path, options=small, data=data),
        lambda: engine.predict(CONFIG, path, [], tmp_path / "out", options=small),
    ):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            attempt()
        assert not target.exists()
    pickle.loads(pickle.dumps(Bomb(target)))  # the bomb is live
    assert target.exists()


@pytest.mark.parametrize("address", ["modelzoo://resnet50", "open-mmlab://resnet50", "s3://bucket/file.pth"])
def test_addresses_whose_loaders_execute_pickles_are_refused(address):
    use_safe_loader()
    with pytest.raises(ValueError, match=f"{address}: expected a checkpoint's path or its https"):
        CheckpointLoader.load_checkpoint(address)


def test_a_downloaded_checkpoint_is_read_safely(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    use_safe_loader()
    source = tmp_path / "source.pth"
    torch.save({"state_dict": {"x": torch.ones(2)}, "bomb": Bomb(tmp_path / "executed")}, source)
    with pytest.raises(ValueError, match="it calls"):
        load_from_url(source.as_uri())
    assert not (tmp_path / "executed").exists()
    torch.save({"state_dict": {"x": torch.ones(2)}}, tmp_path / "good.pth")
    assert load_from_url((tmp_path / "good.pth").as_uri())["state_dict"]["x"].tolist() == [1, 1]


def test_a_config_inside_a_checkpoint_is_not_run(tmp_path, small, data):
    """mmengine's resume executes the text in ``meta["config"]`` as Python."""
    folder = engine.train(CONFIG, tmp_path / "run", options={**small, "train_cfg.max_epochs": 1}, data=data)
    content = torch.load(folder / "epoch_1.pth", weights_only=True)
    content["meta"]["config"] = f"open({str(tmp_path / 'executed')!r}, 'w')"
    torch.save(content, folder / "epoch_1.pth")
    engine.train(CONFIG, folder, resume=True, options=small, data=data)
    assert not (tmp_path / "executed").exists()


MISTAKES = [
    ({"model.net.name": "mambaout_femto_gatedcn"}, r"model: no model is called.*did you mean.*mambaout_femto_gatedcnn"),
    (
        {"model.net.dephts": (1, 1, 1, 1)},
        r"model: MambaOut.*unexpected keyword argument 'dephts'; rename or remove dephts",
    ),
    ({"model.lable_smoothing": 0.1}, r"model: .*lable_smoothing"),
    ({"model.type": "Clasifier"}, r"model: no model is called Clasifier; did you mean Classifier"),
    ({"model.loss": "hinge"}, r"model: loss: expected cross_entropy or bce, got 'hinge'"),
    (
        {"model.num_classes": 12},
        r"num_classes is 12, but train_dataloader\.dataset has 10 classes; set model\.num_classes",
    ),
    ({"optim_wrapper.optimizer.opt": "adamwww"}, r"optim_wrapper: no optimizer is called adamwww; did you mean adamw"),
    ({"optim_wrapper.optimizer.lr": None}, r"optim_wrapper: .*lr"),
    ({"train_dataloader.dataset.split": "dev"}, r"train_dataloader: split: expected train or test, got 'dev'"),
    ({"train_dataloader.dataset.limit": 0}, r"train_dataloader: limit: expected at least 1 image, got 0"),
    (
        {"train_dataloader.dataset.limit": 20},
        r"train_dataloader: no batch in an epoch: 20 images at batch_size 32; lower",
    ),
    ({"train_dataloader.dataset.transform.color_jiter": 1}, r"train_dataloader: .*color_jiter"),
    ({"param_scheduler.0.type": "LinearLr"}, r"param_scheduler: .*LinearLr"),
    ({"train_cfg.max_epoch": 3}, r"train_cfg: .*max_epoch"),
    ({"train_dataloder": 3}, r"--cfg-options train_dataloder: no such key; there are"),
    ({"model.nett.name": 3}, r"--cfg-options model\.nett\.name: there is no model\.nett; at that place there is type"),
    ({"custom_hooks": [{"type": "EMAHok"}]}, r"custom_hooks: .*EMAHok"),
    ({"default_hooks.checkpoint.max_keep_ckpts": 1}, r"max_keep_ckpts is 1: .*; keep 2"),
    ({"default_hooks.checkpoint.intervall": 2}, r"checkpoint\.intervall: no such key; rename it to interval"),
    ({"train_dataloader.dataset.type": "FashionMINST"}, r"train_dataloader: no dataset is called.*mean FashionMNIST"),
    ({"optim_wrapper.optimizer.lr": "fast"}, r"optim_wrapper: .*optimizer\.lr: expected a number.*'fast'"),
    ({"train_cfg.max_epochs": 0}, r"train_cfg: nothing to train; set max_epochs"),
    ({"model": None}, r"model: not given; add it, or begin with _base_"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[next(iter(options)) for options, _ in MISTAKES])
def test_mistakes_are_one_line_that_names_file_and_key(tmp_path, options, message):
    arguments = ("train", CONFIG, "--work-dir", tmp_path / "run", "--data", DATA, *as_arguments({**SMALL, **options}))
    result = in_process(*arguments)
    assert result.exit_code == 1
    assert re.match(rf"mixerzoo: .*fashion_mnist\.py: {message}", result.stderr) or re.match(
        rf"mixerzoo: .*fashion_mnist\.py: .*{message}", result.stderr
    ), result.stderr
    assert result.stderr.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pth"))


def test_data_sets_must_have_the_same_classes(tmp_path, small):
    for split, names in (("train", "abc"), ("val", "abd")):
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (28, 28)).save(tmp_path / split / name / "0.png")
    options = {
        **small,
        "model.num_classes": 3,
        "model.net.in_chans": 3,
        "train_dataloader.batch_size": 2,
        "train_dataloader.dataset.type": "ImageFolder",
        "val_dataloader.dataset.type": "ImageFolder",
        "val_dataloader.dataset.split": "val",
    }
    with pytest.raises(
        engine.ConfigError, match=r"val_dataloader\.dataset: its 3 classes are not the 3 of train_.* it lacks c"
    ):
        engine.train(CONFIG, tmp_path / "run", options=options, data=tmp_path)
    (tmp_path / "val" / "d").rename(tmp_path / "val" / "c")
    folder = engine.train(CONFIG, tmp_path / "run", options={**options, "train_cfg.max_epochs": 1}, data=tmp_path)
    (tmp_path / "val" / "c").rename(tmp_path / "val" / "d")
    tested = {**options, "test_dataloader.dataset.type": "ImageFolder", "test_dataloader.dataset.split": "val"}
    with pytest.raises(
        engine.ConfigError, match=r"test_dataloader\.dataset: its 3 .* the 3 of epoch_1\.pth: it lacks c"
    ):
        engine.test(CONFIG, folder / "epoch_1.pth", options=tested, data=tmp_path)


def test_missing_data_says_how_to_get_it(tmp_path):
    result = in_process("train", CONFIG, "--work-dir", tmp_path / "run", "--data", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "train_dataloader: root:" in result.stderr
    assert "apt-get install dataset-fashion-mnist" in result.stderr


def test_a_config_of_ones_own(tmp_path, data):
    (tmp_path / "mine.py").write_text(f'_base_ = "{engine.find_config(CONFIG)}"\nmodel = {{"num_classes": 10}}\n')
    assert engine.load_config(tmp_path / "mine.py", data=data).train_dataloader.dataset.root == str(data)
    (tmp_path / "slip.py").write_text(f'_base_ = "{engine.find_config(CONFIG)}"\ntrain_dataloder = {{}}\n')
    with pytest.raises(
        engine.ConfigError, match=r"slip\.py: unknown key 'train_dataloder'; rename it to 'train_dataloader'"
    ):
        engine.load_config(tmp_path / "slip.py")
    (tmp_path / "broken.py").write_text("model = {")
    with pytest.raises(engine.ConfigError, match=r"broken\.py: not a config that can be read: SyntaxError"):
        engine.load_config(tmp_path / "broken.py")
    with pytest.raises(
        FileNotFoundError, match=r"no such config file, nor a packaged one; the closest are .*_gatedcnn_"
    ):
        engine.load_config("classification/mambaout_femto_gatedcn_fashion_mnist")


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path, data):
    with pytest.raises(ValueError, match=r"epoch_12\.pth: not of this config's model"):
        engine.test(CONFIG, trained / "epoch_12.pth", tmp_path / "test", data=data)
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such checkpoint"):
        engine.test(CONFIG, trained / "none.pth", data=data)
    with pytest.raises(ValueError, match=r"epoch_12\.pth: not of this config's model: it .*; give the config it was"):
        engine.train(CONFIG, trained, resume=True, data=data, options={"train_dataloader.num_workers": 0})
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(ValueError, match=r"file is not a folder; choose another --work-dir"):
        engine.train(CONFIG, file, data=data)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision(tmp_path, small, data, dtype):
    folder = engine.train(CONFIG, tmp_path / "run", amp=dtype, options=small, data=data)
    checkpoint = read_checkpoint(folder / "epoch_2.pth")
    assert all(value.dtype == torch.float32 for value in checkpoint["state_dict"].values())
    assert ("scale" in checkpoint["optimizer"]["scaler"]) == (dtype == "float16")
    losses = checkpoint["message_hub"]["log_scalars"]["train/loss"][0]
    assert len(losses) == 8
    assert losses.isfinite().all()


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, small, data):
    """Gloo on the CPU: the same losses and weights as one process at the same global batch."""
    one = engine.train(CONFIG, tmp_path / "one", options=small, data=data)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += ["-m", "mixerzoo.tasks.cli", "train", CONFIG, "--work-dir", str(tmp_path / "two"), "--data", str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = as_arguments({**small, "train_dataloader.batch_size": 16})
    run = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("result.json") == 1
    a, b = (read_checkpoint(folder / "epoch_2.pth") for folder in (one, tmp_path / "two"))
    losses = [content["message_hub"]["log_scalars"]["train/loss"][0] for content in (a, b)]
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
    for name, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][name], rtol=1e-3, atol=2e-4)
    metrics = [json.loads((folder / "result.json").read_text())["metrics"] for folder in (one, tmp_path / "two")]
    assert metrics[0]["acc/top1"] == pytest.approx(metrics[1]["acc/top1"], abs=2)
    assert json.loads((tmp_path / "two" / "result.json").read_text())["world_size"] == 2


def test_the_plain_loop_beside_the_engine_computes_the_same(small, data):
    """What `mixerzoo.tasks.engine.overhead` times is one training twice; the times themselves are not tested."""
    measured = overhead.measure(CONFIG, 12, data, {**small, "train_dataloader.dataset.limit": 512})
    losses = measured["losses"]
    assert len(losses["engine"]) == len(losses["plain"]) == 12
    np.testing.assert_allclose(losses["engine"], losses["plain"], rtol=1e-3)
    assert losses["engine"][-1] < losses["engine"][0]
    assert measured["low"] <= measured["overhead"] <= measured["high"]
    with pytest.raises(ValueError, match="at least 10, got 3"):
        overhead.measure(CONFIG, 3, data, small)
