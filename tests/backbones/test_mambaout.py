"""MambaOut against the official implementation, timm's, and files that are not what they claim to be."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.mambaout import MambaOut, checkpoint_filter_fn
from mixerzoo.backbones.mixers import list_mixers
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PARAMETERS = {  # arXiv 2405.07992, table 1, counted exactly on the official classes
    "femto": 7_304_536,
    "kobe": 9_141_208,
    "tiny": 26_545_096,
    "small": 48_488_072,
    "base": 84_813_092,
}
DEPTHS = {"depths": (1, 1, 1, 1)}


def load(name: str, path: Path, **kwargs):
    """The user's way to load a local file."""
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


@pytest.fixture(scope="module")
def official():
    return goldens.load("mambaout_femto_224").state_dict


@pytest.mark.parametrize("size", ["femto", "kobe", "tiny"])
def test_official_outputs(size, tmp_path):
    golden = goldens.load(f"mambaout_{size}_224")
    torch.save(golden.state_dict, tmp_path / "official.pth")
    net = load(f"mambaout_{size}_gatedcnn", tmp_path / "official.pth")
    with torch.no_grad():
        features, maps = net.forward_intermediates(golden.image)
        logits = net.forward_head(features)
    assert golden.outputs["logits"].std() > 0.9
    torch.testing.assert_close(logits, golden.outputs["logits"], rtol=0, atol=1e-4)
    for i, stage in enumerate(maps):
        expected = golden.outputs[f"stage{i}_mean"]
        torch.testing.assert_close(stage.mean((2, 3)).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", PARAMETERS)
def test_published_parameter_counts(size):
    net = timm.create_model(f"mambaout_{size}_gatedcnn", device="meta")
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[size]


@pytest.mark.parametrize("size", ["femto", "kobe", "tiny"])
def test_timm_agrees_on_the_official_weights(size):
    golden = goldens.load(f"mambaout_{size}_224")
    overlay = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": golden.state_dict}}
    theirs = timm.create_model(f"mambaout_{size}", **overlay).eval()
    ours = timm.create_model(f"mambaout_{size}_gatedcnn", **overlay).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(golden.image), theirs(golden.image), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "size", [pytest.param(size, marks=[pytest.mark.slow] * (size in ("small", "base"))) for size in PARAMETERS]
)
def test_timm_weights_give_timm_outputs(size):
    # In float64: the deeper models amplify float32 rounding to some 2e-5, in timm's own forward as in ours.
    theirs = timm.create_model(f"mambaout_{size}", dtype=torch.double).eval()
    with torch.no_grad():  # zero biases and unit norms would hide a mix-up
        for p in theirs.parameters():
            p.copy_(torch.randn_like(p) / p[0].numel() ** 0.5 if p.ndim > 1 else p + 0.1 * torch.randn_like(p))
    ours = timm.create_model(
        f"mambaout_{size}_gatedcnn",
        dtype=torch.double,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": theirs.state_dict()},
    ).eval()
    x = torch.randn(1, 3, 33, 65, dtype=torch.double)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 0.5
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-10)


def test_gradients_are_those_of_timm(official):
    def overlay():
        return {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": official}}

    theirs, ours = (
        timm.create_model("mambaout_femto", **overlay()),
        timm.create_model("mambaout_femto_gatedcnn", **overlay()),
    )
    x = torch.randn(2, 3, 65, 33)
    for net in (theirs, ours):
        net(x).square().sum().backward()
    gradients = checkpoint_filter_fn({name: p.grad for name, p in theirs.named_parameters()}, ours)
    for name, p in ours.named_parameters():
        error = (p.grad - gradients[name]).norm() / gradients[name].norm()
        assert error < 1e-4, f"{name}: {error}"


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_ema"])
def test_wrapped_checkpoints(wrapper, official, tmp_path):
    torch.save({wrapper: official, "epoch": 300}, tmp_path / "wrapped.pth")
    net = load("mambaout_femto_gatedcnn", tmp_path / "wrapped.pth")
    assert torch.equal(net.head.fc.weight, official["head.fc2.weight"])


def test_safetensors_and_our_own_keys(official, tmp_path):
    save_file(official, tmp_path / "official.safetensors")
    net = load("mambaout_femto_gatedcnn", tmp_path / "official.safetensors")
    save_file(net.state_dict(), tmp_path / "ours.safetensors")
    again = load("mambaout_femto_gatedcnn", tmp_path / "ours.safetensors")
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_other_classes_and_channels(official, tmp_path):
    torch.save(official, tmp_path / "official.pth")
    net = load("mambaout_femto_gatedcnn", tmp_path / "official.pth", num_classes=7, in_chans=1)
    assert net(torch.randn(2, 1, 64, 64)).shape == (2, 7)
    kernel = official["downsample_layers.0.conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(net.stem.conv1.weight, kernel)


def test_features_only_from_the_official_file(official, tmp_path):
    torch.save(official, tmp_path / "official.pth")
    features = load("mambaout_femto_gatedcnn", tmp_path / "official.pth", features_only=True)
    golden = goldens.load("mambaout_femto_224")
    with torch.no_grad():
        last = features(golden.image)[-1]
    torch.testing.assert_close(
        last.mean((2, 3)).reshape(-1), golden.outputs["stage3_mean"].reshape(-1), rtol=0, atol=1e-4
    )


def test_missing_unexpected_and_misshapen_keys_are_named(official, tmp_path):
    broken = dict(official)
    del broken["stages.1.2.norm.weight"]
    broken["stages.0.0.surprise"] = torch.zeros(1)
    broken["head.fc2.weight"] = torch.zeros(1000, 5)
    broken["stages.2.0.fc1.weight"] = official["stages.2.0.fc1.weight"][:-1]
    torch.save(broken, tmp_path / "broken.pth")
    with pytest.raises(RuntimeError) as error:
        load("mambaout_femto_gatedcnn", tmp_path / "broken.pth")
    message = str(error.value)
    assert "stages.1.blocks.2.norm.weight" in message
    assert "stages.0.blocks.0.surprise" in message
    assert "head.fc.weight" in message
    assert "stages.2.blocks.0.mixed_value.weight" in message


@pytest.mark.parametrize("foreign", [{"cls_token": torch.zeros(1, 1, 192)}, {}], ids=["vit", "empty"])
def test_foreign_checkpoint(foreign, tmp_path):
    torch.save(foreign, tmp_path / "foreign.pth")
    with pytest.raises(ValueError, match=r"not a MambaOut checkpoint: expected .*downsample_layers.*found"):
        load("mambaout_femto_gatedcnn", tmp_path / "foreign.pth")


def test_truncated_checkpoint(official, tmp_path):
    torch.save(official, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"half\.pth: not a checkpoint"):
        load("mambaout_femto_gatedcnn", tmp_path / "half.pth")


def test_variants_differ_in_the_mixer_alone():
    gatedcnn = MambaOut("gatedcnn", device="meta")
    shapes = {name: p.shape for name, p in gatedcnn.named_parameters() if ".mixer." not in name}
    for mixer in list_mixers():
        variant = MambaOut(mixer, device="meta")
        assert {name: p.shape for name, p in variant.named_parameters() if ".mixer." not in name} == shapes


def test_one_mixer_per_stage():
    net = MambaOut(["gatedcnn", "gatedcnn", "attn", "attn"], num_classes=5, **DEPTHS)
    kinds = [type(stage.blocks[0].mixer).__name__ for stage in net.stages]
    assert kinds == ["GatedCNN", "GatedCNN", "Attention", "Attention"]
    assert net(torch.randn(1, 3, 64, 64)).shape == (1, 5)


def test_bad_constructor_arguments():
    with pytest.raises(ValueError, match="unknown token mixer 'gatedcn', did you mean 'gatedcnn'"):
        MambaOut("gatedcn")
    with pytest.raises(ValueError, match="equally many"):
        MambaOut(depths=(1, 1))


def test_pretrained_cfg_points_to_the_released_weights():
    cfg = timm.get_pretrained_cfg("mambaout_tiny_gatedcnn")
    assert cfg.tag == "in1k"
    assert cfg.hf_hub_id == "timm/mambaout_tiny.in1k"
    assert cfg.url.endswith("/mambaout_tiny.pth")
    assert timm.is_model_pretrained("mambaout_base_gatedcnn")
    assert not timm.is_model_pretrained("mambaout_base_attn")


def test_stochastic_depth_drops_whole_samples():
    net = MambaOut(drop_path_rate=0.999, **DEPTHS).train()
    assert net.stages[0].blocks[0](torch.randn(2, 4, 4, 96)).isfinite().all()
    x = torch.randn(64, 4, 4, 576)
    y = net.stages[-1].blocks[0](x)
    assert (y == x).flatten(1).all(1).float().mean() > 0.9
