"""MambaVision against the official implementation and the published counts."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.mambavision import from_windows, to_windows
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
def test_published_counts(name):
    net = timm.create_model(name, device="meta")
    parameters, gmacs = PUBLISHED[name]
    assert sum(p.numel() for p in net.parameters()) == parameters
    classes = count_flops(net, (224, 224)).flops_by_class()
    seen = (classes["linear"] + classes["convolution"]) / 2e9
    assert seen == pytest.approx(gmacs, abs=0.1)  # printed with one decimal, at times cut off
    assert classes["attention"] > 0
    assert classes["scan"] > 0


@pytest.mark.parametrize(
    ("name", "golden"),
    [
        ("mambavision_tiny", "mambavision_tiny_224"),
        ("mambavision_tiny", "mambavision_tiny_192x160"),  # windows that need padding
        ("mambavision_base", "mambavision_base_224"),  # layer scale
    ],
)
def test_official_outputs(name, golden, tmp_path):
    goldens.check_network(name, goldens.load(golden), tmp_path / "official.pth", tolerance=2e-5, maps=2e-5)


def test_backends_agree(tmp_path):
    golden = goldens.load("mambavision_tiny_224")
    for backend in ("torch", "reference"):
        net = goldens.create("mambavision_tiny", golden.state_dict, tmp_path / "official.pth", backend=backend)
        with torch.no_grad():
            goldens.assert_agrees(net(golden.image), golden.outputs["logits"], 2e-5, backend)


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
    whole = timm.create_model("mambavision_tiny", depths=(1, 1, 2, 2), window_sizes=(0, 0)).eval()
    sized = timm.create_model("mambavision_tiny", depths=(1, 1, 2, 2), window_sizes=(6, 3)).eval()
    sized.load_state_dict(whole.state_dict())
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(whole(x), sized(x))
    with pytest.raises(ValueError, match="depths must be four, num_heads and window_sizes two"):
        timm.create_model("mambavision_tiny", window_sizes=(7,))


def test_foreign_and_own_checkpoints(tmp_path):
    with pytest.raises(ValueError, match=r"not a MambaVision checkpoint: expected keys such as.*found layer1\.weight"):
        goldens.create("mambavision_tiny", {"layer1.weight": torch.zeros(1)}, tmp_path / "foreign.pth")
    ours = timm.create_model("mambavision_tiny").state_dict()
    again = goldens.create("mambavision_tiny", ours, tmp_path / "ours.pth").state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
    state = goldens.load("mambavision_tiny_224").state_dict
    hub = {f"model.{key}": value for key, value in state.items()}  # as Hugging Face's files
    net = goldens.create("mambavision_tiny", hub, tmp_path / "hub.pth")
    assert torch.equal(net.head.fc.bias, state["head.bias"])
