"""Every packaged segmentation config: it builds, its channels fit, and it costs what the papers print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mixerzoo.tasks import engine, experiment
from mixerzoo.tasks.config_source import networks, sizes
from mmengine.optim import build_optim_wrapper
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("mmseg", reason="needs the extra mm")


NAMES = engine.config_names("segmentation")
QUICK = [name for name in NAMES if "composed" in name or "/h2" in name]
MIXERS = ("gatedcnn", "s6", "bis6", "ss2d", "ssd", "attn", "attn_causal", "pool", "identity")
DOCS = (Path(__file__).parents[3] / "docs" / "segmentation.md").read_text()
TABLE = re.findall(r"^\| (upernet_\w+) \| (\d+) \| ([\d.]+) \| (\d+) \| (\d+) \|$", DOCS, re.MULTILINE)


def _builds(name):
    cfg = engine.load_config(name)
    network = networks(cfg)["network"]
    with torch.no_grad():
        logits = network(torch.zeros(1, 3, 64, 128, device="meta"))
    assert logits.shape == (1, cfg.model.decode_head.num_classes, 16, 32)
    build_optim_wrapper(network.requires_grad_(), cfg.optim_wrapper)
    assert experiment.Headline(**cfg.headline).metric == "seg/mIoU"
    assert name in engine.find_config(name).read_text() or "/h2" in name  # its command is its own


def test_there_is_one_for_every_mixer_and_length():
    assert {f"segmentation/h2/{mixer}_{length}" for mixer in MIXERS for length in ("short", "long")} <= set(NAMES)
    assert {f"segmentation/upernet_mambaout_tiny_{mixer}_ade20k" for mixer in MIXERS} <= set(NAMES)


@pytest.mark.parametrize("name", QUICK)
def test_small_configs_build(name):
    _builds(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in QUICK])
def test_ade20k_configs_build(name):
    _builds(name)


@pytest.mark.slow
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_costs_are_those_of_the_docs_and_within_two_percent_of_the_published(row):
    """Published: MambaOut's table 3 (arXiv 2405.07992), VMamba's README, Swin's table 3 (arXiv 2103.14030)."""
    name, published_m, m, published_g, g = row
    cfg = engine.load_config(f"segmentation/{name}")
    network = networks(cfg)["network"]
    assert sizes(cfg) == [(512, 2048)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 512, 2048, device="meta"))
    parameters = sum(p.numel() for p in network.parameters()) / 1e6
    multiply_adds = counter.get_total_flops() / 2e9
    assert (f"{parameters:.1f}", f"{multiply_adds:.0f}") == (m, g)
    assert parameters == pytest.approx(float(published_m), rel=0.02)
    assert multiply_adds == pytest.approx(float(published_g), rel=0.02)


def test_the_docs_list_what_papers_print():
    assert len(TABLE) == 9
    assert {f"segmentation/{row[0]}" for row in TABLE} <= set(NAMES)


def test_recipes_of_the_papers():
    mambaout = engine.load_config("segmentation/upernet_mambaout_base_gatedcnn_ade20k")
    vmamba = engine.load_config("segmentation/upernet_vmamba_tiny_s1l8_ade20k")
    vim = engine.load_config("segmentation/upernet_vim_small_ade20k")
    assert [cfg.optim_wrapper.optimizer.lr for cfg in (mambaout, vmamba, vim)] == [1e-4, 6e-5, 1e-4]
    assert [cfg.optim_wrapper.optimizer.weight_decay for cfg in (mambaout, vmamba, vim)] == [0.01, 0.01, 0.05]
    assert [cfg.model.backbone.drop_path_rate for cfg in (mambaout, vmamba, vim)] == [0.6, 0.2, 0.05]
    assert [cfg.train_cfg.max_iters for cfg in (mambaout, vmamba, vim)] == [160000, 160000, 60000]
    assert [cfg.param_scheduler[1].end for cfg in (mambaout, vmamba, vim)] == [160000, 160000, 60000]
