"""Any model by name at any image size."""

from __future__ import annotations

import pytest
import timm
import torch
from mixerzoo.benchmarks import sources
from mixerzoo.benchmarks.sources import MetaModels, build_model, default_image_size, parse_image_size
from torch import nn


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("480x640", (480, 640)), (" 352X1216 ", (352, 1216)), ("8×16", (8, 16))]
)
def test_image_size_is_height_then_width(text, size):
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "x224", "-224", "2.5", "224x224x3", "big", "0", "0x0", "224x0"])
def test_bad_image_size_says_what_was_expected_and_what_came(text):
    with pytest.raises(ValueError, match="input size: expected") as raised:
        parse_image_size(text)
    assert repr(text) in str(raised.value)


def test_unknown_model_suggests_near_names():
    with pytest.raises(ValueError, match=r"unknown model 'mambaout_tiny_gatedcn'.*mambaout_tiny_gatedcnn"):
        build_model("mambaout_tiny_gatedcn")
    with pytest.raises(ValueError, match=r"unknown model 'qqqqqqqqqqqq'.*mixerzoo list"):
        MetaModels("qqqqqqqqqqqq")


def test_constructor_arguments_behind_the_name():
    parsed = sources.parse_model("vim_tiny_patch16_224@backend=reference,depth=2,dims=(1,2)")
    assert parsed == ("vim_tiny_patch16_224", {"backend": "reference", "depth": 2, "dims": (1, 2)})
    net = build_model("vim_tiny_patch16_224@backend=reference,depth=2", device="meta")
    assert [block.mixer.ssm.backend for block in net.layers] == ["reference"] * 2
    assert default_image_size("vit_base_patch16_384@depth=1") == (384, 384)


def test_bad_arguments_behind_the_name():
    for text in ("vit_tiny_patch16_224@", "vit_tiny_patch16_224@depth", "vit_tiny_patch16_224@depth="):
        with pytest.raises(ValueError, match=r"expected key=value.* behind the @, got"):
            build_model(text)
    with pytest.raises(ValueError, match=r"expected arguments of its constructor behind the @.*'dephts'"):
        build_model("mambaout_femto_gatedcnn@dephts=(1,1,1,1)")


def test_pretrained_tags_are_accepted():
    assert default_image_size("vit_base_patch16_384.augreg_in21k_ft_in1k") == (384, 384)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "resnet18", "mambaout_femto"])
def test_models_are_built_for_the_size_and_allocate_nothing_on_meta(name):
    model = build_model(name, (96, 160), device="meta").eval()
    tensors = [*model.parameters(), *model.buffers()]
    assert tensors
    assert all(t.is_meta for t in tensors)
    assert model(torch.zeros(2, 3, 96, 160, device="meta")).shape == (2, 1000)


def test_models_on_cpu_are_initialised_and_run_at_the_size():
    model = build_model("vit_tiny_patch16_224", (32, 48), num_classes=5).eval()
    with torch.no_grad():
        logits = model(torch.randn(1, 3, 32, 48))
    assert logits.shape == (1, 5)
    assert logits.isfinite().all()
    assert model.training is False
    assert build_model("resnet10t").training is True


def test_constructor_that_reads_values_is_built_on_cpu_and_moved(monkeypatch):
    def create(name, **kwargs):
        layer = nn.Linear(2, 3)
        layer.rate = torch.linspace(0, 1, 3)[1].item()  # impossible under torch.device("meta")
        return layer

    monkeypatch.setattr(sources.timm, "create_model", create)
    model = build_model("resnet18", device="meta")
    assert model.rate == 0.5
    assert model.weight.is_meta


def test_meta_models_are_rebuilt_only_where_the_constructor_asks_for_the_size():
    convolutional, windowed = MetaModels("resnet18"), MetaModels("vit_tiny_patch16_224")
    assert convolutional.at((224, 224)) is convolutional.at((96, 64))
    assert windowed.at((224, 224)) is windowed.at((224, 224))
    assert windowed.at((224, 224)).pos_embed.shape[1] == 197
    assert windowed.at((96, 64)).pos_embed.shape[1] == 25
    assert not any(p.requires_grad for p in windowed.at((96, 64)).parameters())


def test_skipping_initialisation_concerns_meta_tensors_only():
    with sources._Uninitialized():
        real = nn.init.constant_(torch.zeros(3), 2.0).add_(1)
        assert nn.init.normal_(torch.zeros(3, device="meta")).is_meta
        real[0] = 7
    assert real.tolist() == [7, 3, 3]


def test_parameters_on_meta_are_those_of_a_real_model():
    real = build_model("pvt_v2_b0")
    shapes = {name: p.shape for name, p in MetaModels("pvt_v2_b0").at((224, 224)).named_parameters()}
    assert shapes == {name: p.shape for name, p in real.named_parameters()}


def test_our_models_are_registered():
    assert timm.is_model("mambaout_femto_gatedcnn")
