"""Spatial-Mamba against the official implementation and the published counts."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.spatial_mamba import SpatialMambaMixer
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters counted on the official classes, multiply-adds in G
    "spatial_mamba_tiny": (26_748_862, 4.5),
    "spatial_mamba_small": (43_074_280, 7.1),
    "spatial_mamba_base": (95_745_592, 15.8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    net = timm.create_model(name, device="meta")
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED[name][0]


@pytest.mark.parametrize(
    "name",
    [name if name.endswith(("_tiny", "_micro")) else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED],
)
def test_published_multiply_adds(name):
    count = count_flops(timm.create_model(name, device="meta"), (224, 224))
    assert count.macs("paper") / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.01)


def test_official_outputs(tmp_path):
    golden = goldens.load("spatial_mamba_tiny_224")
    goldens.check_network("spatial_mamba_tiny", golden, tmp_path / "official.pth", tolerance=2e-5, maps=3e-5)


def test_the_mixer_alone():
    golden = goldens.load("mixers_2026_6x10x32")
    mixer = SpatialMambaMixer(32).eval()
    state = {
        key.removeprefix("spatial_mamba."): value
        for key, value in golden.gained().items()
        if key.startswith("spatial_mamba.")
    }
    core = {
        "conv.weight": "conv2d.weight",
        "conv.bias": "conv2d.bias",
        "x_proj_weight": "x_proj_weight",
        "dt_proj_weight": "dt_projs_weight",
        "dt_bias": "dt_projs_bias",
        "A_log": "A_logs",
        "D": "Ds",
        "fusion_scale": "state_fusion.alpha",
        "norm.weight": "out_norm.weight",
        "norm.bias": "out_norm.bias",
    }
    ours = {f"core.{name}": state[official] for name, official in core.items()}
    kernels = [state[f"state_fusion.{name}"].squeeze(1) for name in ("kernel_3", "kernel_3_1", "kernel_3_2")]
    projections = {key: state[key] for key in ("in_proj.weight", "out_proj.weight")}
    mixer.load_state_dict({**ours, "core.fusion_weight": torch.stack(kernels), **projections})
    with torch.no_grad():
        goldens.assert_agrees(mixer(golden.image), golden.outputs["spatial_mamba"], 1e-5, "spatial_mamba")


def test_foreign_broken_and_own_checkpoints(tmp_path):
    small, path = {"depths": (1, 1, 1, 1)}, tmp_path / "checkpoint.pth"
    with pytest.raises(
        ValueError, match=r"not a Spatial-Mamba checkpoint: expected keys such as.*found layer1\.weight"
    ):
        goldens.create("spatial_mamba_tiny", {"layer1.weight": torch.zeros(1)}, path, **small)
    with pytest.raises(RuntimeError, match=r"Missing key.*stem\."):
        goldens.create("spatial_mamba_tiny", {"layers.0.blocks.0.self_attention.A_logs": torch.zeros(1)}, path, **small)
    ours = timm.create_model("spatial_mamba_tiny", **small).state_dict()
    again = goldens.create("spatial_mamba_tiny", ours, path, **small).state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
