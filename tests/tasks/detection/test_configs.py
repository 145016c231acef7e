"""Every packaged detection config: it builds, its neck fits its backbone, its groups cover every parameter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("mmdet", reason="mmdet comes with the mm extra")

import torch
from mixerzoo.tasks import engine
from mixerzoo.tasks.config_source import networks
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, DefaultScope

ROOT = Path(__file__).parents[3]
NAMES = engine.config_names("detection")
MIXERS = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")


def test_there_is_one_for_every_mixer_and_length():
    for mixer in MIXERS:
        assert f"detection/mask_rcnn_mambaout_tiny_{mixer}_1x_coco" in NAMES
        for length in ("short", "long"):
            cfg = engine.load_config(f"detection/h2/{mixer}_{length}")
            assert cfg.model.backbone.name == f"mambaout_femto_{mixer}"


@pytest.mark.parametrize("name", NAMES)
def test_config(name):
    cfg = engine.load_config(name)
    net = networks(cfg)["detector"].requires_grad_(True)
    assert net.detector.backbone.out_strides == [4, 8, 16, 32]
    with torch.no_grad():
        outputs = net(torch.zeros(1, 3, 64, 96, device="meta"))
    classes = cfg.model.roi_head.bbox_head.num_classes
    assert outputs[-1].shape == (100, classes, 28, 28)
    wrapper = build_optim_wrapper(net.detector, cfg.optim_wrapper)
    held = sum(p.numel() for group in wrapper.optimizer.param_groups for p in group["params"])
    assert held == sum(p.numel() for p in net.detector.parameters())
    with DefaultScope.overwrite_default_scope("mmdet"):
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            for step in loader.dataset.pipeline:
                TRANSFORMS.build(step)
    for key in ("val", "test"):
        data = cfg[f"{key}_dataloader"].dataset
        assert cfg[f"{key}_evaluator"].ann_file == f"{data.data_root}/{data.ann_file}"
        assert data.data_root == cfg.train_dataloader.dataset.data_root
    assert name.rpartition("/")[2] in engine.find_config(name).read_text() or "/h2" in name  # its command is its own


def test_recipes_of_the_papers():
    one, three = (engine.load_config(f"detection/mask_rcnn_vmamba_tiny_s1l8_{length}_coco") for length in ("1x", "3x"))
    assert [cfg.train_cfg.max_epochs for cfg in (one, three)] == [12, 36]
    assert [cfg.param_scheduler[1].milestones for cfg in (one, three)] == [[8, 11], [27, 33]]
    assert one.param_scheduler[0].end == 1000
    assert one.auto_scale_lr.base_batch_size == 8 * one.train_dataloader.batch_size == 16
    assert (one.optim_wrapper.optimizer.lr, one.optim_wrapper.optimizer.weight_decay) == (1e-4, 0.05)
    assert one.model.backbone.drop_path_rate == 0.2
    assert [step.type for step in three.train_dataloader.dataset.pipeline][3] == "RandomChoice"
    vim = engine.load_config("detection/mask_rcnn_vim_tiny_1x_coco")
    assert vim.optim_wrapper.optimizer.layer_decay == 0.837


def test_the_lines_of_the_docs(tmp_path):
    """docs/detection.md: its config of one's own builds as it stands, and the configs it names exist."""
    text = (ROOT / "docs" / "detection.md").read_text()
    (tmp_path / "own.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    cfg = Config.fromfile(tmp_path / "own.py")
    with DefaultScope.overwrite_default_scope("mmdet"), torch.device("meta"):
        detector = MODELS.build(cfg.model)
    assert detector.backbone.out_channels == cfg.model.neck.in_channels
    for name in re.findall(r"(?:train|test|predict|experiment) (detection/\S+)", text):
        assert engine.config_names(name) or engine.find_config(name), name
