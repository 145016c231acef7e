"""The adapter: its contract, what it loads, what it freezes, and its learning rates."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.tasks.backbone import TimmBackbone
from mixerzoo.tasks.engine.optim import param_groups
from torch import nn

from ..goldens import load, weights

TINY = {"name": "mambaout_femto_gatedcnn", "depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
VIM = {"name": "vim_tiny_patch16_224", "depth": 4, "embed_dim": 32}


@pytest.mark.parametrize(
    "options",
    [
        {**TINY, "norm_outputs": True},
        {"name": "swin_tiny_patch4_window7_224", "depths": (1, 1, 1, 1), "embed_dim": 12, "norm_outputs": True},
        {"name": "resnet18"},
        {**VIM, "pyramid": True, "norm_outputs": True},
        {**VIM, "pyramid": True, "out_indices": (0, 1, 2, 3)},
        {"name": "vit_tiny_patch16_224", "depth": 2, "pyramid": True},
        {"name": "vit_tiny_patch16_224_causal", "depth": 2, "pyramid": True, "grad_checkpointing": True},
    ],
    ids=lambda options: "-".join(str(options[key]) for key in ("name", "out_indices") if key in options),
)
def test_four_nchw_maps_at_strides_4_to_32(options):
    backbone = TimmBackbone(**options)
    assert backbone.out_strides == [4, 8, 16, 32]
    maps = backbone(torch.randn(2, 3, 64, 96))
    for x, channels, stride in zip(maps, backbone.out_channels, backbone.out_strides, strict=True):
        assert x.shape == (2, channels, 64 // stride, 96 // stride)
        assert x.is_contiguous()  # mmcv's RoIAlign reads memory, not strides
        if options.get("norm_outputs"):
            assert x.mean(1).abs().max() < 1e-3
    sum(x.sum() + (x**2).sum() for x in maps).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None] == []  # or DDP would wait for them


def test_stages_that_are_not_given_out_are_not_kept():
    backbone = TimmBackbone(**TINY, out_indices=(0, 1))
    assert backbone.out_strides == [4, 8]
    assert not any("stages.2" in key for key in backbone.state_dict())


def test_checkpointing_changes_no_gradient():
    plain, saving = (TimmBackbone(**TINY, grad_checkpointing=enable) for enable in (False, True))
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, 64, 64)
    for backbone in (plain, saving):
        sum(x.square().sum() for x in backbone(image)).backward()
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_frozen_stages_stay_as_they_are():
    backbone = TimmBackbone(**TINY, frozen_stages=2, drop_path_rate=0.5).train()
    fixed = [name for name, p in backbone.named_parameters() if not p.requires_grad]
    assert {".".join(name.split(".")[1:3]) for name in fixed if ".stages." in name} == {"stages.0", "stages.1"}
    assert any(name.startswith("net.stem") for name in fixed)
    training = {name: module.training for name, module in backbone.named_modules()}
    assert not any(training[name] for name in training if name.startswith(("net.stem", "net.stages.0", "net.stages.1")))
    assert training["net.stages.2.blocks.0.drop_path"]
    for stages in (-1, 0):
        kept = [p.requires_grad for p in TimmBackbone(**TINY, frozen_stages=stages).parameters()]
        assert all(kept) == (stages == -1)
    with pytest.raises(ValueError, match=r"frozen_stages: MambaOut has 4 stages, got 5"):
        TimmBackbone(**TINY, frozen_stages=5)


def official_detector(name: str, norm: str, **extra: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """An official classifier's weights as the backbone of a detector with a norm per output."""
    state = {f"backbone.{key}": x for key, x in load(name).state_dict.items() if "classifier" not in key}
    for stage, dim in enumerate((96, 192, 384, 768)):
        for leaf in ("weight", "bias"):
            key = f"backbone.{norm}{stage}.{leaf}"
            state[key] = torch.from_numpy(weights(key, (dim,)))
    return {**state, "neck.lateral_convs.0.conv.weight": torch.zeros(256, 96, 1, 1)}


def test_official_detector_of_vmamba(tmp_path):
    """MM_VSSM's keys: those of the classifier under ``backbone.``, and ``outnorm0`` … ``outnorm3``."""
    official = official_detector("vmamba_tiny_s1l8_224", "outnorm")
    torch.save({"state_dict": official, "meta": {"epoch": 12}}, tmp_path / "detector.pth")
    backbone = TimmBackbone("vmamba_tiny_s1l8", norm_outputs=True, checkpoint=tmp_path / "detector.pth").eval()
    stages = TimmBackbone("vmamba_tiny_s1l8").eval()
    torch.save({"model": load("vmamba_tiny_s1l8_224").state_dict}, tmp_path / "classifier.pth")
    later = {"type": "Pretrained", "checkpoint": str(tmp_path / "classifier.pth")}
    late = TimmBackbone("vmamba_tiny_s1l8", init_cfg=later).eval()
    late.init_weights()
    stages.load_state_dict(late.state_dict())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        given, plain = backbone(image), stages(image)
    for stage, (x, y) in enumerate(zip(given, plain, strict=True)):
        scale, shift = (official[f"backbone.outnorm{stage}.{leaf}"] for leaf in ("weight", "bias"))
        expected = nn.functional.layer_norm(y.movedim(1, -1), scale.shape, scale, shift, 1e-6).movedim(-1, 1)
        torch.testing.assert_close(x, expected)


def test_own_and_classifiers_checkpoints_of_mambaout(tmp_path):
    torch.save(load("mambaout_femto_224").state_dict, tmp_path / "classifier.pth")
    name = "mambaout_femto_gatedcnn"
    backbone = TimmBackbone(name, norm_outputs=True, checkpoint=tmp_path / "classifier.pth")
    own = {f"backbone.{key}": x for key, x in backbone.state_dict().items()}
    own["backbone.norms.0.weight"] = torch.full((48,), 3.0)
    torch.save({"state_dict": {**own, "rpn_head.x": torch.zeros(1)}}, tmp_path / "detector.pth")
    again = TimmBackbone(name, norm_outputs=True, checkpoint=tmp_path / "detector.pth")
    assert again.norms[0].weight.eq(3).all()
    for key, x in backbone.net.state_dict().items():
        assert torch.equal(x, again.net.state_dict()[key])
    part = TimmBackbone(name, out_indices=(0, 1), checkpoint=tmp_path / "classifier.pth")
    assert torch.equal(part.net.stem.conv1.weight, again.net.stem.conv1.weight)


def test_checkpoints_that_do_not_fit(tmp_path):
    state = load("mambaout_femto_224").state_dict
    path = tmp_path / "file.pth"
    for change, message in (
        ({}, None),
        ({"stages.0.0.nrm.weight": torch.zeros(48)}, r"file\.pth: not of this backbone: it has unknown .*nrm"),
        ({"stages.0.0.norm.weight": torch.zeros(4)}, r"it has another shape of stages\.0\.blocks\.0\.norm\.weight"),
        ({"downsample_layers.0.conv1.weight": None}, r"file\.pth: not a MambaOut checkpoint"),
        ({"stages.3.2.norm.bias": None}, r"it lacks stages\.3\.blocks\.2\.norm\.bias"),
    ):
        torch.save({key: x for key, x in {**state, **change}.items() if x is not None}, path)
        if message is None:
            TimmBackbone("mambaout_femto_gatedcnn", checkpoint=path)
            continue
        with pytest.raises(ValueError, match=message):
            TimmBackbone("mambaout_femto_gatedcnn", checkpoint=path)


def test_mistakes():
    for options, message in (
        ({"nmae": 1}, r"mambaout_femto_gatedcnn cannot be built with .*nmae"),
        ({"pyramid": True}, r"pyramid: needs a model that stays at stride 16; mambaout_femto_gatedcnn has \[4, 8, 16"),
        ({"init_cfg": {"type": "Kaiming"}}, r"init_cfg: expected dict\(type='Pretrained', checkpoint=FILE\)"),
    ):
        with pytest.raises(ValueError, match=message):
            TimmBackbone(**TINY, **options)
    with pytest.raises(ValueError, match=r"out_indices must be one block or four, got \[1, 2\]"):
        TimmBackbone(**VIM, pyramid=True, out_indices=(1, 2))
    with pytest.raises(FileNotFoundError, match=r"none\.pth: no such checkpoint"):
        TimmBackbone(**TINY, checkpoint="none.pth")


def test_layer_decay_counts_back_from_the_head():
    detector = nn.ModuleDict({"backbone": TimmBackbone(**TINY, norm_outputs=True), "neck": nn.Conv2d(32, 8, 1)})
    rates = {id(p): group["lr"] for group in param_groups(detector, 1.0, 0.05, 0.5) for p in group["params"]}
    rate = {name: rates[id(p)] for name, p in detector.named_parameters()}
    assert rate["neck.weight"] == rate["backbone.norms.0.weight"] == 1
    layers = ["stages.3.blocks.0", "stages.2.blocks.0", "stages.1.blocks.0", "stages.0.blocks.0", "stem"]
    for depth, layer in enumerate(layers, start=1):
        own = {value for name, value in rate.items() if name.startswith(f"backbone.net.{layer}.")}
        assert own == {0.5**depth}, layer
    assert rate["backbone.net.stages.2.downsample.conv.weight"] == rate["backbone.net.stages.2.blocks.0.norm.weight"]
