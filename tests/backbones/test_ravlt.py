"""RAVLT against the official implementation and the published counts."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.ravlt import GatedAttention
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters counted on the official classes, multiply-adds in G without the products inside attention
    "ravlt_tiny": (14_897_768, 2.4),
    "ravlt_small": (25_591_208, 4.6),
    "ravlt_base": (48_241_288, 9.9),
    "ravlt_large": (95_242_440, 16.0),
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
    outside = count.macs("paper") - count.flops_by_class()["attention"] / 2
    assert outside / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.02)


def test_official_outputs(tmp_path):
    golden = goldens.load("ravlt_tiny_224")
    goldens.check_network("ravlt_tiny", golden, tmp_path / "official.pth", tolerance=2e-5, maps=3e-5)


@pytest.mark.parametrize(("name", "attention"), [("rala", "linear"), ("rala_softmax", "softmax")])
def test_the_mixer_alone(name, attention):
    golden = goldens.load("mixers_2026_6x10x32")
    mixer = GatedAttention(32, 2, attention).eval()
    state = {key.removeprefix(f"{name}."): v for key, v in golden.state_dict.items() if key.startswith(f"{name}.")}
    mixer.load_state_dict({key: v.flatten(1) if v.shape[2:] == (1, 1) else v for key, v in state.items()})
    with torch.no_grad():
        goldens.assert_agrees(mixer(golden.image), golden.outputs[name], 1e-5, name)


def test_attentions_are_checked():
    with pytest.raises(ValueError, match="attentions must be of 'linear', 'softmax'"):
        timm.create_model("ravlt_tiny", attentions=("linear", "linear", "soft", "soft"))


def test_foreign_broken_and_own_checkpoints(tmp_path):
    small, path = {"depths": (1, 1, 1, 1)}, tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=r"not a RAVLT checkpoint: expected keys such as.*found layer1\.weight"):
        goldens.create("ravlt_tiny", {"layer1.weight": torch.zeros(1)}, path, **small)
    with pytest.raises(RuntimeError, match=r"Missing key.*stem\."):
        goldens.create("ravlt_tiny", {"layers.0.blocks.0.attn.qkvo.weight": torch.zeros(1)}, path, **small)
    ours = timm.create_model("ravlt_tiny", **small).state_dict()
    again = goldens.create("ravlt_tiny", ours, path, **small).state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
