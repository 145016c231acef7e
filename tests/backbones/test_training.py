"""Every mixer learns: small networks memorise 64 real images, and reach every parameter on the way."""

from __future__ import annotations

from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.backbones.mixers import list_mixers

SMALL = {"in_chans": 1, "num_classes": 10}
PYRAMID = {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), **SMALL}
TOKENS = {"img_size": 56, "patch_size": 8, "embed_dim": 64, "depth": 2, **SMALL}
NETS = {f"mambaout_femto_{mixer}": PYRAMID for mixer in list_mixers()} | {
    "mambavision_tiny": {"depths": (1, 1, 2, 2), "dim": 16, **SMALL},
    "mila_tiny": PYRAMID,
    "ravlt_tiny": PYRAMID,
    "spatial_mamba_tiny": PYRAMID,
    "transnext_micro": {**PYRAMID, "dims": (24, 48, 72, 96)},
    "vmamba_tiny_s1l8": PYRAMID,
    "vim_tiny_patch16_224": {**TOKENS, "stride": 8},
    "vit_tiny_patch16_224_causal": {**TOKENS, "num_heads": 2},
}


def fashion_mnist() -> tuple[torch.Tensor, torch.Tensor]:
    """The first 64 training images of Fashion-MNIST (Zalando, MIT; Debian's dataset-fashion-mnist), twice as large:
    the last map of a pyramid then has more than one pixel, without which a scan's decay does not matter."""
    with np.load(Path(__file__).parents[1] / "data" / "fashion_mnist_64.npz") as arrays:
        images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    images = (images.float() / 255 - 0.286).div(0.353).unsqueeze(1)
    return F.interpolate(images, scale_factor=2), labels.long()  # (64, 1, 56, 56), (64,)


SOON = ("_gatedcnn", "_bis6", "_ss2d", "_ssd", "vim_tiny_patch16_224")  # the others' code is part of theirs, or timm's


@pytest.mark.parametrize(
    "name", [name if name.endswith(SOON) else pytest.param(name, marks=pytest.mark.slow) for name in NETS]
)
def test_memorises_64_images(name):
    images, labels = fashion_mnist()
    net = timm.create_model(name, **NETS[name])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    touched: set[str] = set()
    for _ in range(80):
        loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        touched |= {key for key, p in net.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimizer.step()
        if loss < 0.05:
            break
    assert touched == {key for key, _ in net.named_parameters()}
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0  # a moving average lags behind so short a training
        net(images)
        accuracy = (net.eval()(images).argmax(1) == labels).float().mean()
    assert accuracy > 0.95
