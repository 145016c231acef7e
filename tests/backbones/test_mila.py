"""MILA against the official implementation, the published counts, and its operators against their formulas."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.mila import MambaLikeMixer
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters counted on the official classes, multiply-adds in G
    "mila_tiny": (24_392_200, 4.2),
    "mila_small": (43_015_048, 7.3),
    "mila_base": (95_983_960, 16.2),
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
    assert count.macs("paper") / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.01, abs=0.06)  # one decimal


def test_official_outputs(tmp_path):
    golden = goldens.load("mila_tiny_224")
    goldens.check_network("mila_tiny", golden, tmp_path / "official.pth", tolerance=2e-5, maps=3e-5)


def test_the_mixer_alone():
    golden = goldens.load("mixers_2026_6x10x32")
    places = {"dwc": "core.conv", "attn.qk": "core.qk", "attn.lepe": "core.lepe"}
    mixer = MambaLikeMixer(32, 2).eval()
    state = {}
    for key, value in golden.state_dict.items():
        module, _, leaf = key.removeprefix("mila.").rpartition(".")
        if key.startswith("mila."):
            state[f"{places.get(module, module)}.{leaf}"] = value
    mixer.load_state_dict(state)
    with torch.no_grad():
        goldens.assert_agrees(mixer(golden.image), golden.outputs["mila"], 1e-5, "mila")


def test_foreign_broken_and_own_checkpoints(tmp_path):
    small, path = {"depths": (1, 1, 1, 1)}, tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=r"not a MILA checkpoint: expected keys such as.*found layer1\.weight"):
        goldens.create("mila_tiny", {"layer1.weight": torch.zeros(1)}, path, **small)
    with pytest.raises(RuntimeError, match=r"Missing key.*stem\."):
        goldens.create("mila_tiny", {"layers.0.blocks.0.attn.lepe.weight": torch.zeros(1)}, path, **small)
    ours = timm.create_model("mila_tiny", **small).state_dict()
    again = goldens.create("mila_tiny", ours, path, **small).state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
