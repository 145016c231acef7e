"""PlainMamba against the official implementation, published sizes and costs."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters, counted exactly on the official classes, and GMACs
    "plainmamba_l1": (7_551_656, 3.0),
    "plainmamba_l2": (26_145_832, 8.1),
    "plainmamba_l3": (50_956_456, 14.4),
}


def load(state: dict, path: Path, **kwargs):
    torch.save(state, path)
    overlay = {"file": str(path)}
    return timm.create_model("plainmamba_l1", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name):
    net = timm.create_model(name, device="meta")
    parameters, gmacs = PUBLISHED[name]
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert count_flops(net, (224, 224)).macs("paper") / 1e9 == pytest.approx(gmacs, rel=0.01)


def test_official_outputs(tmp_path):
    """At the training size, and on a map of 11×15 patches, whose positions are resized."""
    state = goldens.load("plainmamba_l1_224").state_dict
    average = {"ema_backbone_pos_embed": torch.zeros(1, 196, 192)}  # mmcv's EMA hook keeps copies of parameters so
    net = load({"state_dict": {**state, **average}, "meta": {}}, tmp_path / "official.pth")
    for name in ("plainmamba_l1_224", "plainmamba_l1_176x240"):
        golden = goldens.load(name)
        assert golden.state_dict.keys() == state.keys()
        with torch.no_grad():
            features, maps = net.forward_intermediates(golden.image)
            logits = net.forward_head(features)
        for key, expected in golden.outputs.items():
            actual = logits if key == "logits" else maps[int(key.removeprefix("layer"))].mean((2, 3))
            torch.testing.assert_close(actual, expected, rtol=0, atol=2e-5 * expected.std().item())


def test_positions_are_resized_when_loaded_as_on_the_way(tmp_path):
    own = timm.create_model("plainmamba_l1", depth=2).state_dict()
    small = load(own, tmp_path / "ours.pth", depth=2)
    larger = load(own, tmp_path / "ours.pth", depth=2, img_size=(90, 250))
    assert larger.pos_embed.shape == (1, 6 * 16, 192)
    image = torch.randn(1, 3, 90, 250)
    with torch.no_grad():
        torch.testing.assert_close(small(image), larger(image), rtol=1e-4, atol=1e-5)
        aligned = timm.create_model("plainmamba_l1", depth=2, raster_selectivity=False).eval()
        aligned.load_state_dict(own)  # another function of the same weights
        assert not torch.allclose(aligned(image), small(image), rtol=0, atol=2e-5)


def test_foreign_broken_and_own_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"not a PlainMamba checkpoint.*expected keys such as.*found layer1\.weight"):
        load({"layer1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    state = goldens.load("plainmamba_l1_224").state_dict
    del state["backbone.layers.3.mamba.D"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.3\.mixer\.ssm\.D"):
        load(state, tmp_path / "broken.pth")
    own = timm.create_model("plainmamba_l1", depth=1).state_dict()
    again = load(own, tmp_path / "ours.pth", depth=1).state_dict()
    assert all(torch.equal(again[key], value) for key, value in own.items())
