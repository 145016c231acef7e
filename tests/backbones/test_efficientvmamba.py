"""EfficientVMamba against the official implementation, published sizes and costs."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.backbones.efficientvmamba import AtrousSSM
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters, counted exactly on the official classes, and GMACs
    "efficientvmamba_tiny": (6_493_660, 0.8),
    "efficientvmamba_small": (11_273_688, 1.3),
    "efficientvmamba_base": (33_717_136, 4.0),
}


def load(state: dict, path: Path, **kwargs):
    torch.save(state, path)
    overlay = {"file": str(path)}
    return timm.create_model("efficientvmamba_tiny", pretrained=True, pretrained_cfg_overlay=overlay, **kwargs).eval()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameters_and_macs(name):
    net = timm.create_model(name, device="meta")
    parameters, gmacs = PUBLISHED[name]
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert round(count_flops(net, (224, 224)).macs("paper") / 1e9, 1) == gmacs


def test_official_outputs(tmp_path):
    """At the training size, and where maps have odd sides."""
    state = goldens.load("efficientvmamba_tiny_224").state_dict
    net = load({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "official.pth")
    for name in ("efficientvmamba_tiny_224", "efficientvmamba_tiny_104x72"):
        golden = goldens.load(name)
        assert golden.state_dict.keys() == state.keys()
        with torch.no_grad():
            features, maps = net.forward_intermediates(golden.image)
            outputs = {f"stage{i}": y.mean((2, 3)) for i, y in enumerate(maps)}
            outputs["logits"] = net.forward_head(features)
        assert outputs.keys() == golden.outputs.keys()
        for key, expected in golden.outputs.items():
            torch.testing.assert_close(outputs[key], expected, rtol=0, atol=2e-5 * expected.std().item())


def naive_atrous(ssm: AtrousSSM, u: torch.Tensor) -> torch.Tensor:
    """Step by step over lists of pixels."""
    _, H, W, _ = u.shape
    h, w = -(-H // 2), -(-W // 2)
    u = F.pad(u, (0, 0, 0, 2 * w - W, 0, 2 * h - H))
    out = torch.zeros_like(u)
    for k, (di, dj) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        pixels = [(2 * i + di, 2 * j + dj) for i in range(h) for j in range(w)]
        if k % 2:
            pixels.sort(key=lambda p: (p[1], p[0]))
        state = 0
        for i, j in pixels:
            token = u[:, i, j]
            dt, B, C = (token @ ssm.x_proj_weight[k].T).split([ssm.dt_rank, ssm.d_state, ssm.d_state], -1)
            step = F.softplus(dt @ ssm.dt_proj_weight[k].T + ssm.dt_bias[k])[..., None]
            state = torch.exp(-step * ssm.A_log[k].exp()) * state + step * token[..., None] * B[:, None]
            here = torch.zeros(2 * h, 2 * w, 1, dtype=u.dtype)
            here[i, j] = 1
            out = out + here * ((state * C[:, None]).sum(-1) + ssm.D[k] * token)[:, None, None]
    return out[:, :H, :W]


@pytest.mark.parametrize("size", [(5, 7), (4, 2), (1, 1)], ids=str)
def test_atrous_scans_and_their_gradients(size):
    ssm = AtrousSSM(6, 3, 2).double()
    u = torch.randn(2, *size, 6, dtype=torch.double, requires_grad=True)
    weight, leaves = torch.randn_like(u), (u, *ssm.parameters())
    out, expected = ssm(u), naive_atrous(ssm, u)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)  # the state matrix is kept in float32
    grads, naive = (torch.autograd.grad((y * weight).sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(grads, naive, rtol=1e-5, atol=1e-5)


def test_foreign_broken_and_own_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"not an EfficientVMamba checkpoint.*expected keys such as.*found layer1"):
        load({"layer1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    state = goldens.load("efficientvmamba_tiny_104x72").state_dict
    del state["layers.2.1.se.conv_expand.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*stages\.2\.blocks\.0\.conv\.se\.conv_expand\.weight"):
        load(state, tmp_path / "broken.pth")
    smaller = {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
    own = timm.create_model("efficientvmamba_tiny", **smaller).state_dict()
    again = load(own, tmp_path / "ours.pth", **smaller).state_dict()
    assert all(torch.equal(again[key], value) for key, value in own.items())
