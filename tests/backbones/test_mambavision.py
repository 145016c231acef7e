"""MambaVision against the official implementation and the published counts."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.backbones.mambavision import MambaMixer, from_windows, to_windows
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters counted on the official classes, multiply-adds in G without attention's products and scans
    "mambavision_tiny": (31_794_248, 4.4),
    "mambavision_small": (50_140_584, 7.5),
    "mambavision_base": (97_685_288, 15.0),
    "mambavision_large": (227_961_048, 34.9),
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
    classes = count.flops_by_class()
    seen = (classes["linear"] + classes["convolution"]) / 2e9
    assert seen == pytest.approx(PUBLISHED[name][1], abs=0.1)  # printed with one decimal, at times cut off
    assert classes["attention"] > 0
    assert classes["scan"] > 0


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("mambavision_tiny", "mambavision_tiny_224"),
        ("mambavision_tiny", "mambavision_tiny_192x160"),  # windows that need padding
        pytest.param("mambavision_base", "mambavision_base_224", marks=pytest.mark.slow),  # layer scale
    ],
)
def test_official_outputs(name, golden, tmp_path):
    goldens.check_network(name, goldens.load(golden), tmp_path / "official.pth", tolerance=2e-5, maps=2e-5)


def test_backends_agree():
    x = torch.randn(3, 49, 32)
    mixers = {backend: MambaMixer(32, backend=backend) for backend in ("auto", "torch", "reference")}
    for mixer in mixers.values():
        mixer.load_state_dict(mixers["reference"].state_dict())
    with torch.no_grad():
        expected = mixers["reference"](x)
        for backend in ("auto", "torch"):
            goldens.assert_agrees(mixers[backend](x), expected, 1e-5, backend)


def naive_mixer(mixer: MambaMixer, x: torch.Tensor) -> torch.Tensor:
    """Token by token; the bias of the step counts twice."""
    a = x @ mixer.in_proj.weight.T
    L, E = x.shape[1], x.shape[2] // 2
    padded = F.pad(a, (0, 0, 1, 1))
    taps = torch.cat((mixer.conv1d_x.weight, mixer.conv1d_z.weight))[:, 0]
    u, z = F.silu(sum(padded[:, i : i + L] * taps[:, i] for i in range(3))).split(E, -1)
    state, out = 0.0, []
    for token in u.unbind(1):
        dt, B, C = (token @ mixer.x_proj.weight.T).split([mixer.dt_rank, mixer.d_state, mixer.d_state], -1)
        step = F.softplus(dt @ mixer.dt_proj.weight.T + 2 * mixer.dt_proj.bias)[..., None]
        state = torch.exp(-step * mixer.A_log.exp()) * state + step * token[..., None] * B[:, None]
        out.append((state * C[:, None]).sum(-1) + mixer.D * token)
    return torch.cat((torch.stack(out, 1), z), -1) @ mixer.out_proj.weight.T


@pytest.mark.parametrize("length", [1, 7, 12])
def test_mixer_and_its_gradients(length):
    mixer = MambaMixer(12).double()
    torch.nn.init.normal_(mixer.dt_proj.bias)
    x = torch.randn(2, length, 12, dtype=torch.double, requires_grad=True)
    leaves = (x, *mixer.parameters())
    out, expected = mixer(x), naive_mixer(mixer, x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)  # the state matrix is float32
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    for grad, wanted in zip(grads, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6 * max(1.0, wanted.abs().max().item()))


def test_windows():
    x = torch.arange(2 * 3 * 5).view(2, 3, 5, 1)
    windows = to_windows(x, 2)[..., 0]
    assert windows.shape == (2 * 2 * 3, 4)
    assert windows[0].tolist() == [0, 1, 5, 6]
    assert windows[2].tolist() == [4, 0, 9, 0]  # the last column, padded
    assert windows[3].tolist() == [10, 11, 0, 0]  # the last row, padded
    for size in (0, 1, 2, 4, 7):
        assert torch.equal(from_windows(to_windows(x, size), size, 3, 5), x)


def test_window_of_the_whole_map_is_a_window_of_its_size():
    whole = timm.create_model("mambavision_tiny", depths=(1, 1, 2, 2), dim=32, window_sizes=(0, 0)).eval()
    sized = timm.create_model("mambavision_tiny", depths=(1, 1, 2, 2), dim=32, window_sizes=(6, 3)).eval()
    sized.load_state_dict(whole.state_dict())
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), sized(x))
    with pytest.raises(ValueError, match="depths must be four, num_heads and window_sizes two"):
        timm.create_model("mambavision_tiny", window_sizes=(7,))


def test_foreign_broken_and_own_checkpoints(tmp_path):
    small, path = {"depths": (1, 1, 2, 2), "dim": 32}, tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=r"not a MambaVision checkpoint: expected keys such as.*found layer1\.weight"):
        goldens.create("mambavision_tiny", {"layer1.weight": torch.zeros(1)}, path, **small)
    with pytest.raises(RuntimeError, match=r"Missing key.*stem\."):
        goldens.create("mambavision_tiny", {"patch_embed.conv_down.0.weight": torch.zeros(1, 3, 1, 1)}, path, **small)
    ours = timm.create_model("mambavision_tiny", **small).state_dict()
    again = goldens.create("mambavision_tiny", ours, path, **small).state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
