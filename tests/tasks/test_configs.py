"""Every packaged config: it loads, its model trains a step, its schedule ends where the paper's does."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.tasks import engine
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from timm.data import create_transform

NAMES = engine.config_names("classification")


def test_there_is_one_for_every_mixer():
    mixers = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
    for mixer in mixers:
        assert f"classification/mambaout_femto_{mixer}_fashion_mnist" in NAMES
        assert f"classification/h1/{mixer}" in NAMES
    assert {"classification/h1/vit", "classification/h1/vit_causal"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_config(name):
    cfg = engine.load_config(name)
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
    assert name.rpartition("/")[2] in engine.find_config(name).read_text() or "/h1/" in name  # its command is its own


def test_recipes_of_the_papers():
    deit = engine.load_config("classification/vit_small_causal_imagenet")
    vim = engine.load_config("classification/vim_tiny_imagenet")
    mambaout = engine.load_config("classification/mambaout_tiny_gatedcnn_imagenet")
    vmamba = engine.load_config("classification/vmamba_tiny_s1l8_imagenet")
    assert [cfg.auto_scale_lr.base_batch_size for cfg in (deit, vim, mambaout, vmamba)] == [1024, 1024, 4096, 1024]
    assert [cfg.optim_wrapper.optimizer.lr for cfg in (deit, vim, mambaout, vmamba)] == [1e-3, 1e-3, 4e-3, 1e-3]
    assert [cfg.optim_wrapper.optimizer.weight_decay for cfg in (deit, vim, mambaout, vmamba)] == [
        0.05,
        0.1,
        0.05,
        0.05,
    ]
    assert [cfg.param_scheduler[0].end for cfg in (deit, vim, mambaout, vmamba)] == [5, 5, 20, 20]
    assert [cfg.train_cfg.max_epochs for cfg in (deit, vim, mambaout, vmamba)] == [300, 300, 310, 300]
    assert [cfg.test_dataloader.dataset.transform.crop_pct for cfg in (deit, mambaout)] == [0.875, 1.0]
    assert deit.train_dataloader.sampler.repeats == vim.train_dataloader.sampler.repeats == 3
    tuned = engine.load_config("classification/vim_tiny_stride8_imagenet")
    assert (tuned.optim_wrapper.optimizer.lr, tuned.train_cfg.max_epochs) == (1e-5, 30)
    assert vmamba.optim_wrapper.clip_grad.max_norm == 5
