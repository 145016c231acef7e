"""Recipes: names find them, backbones change what the table says and nothing else, and their models build."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks import engine, recipes
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.experiments.grid import expand
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from timm.data import create_transform

MIXERS = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
CONTENT = Path(__file__).parents[1] / "data" / "configs.txt"
ELSEWHERE = {"backbone", "run_name", "custom_imports", "predictor", "checker"}  # names of modules, not of a training


@pytest.fixture
def read_once(monkeypatch):
    """Every file is read once, and without what it imports: names may then be resolved by the hundred."""
    own = Config.fromfile
    kept = functools.cache(lambda path: own(path, import_custom_modules=False))
    monkeypatch.setattr(Config, "fromfile", staticmethod(lambda path, **how: copy.deepcopy(kept(path))))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | range):
        return {f"__{type(value).__name__}__": [_plain(item) for item in value]}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _digest(cfg):
    content = {key: _plain(value) for key, value in cfg.to_dict().items() if key not in ELSEWHERE}
    text = json.dumps({key: value for key, value in content.items() if not key.startswith("_")}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_names_of_published_models_give_what_their_own_files_gave(read_once):
    """configs.txt: digests of the 175 resolved configs from when each of these names was a file."""
    known = dict(line.split() for line in CONTENT.read_text().splitlines())
    assert len(known) == 175
    assert [name for name, digest in known.items() if _digest(engine.load_config(name)) != digest] == []


def test_names_say_recipe_and_backbone(read_once, capsys):
    for name, path, backbone, run in (
        ("detection/mask_rcnn_vmamba_tiny_s1l8_1x_coco", "mask_rcnn_1x_coco", "vmamba_tiny_s1l8", None),
        ("detection/mask_rcnn_swin_tiny_patch4_window7_224_3x_coco", "mask_rcnn_3x_coco", "swin_tiny", None),
        ("classification/vim_tiny_stride8_imagenet", "vim_stride8_imagenet", "vim_tiny_stride8", None),
        ("classification/resnet18_fashion_mnist", "fashion_mnist", "resnet18", None),
        ("detection/h2/s6_long", "detection_h2", "mambaout_femto_s6", "detection_h2/s6_long"),
        ("experiments/classification_h1/vit", "classification_h1", "vit_tiny", "classification_h1/vit"),
    ):
        cfg = engine.load_config(name)
        assert (Path(cfg.filename).stem, cfg.backbone) == (path, backbone)
        stem = recipes.read_recipe(Path(cfg.filename)).run_name.format(backbone=backbone)
        assert cfg.run_name == (run or stem)
    assert "resnet18 is not in the table of fashion_mnist: in_chans=1" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"gatedcn_fashion_mnist: no such config.*mambaout_femto_gatedcnn"):
        engine.load_config("classification/mambaout_femto_gatedcn_fashion_mnist")
    with pytest.raises(ValueError, match=r"choose the recipe: classification/deit_imagenet or .*--backbone resnet18"):
        engine.load_config("classification/resnet18_imagenet")


def test_a_backbone_changes_its_row_and_nothing_else(read_once):
    one, other = (
        engine.load_config("classification/vim_imagenet", backbone=f"vim_{size}") for size in ("tiny", "small")
    )
    assert other.model.net == {"name": "vim_small_patch16_224", "drop_path_rate": 0.05}
    assert (one.auto_scale_lr.base_batch_size, other.auto_scale_lr.base_batch_size) == (1024, 512)
    by_name = engine.load_config("classification/vim_imagenet", {"backbone": "vim_small_patch16_224"})
    assert by_name.to_dict() == other.to_dict()
    tagged = engine.load_config("detection/mask_rcnn_1x_coco", backbone="swin_base_patch4_window7_224.ms_in22k_ft_in1k")
    assert tagged.model.backbone.name.endswith(".ms_in22k_ft_in1k")
    assert (tagged.model.backbone.drop_path_rate, tagged.model.neck.in_channels) == (0.3, [128, 256, 512, 1024])
    other_mixer = engine.load_config("detection/mask_rcnn_1x_coco", backbone="mambaout_tiny_s6")
    assert "init_cfg" not in other_mixer.model.backbone


@pytest.mark.parametrize(
    ("name", "backbone", "pyramid", "channels"),
    [
        ("detection/mask_rcnn_1x_coco", "resnet18", None, [64, 128, 256, 512]),
        ("segmentation/upernet_ade20k", "deit_tiny_patch16_224", True, [48, 96, 192, 192]),
    ],
)
def test_any_backbone_of_timms(read_once, name, backbone, pyramid, channels):
    model = engine.load_config(name, backbone=backbone).model
    assert model.backbone.get("pyramid") is pyramid
    assert model.backbone.init_cfg == {"type": "Pretrained", "checkpoint": "timm"}
    assert "drop_path_rate" not in model.backbone
    if "neck" in model:
        assert model.neck.in_channels == channels
    else:
        assert (model.decode_head.in_channels, model.auxiliary_head.in_channels) == (channels, channels[2])


def test_mistakes_with_backbones(read_once, tmp_path):
    with pytest.raises(
        engine.ConfigError, match=r"mask_rcnn_1x_coco.py: --backbone: no model is called 'vmamba_tinny'"
    ):
        engine.load_config("detection/mask_rcnn_1x_coco", backbone="vmamba_tinny")
    (tmp_path / "theirs.py").write_text('model = dict(backbone=dict(type="ResNet"))\n')
    with pytest.raises(engine.ConfigError, match=r"theirs.py: --backbone: expected a TimmBackbone.*is ResNet"):
        engine.load_config(tmp_path / "theirs.py", backbone="resnet18")


def test_a_config_of_ones_own_begins_with_a_packaged_name(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text('_base_ = "mixerzoo::classification/fashion_mnist"\nmodel = dict(net=dict(depths=(1, 1, 1, 1)))\n')
    cfg = engine.load_config(mine)
    assert (cfg.model.net.name, cfg.model.net.depths, cfg.run_name) == ("mambaout_femto_gatedcnn", (1, 1, 1, 1), "mine")
    cfg = engine.load_config(mine, backbone="mambaout_femto_s6")  # chosen below what the file says
    assert (cfg.model.net.name, cfg.model.net.depths) == ("mambaout_femto_s6", (1, 1, 1, 1))
    assert cfg.run_name == "mine_mambaout_femto_s6"
    mine.write_text(
        '_base_ = "mixerzoo::classification/vit_tiny_causal_fashion_mnist"\ntrain_cfg = dict(max_epochs=1)\n'
    )
    cfg = engine.load_config(mine)
    assert (cfg.model.net.name, cfg.train_cfg.max_epochs) == ("vit_tiny_patch16_224_causal", 1)
    mine.write_text('_base_ = "mixerzoo::classification/fashionmnist"\n')
    with pytest.raises(engine.ConfigError, match=r"mine.py: .*classification/fashion_mnist"):
        engine.load_config(mine)


def test_grids(tmp_path):
    grid = {
        "backbone": {"a": "x", "b": "y"},
        "train_cfg.max_epochs": [1, 2],
        "size": {"s": {"m": {"n": 1, "o": {"type": "P"}}}},
    }
    cells = expand(grid)
    assert [cell.name for cell in cells] == [f"{label}_max_epochs={n}_s" for label in "ab" for n in (1, 2)]
    assert cells[0].options == {"backbone": "x", "train_cfg.max_epochs": 1, "m.n": 1, "m.o": {"type": "P"}}
    for wrong, message in (
        ({"lr": []}, "lr: expected a list of values"),
        ({"a": {"s": {"x": 1}}, "b": {"t": {"x": 2}}}, "two of its axes set x"),
        ({"a": ["p/q"]}, "'p/q' cannot be the name"),
    ):
        with pytest.raises(ValueError, match=message):
            expand(wrong)
    own = tmp_path / "own.py"
    own.write_text(
        '_base_ = "mixerzoo::classification/fashion_mnist"\ngrid = {"optim_wrapper.optimizer.lr": [1e-3, 2e-3]}\n'
    )
    assert [cell.name for cell in recipes.experiment(own).cells] == ["lr=0.001", "lr=0.002"]


def test_experiments_have_every_mixer():
    h1 = [cell.name for cell in recipes.experiment("classification/h1").cells]
    assert sorted(h1) == sorted([*MIXERS, "vit", "vit_causal"])
    for task in ("detection", "segmentation"):
        cells = [cell.name for cell in recipes.experiment(f"{task}_h2").cells]
        assert sorted(cells) == sorted(f"{mixer}_{length}" for mixer in MIXERS for length in ("short", "long"))
    assert len(recipes.experiment("depth/synthetic").cells) == len(MIXERS) + 3


def test_configs_command(tmp_path):
    listed = CliRunner().invoke(main, ["configs"])
    assert listed.exit_code == 0, listed.output
    for name in engine.config_names():
        recipe = recipes.read_recipe(engine.find_config(name))
        assert name in listed.output
        stem = name.rpartition("/")[2]
        assert f"train {name}" in recipe.about or f"experiment {stem}" in recipe.about  # its command is its own
        assert len(recipe.about.splitlines()[0]) <= 120
    one = CliRunner().invoke(main, ["configs", "classification/vim_imagenet"])
    assert "76.1 %" in one.output
    assert "vim_tiny                     default\nvim_small\n" in one.output
    plain = tmp_path / "plain.py"
    written = CliRunner().invoke(
        main, ["configs", "classification/fashion_mnist", "--backbone", "vit_tiny", "--write", str(plain)]
    )
    assert written.exit_code == 0, written.output
    ours, theirs = engine.load_config("classification/vit_tiny_fashion_mnist"), Config.fromfile(plain)
    assert theirs.param_scheduler[1].end == ours.train_cfg.max_epochs == 4
    for key in ("model", "train_dataloader", "val_dataloader", "optim_wrapper", "default_hooks", "custom_imports"):
        assert theirs[key] == ours[key]
    assert theirs.keys() <= engine.config.RUNNER_KEYS | {"custom_imports"}
    assert CliRunner().invoke(main, ["configs", "--write", str(plain)]).exit_code == 2


REPRESENTATIVE = [
    ("deit_imagenet", "vit_tiny_causal"),
    ("mambaout_imagenet", "mambaout_femto_gatedcnn"),
    ("vim_imagenet", "vim_tiny"),
    ("vim_stride8_imagenet", "vim_tiny_stride8"),
    ("vmamba_imagenet", "vmamba_tiny_s1l8"),
    ("fashion_mnist", "mambaout_femto_s6"),
    ("fashion_mnist", "vit_tiny"),
    ("fashion_mnist", "resnet18"),
]


@pytest.mark.parametrize(("name", "backbone"), REPRESENTATIVE)
def test_models_build(name, backbone):
    cfg = engine.load_config(f"classification/{name}", backbone=backbone)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    rates = {p.dtype for p in model.parameters()}
    assert rates == {torch.float32}
    shape = cfg.train_dataloader.dataset.transform.input_size
    assert shape == cfg.test_dataloader.dataset.transform.input_size
    assert model(torch.zeros(2, *shape, device="meta")).shape == (2, cfg.model.num_classes)
    build_optim_wrapper(model, cfg.optim_wrapper)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        create_transform(**loader.dataset.transform)


def test_recipes_of_the_papers(read_once):
    deit = engine.load_config("classification/vit_small_causal_imagenet")
    vim = engine.load_config("classification/vim_tiny_imagenet")
    mambaout = engine.load_config("classification/mambaout_tiny_gatedcnn_imagenet")
    vmamba = engine.load_config("classification/vmamba_tiny_s1l8_imagenet")
    four = (deit, vim, mambaout, vmamba)
    assert [cfg.auto_scale_lr.base_batch_size for cfg in four] == [1024, 1024, 4096, 1024]
    assert [cfg.optim_wrapper.optimizer.lr for cfg in four] == [1e-3, 1e-3, 4e-3, 1e-3]
    assert [cfg.optim_wrapper.optimizer.weight_decay for cfg in four] == [0.05, 0.1, 0.05, 0.05]
    assert [cfg.param_scheduler[0].end for cfg in four] == [5, 5, 20, 20]
    assert [cfg.train_cfg.max_epochs for cfg in four] == [300, 300, 310, 300]
    assert [cfg.test_dataloader.dataset.transform.crop_pct for cfg in (deit, mambaout)] == [0.875, 1.0]
    assert deit.train_dataloader.sampler.repeats == vim.train_dataloader.sampler.repeats == 3
    tuned = engine.load_config("classification/vim_tiny_stride8_imagenet")
    assert (tuned.optim_wrapper.optimizer.lr, tuned.train_cfg.max_epochs) == (1e-5, 30)
    assert vmamba.optim_wrapper.clip_grad.max_norm == 5
