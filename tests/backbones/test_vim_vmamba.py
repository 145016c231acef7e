"""Vim and VMamba against the official implementations and the published parameter counts."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PARAMETERS = {  # counted exactly on the official classes
    "vim_tiny_patch16_224": 7_148_008,
    "vim_small_patch16_224": 25_796_584,
    "vim_base_patch16_224": 97_598_440,
    "vim_tiny_patch16_stride8_224": 7_250_344,
    "vim_small_patch16_stride8_224": 26_001_256,
    "vmamba_tiny_s1l8": 30_249_064,
    "vmamba_tiny_s2l5": 30_705_832,
    "vmamba_small_s2l15": 50_147_752,
    "vmamba_small_s1l20": 49_012_840,
    "vmamba_base_s2l15": 88_557_800,
    "vmamba_base_s1l20": 86_614_504,
}
GOLDENS = {
    "vim_tiny_patch16_224": "vim_tiny_patch16_224",
    "vim_small_patch16_224": "vim_small_patch16_224",
    "vmamba_tiny_s1l8": "vmamba_tiny_s1l8_224",
    "vmamba_small_s2l15": "vmamba_small_s2l15_224",
}


def load(name: str, state: dict, path: Path, **kwargs):
    torch.save(state, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts(name):
    assert sum(p.numel() for p in timm.create_model(name, device="meta").parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", GOLDENS)
def test_official_outputs(name, tmp_path):
    golden = goldens.load(GOLDENS[name])
    expected = golden.outputs["logits"]
    for backend in ("cpu", "reference"):
        net = load(name, {"model": golden.state_dict}, tmp_path / "official.pth", backend=backend)
        with torch.no_grad():
            features = net.forward_features(golden.image)
            logits = net.forward_head(features)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4 * expected.std().item())
    if "features" in golden.outputs:
        token = net.forward_head(features, pre_logits=True)
        torch.testing.assert_close(token, golden.outputs["features"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "vmamba_tiny_s1l8"])
def test_wrapped_checkpoints(name, tmp_path):
    official = goldens.load(GOLDENS[name]).state_dict
    other = {key: torch.zeros_like(value) for key, value in official.items()}
    bias = official["head.bias" if name.startswith("vim") else "classifier.head.bias"]
    for wrapped in ({"model": official, "model_ema": other}, {"model_ema": official}, {"state_dict": official}):
        net = load(name, {**wrapped, "epoch": 300}, tmp_path / "wrapped.pth")
        assert torch.equal(net.get_classifier().bias, bias)


@pytest.mark.parametrize("name", ["vmamba_tiny_s1l8", "vmamba_small_s2l15"])
def test_stages_of_a_detection_checkpoint(name, tmp_path):
    golden = goldens.load(GOLDENS[name])
    official = {f"backbone.{key}": value for key, value in golden.state_dict.items()}
    net = load(name, {"state_dict": official}, tmp_path / "detector.pth")
    with torch.no_grad():
        maps = net.forward_intermediates(golden.image, intermediates_only=True)
    for i, stage in enumerate(maps):
        torch.testing.assert_close(stage.mean((2, 3)), golden.outputs[f"stage{i}_mean"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "vmamba_tiny_s1l8"])
def test_foreign_and_broken_checkpoints(name, tmp_path):
    family = "Vim" if name.startswith("vim") else "VMamba"
    with pytest.raises(ValueError, match=f"not a {family} checkpoint.*expected keys such as.*found layer1.weight"):
        load(name, {"layer1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    broken = dict(goldens.load(GOLDENS[name]).state_dict)
    lost = next(key for key in broken if key.endswith("out_proj.weight"))
    del broken[lost]
    with pytest.raises(RuntimeError, match=r"Missing key.*out_proj\.weight"):
        load(name, broken, tmp_path / "broken.pth")


def test_our_own_keys_come_back(tmp_path):
    for name in ("vim_tiny_patch16_224", "vmamba_tiny_s1l8"):
        state = timm.create_model(name).state_dict()
        again = load(name, state, tmp_path / "ours.pth").state_dict()
        assert all(torch.equal(again[key], value) for key, value in state.items())


def test_vim_at_another_resolution_keeps_the_class_token_in_the_middle(tmp_path):
    state = goldens.load("vim_tiny_patch16_224").state_dict
    net = load("vim_tiny_patch16_224", state, tmp_path / "official.pth")
    torch.save(state, tmp_path / "official.pth")
    larger = timm.create_model(
        "vim_tiny_patch16_224",
        pretrained=True,
        img_size=(160, 256),
        pretrained_cfg_overlay={"file": str(tmp_path / "official.pth")},
    ).eval()
    assert larger.pos_embed.shape == (1, 10 * 16 + 1, 192)
    torch.testing.assert_close(larger.pos_embed[0, 80], net.pos_embed[0, 98])
    image = torch.randn(1, 3, 160, 256)
    with torch.no_grad():  # resampled when loaded, or on the way: the same
        torch.testing.assert_close(net(image), larger(image), rtol=1e-4, atol=1e-4)
        maps = net.forward_intermediates(image, indices=[5, 23], intermediates_only=True)
    assert [tuple(y.shape) for y in maps] == [(1, 192, 10, 16)] * 2


def test_vim_directions_are_mirror_images():
    """With equal weights in both directions, reversing the sequence reverses the mixer's output."""
    mixer = timm.create_model("vim_tiny_patch16_224", depth=1).layers[0].mixer
    with torch.no_grad():
        mixer.conv1d_b.load_state_dict(mixer.conv1d.state_dict())
        for parameter in mixer.ssm.parameters():
            parameter[1] = parameter[0]
        x = torch.randn(2, 13, 192)
        torch.testing.assert_close(mixer(x.flip(1)), mixer(x).flip(1), rtol=1e-4, atol=1e-5)


def test_vim_pooling():
    net = timm.create_model("vim_tiny_patch16_224", depth=2, img_size=64, num_classes=0).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens = net.forward_features(x)
        torch.testing.assert_close(net(x), tokens[:, 8])
        net.reset_classifier(0, "avg")
        torch.testing.assert_close(net(x), torch.cat((tokens[:, :8], tokens[:, 9:]), 1).mean(1))
    with pytest.raises(ValueError, match="global_pool must be"):
        net.reset_classifier(0, "max")
