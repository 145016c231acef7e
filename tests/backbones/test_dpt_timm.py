"""DPT and Depth Anything as timm knows them: which of its calls apply to a dense network, and what they give."""

from __future__ import annotations

import copy
import logging
import pickle
import re

import pytest
import timm
import torch
from click.testing import CliRunner
from mixerzoo.backbones.dpt import DPT, PRESETS
from mixerzoo.tasks.cli import main
from mixerzoo.tasks.depth import create_depth_model, list_depth_models
from timm.models import group_parameters
from timm.optim import param_groups_weight_decay


def registered(name: str, **kwargs) -> DPT:
    return timm.create_model(name, device="meta", **kwargs)


SMALL_DPT = {"backbone": "vit_tiny_patch16_224", "depth": 4, "features": 16}
SMALL_MODELS = [
    SMALL_DPT,
    {**SMALL_DPT, "num_classes": 5},
    {"backbone": "mambaout_femto_gatedcnn", "depths": (1, 1, 1, 1), "features": 16, "max_depth": 10.0},
    {"backbone": "vim_tiny_patch16_224", "depth": 4, "features": 16},
]
small_models = pytest.mark.parametrize("options", SMALL_MODELS, ids=["depth", "classes", "pyramid", "vim"])


def test_published_models_are_registered():
    assert set(PRESETS) == set(list_depth_models())
    for name in PRESETS:
        cfg = timm.get_pretrained_cfg(name)
        assert cfg.mean == ((0.5,) * 3 if name.startswith("dpt") else (0.485, 0.456, 0.406))
        assert (cfg.url or cfg.hf_hub_id) or name == "dpt_base_384"
        assert cfg.custom_load or name == "dpt_base_384"
    with pytest.raises(RuntimeError, match="No pretrained weights exist for dpt_base_384"):
        registered("dpt_base_384", pretrained=True)


@pytest.mark.parametrize(
    "name", ["dpt_base_384", "dpt_hybrid_384_kitti", "dpt_hybrid_384_ade20k", "depth_anything_v2_small_vkitti"]
)
def test_configuration_describes_the_model(name):
    cfg = timm.get_pretrained_cfg(name)
    model = registered(name)
    x = torch.empty(1, *cfg.input_size, device="meta")
    depth = model.eval()(x)
    assert depth.shape == ((1, 150) if "ade20k" in name else (1,)) + cfg.input_size[1:]
    assert model.get_submodule(cfg.first_conv).weight.shape[1] == 3
    assert model.num_classes == cfg.num_classes == (150 if "ade20k" in name else 0)
    assert all(f"{classifier}.weight" in model.state_dict() for classifier in cfg.classifier or ())


@pytest.mark.slow
def test_a_file_through_timm(official, tmp_path):
    golden = official("dpt_hybrid_384_nyu_480x640")
    torch.save(golden.state_dict, tmp_path / "nyu.pt")
    overlay = {"file": tmp_path / "nyu.pt"}
    model = timm.create_model("dpt_hybrid_384_nyu", pretrained=True, pretrained_cfg_overlay=overlay)
    expected = create_depth_model("dpt_hybrid_384_nyu", golden.state_dict).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_own_files_and_classes_through_timm(tmp_path, caplog):
    own = timm.create_model("dpt", **SMALL_MODELS[1])
    torch.save({"state_dict": {f"net.{key}": value for key, value in own.state_dict().items()}}, tmp_path / "own.pth")
    overlay = {"file": tmp_path / "own.pth", "classifier": ("head.main.4", "head.auxiliary.4")}
    with caplog.at_level(logging.WARNING, "mixerzoo"):
        same = timm.create_model("dpt", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL_MODELS[1])
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in same.state_dict().items())
    assert not caplog.records
    options = {**SMALL_MODELS[1], "num_classes": 7}
    with caplog.at_level(logging.WARNING, "mixerzoo"):
        other = timm.create_model("dpt", pretrained=True, pretrained_cfg_overlay=overlay, **options)
    assert caplog.text.count("is for 5 classes, the network for 7") == 2
    assert torch.equal(other.head.main[0].weight, own.head.main[0].weight)


@small_models
def test_features(options):
    model = timm.create_model("dpt", **options).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, maps = model.forward_intermediates(x)
        for y, f, info in zip(maps, features, model.feature_info, strict=True):
            assert torch.equal(y, f)
            assert y.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
        torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))
    with pytest.raises(ValueError, match="output_fmt must be NCHW"):
        model.forward_intermediates(x, output_fmt="NLC")


@small_models
@pytest.mark.parametrize("indices", [[0, 3], [1, 2], [3]], ids=str)
def test_pruning_and_features_only(options, indices):
    model = timm.create_model("dpt", **options)
    features = timm.create_model("dpt", features_only=True, out_indices=indices, **options)
    features.model.load_state_dict(model.state_dict(), strict=False)
    pruned = copy.deepcopy(model)
    assert sorted(pruned.prune_intermediate_layers(indices)) == indices
    x = torch.randn(2, 3, 64, 96)
    for net in (model, features, pruned):
        net.eval()
    expected = model.forward_intermediates(x, indices, intermediates_only=True)
    torch.testing.assert_close(features(x), expected)
    assert features.feature_info.reduction() == [2 * 2**i for i in indices]
    maps = pruned.forward_intermediates(x, indices, intermediates_only=True)
    torch.testing.assert_close(maps, expected)
    assert len(pruned(x)) == 4 - indices[0]
    maps[0].square().sum().backward()
    assert not [name for name, p in pruned.named_parameters() if p.grad is None]


def test_classification_calls_that_do_not_apply():
    depth = timm.create_model("dpt", **SMALL_DPT)
    assert depth.num_classes == 0
    assert depth.get_classifier() is depth.head.conv3
    with pytest.raises(ValueError, match="num_classes: a model of depth has none, got 5"):
        depth.reset_classifier(5)
    with pytest.raises(ValueError, match="num_classes: dpt_base_384 predicts depth and has none, got 5"):
        registered("dpt_base_384", num_classes=5)
    classes = timm.create_model("dpt", **SMALL_MODELS[1]).eval()
    with pytest.raises(ValueError, match="global_pool: a dense network pools nothing, got 'avg'"):
        classes.reset_classifier(3, "avg")
    classes.reset_classifier(3)
    assert classes.get_classifier().out_channels == 3
    x = torch.randn(1, 3, 32, 32)
    assert classes(x).shape == (1, 3, 32, 32)
    classes.reset_classifier(0)
    assert [y.shape[1] for y in classes(x)] == [16] * 4


@pytest.mark.parametrize("name", ["dpt_hybrid_384", "dpt_large_384_ade20k", "depth_anything_v2_small"])
@pytest.mark.parametrize("coarse", [False, True])
def test_parameter_groups_of_published_models(name, coarse):
    check_groups(registered(name), coarse)


@small_models
@pytest.mark.parametrize("coarse", [False, True])
def test_parameter_groups(options, coarse):
    check_groups(registered("dpt", **options), coarse)


def check_groups(model: DPT, coarse: bool) -> None:
    groups = group_parameters(model, model.group_matcher(coarse))
    where = {name: layer for layer, names in groups.items() for name in names}
    assert set(where) == {name for name, _ in model.named_parameters()}
    last = max(where.values())
    assert all((layer == last) == (not name.startswith("backbone.")) for name, layer in where.items() if last > 1)
    first = next(name for name in where if "patch_embed" in name or "stem." in name)
    assert where[first] == 0
    if not coarse:
        assert len(groups) >= 6
    exempt = model.no_weight_decay()
    decayed = {
        id(p)
        for g in param_groups_weight_decay(model, 0.05, no_weight_decay_list=exempt)
        if g["weight_decay"]
        for p in g["params"]
    }
    for name, p in model.named_parameters():
        if name.rpartition(".")[2] in ("pos_embed", "cls_token", "A_log", "dt_bias"):
            assert id(p) not in decayed, name


@small_models
def test_gradient_checkpointing_changes_nothing(options):
    model = timm.create_model("dpt", **options).eval()
    saving = copy.deepcopy(model)
    saving.set_grad_checkpointing()
    x, calls = torch.randn(1, 3, 64, 64), []
    network = saving.backbone.network
    inner = next(
        m for name, m in network.named_modules() if re.fullmatch(r"(blocks|layers)\.0|stages\.0\.blocks\.0", name)
    )
    inner.register_forward_pre_hook(lambda *args: calls.append(1))
    for net in (model, saving):
        net(x).square().sum().backward()
    assert len(calls) == 2  # in the forward pass, and again in the backward pass
    for (name, a), b in zip(model.named_parameters(), saving.parameters(), strict=True):
        if a.grad is None:  # the auxiliary classifier, which only training runs
            assert "auxiliary" in name
            continue
        torch.testing.assert_close(a.grad, b.grad)


@small_models
def test_copies_dtypes_and_channels(options):
    model = timm.create_model("dpt", in_chans=1, **options).eval()
    x = torch.randn(1, 1, 40, 72)
    with torch.no_grad():
        expected = model(x)
        assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
        assert torch.equal(copy.deepcopy(model)(x), expected)
        assert model.to(torch.float64)(x.double()).dtype == torch.float64
    assert all(p.dtype == torch.bfloat16 for p in registered("dpt", dtype=torch.bfloat16, **options).parameters())


@pytest.mark.slow
@pytest.mark.unpoisoned
@small_models
def test_compile_and_export(options):
    model = timm.create_model("dpt", **options).eval()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(x), expected)
        program = torch.export.export(model, (x,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=2)}})
        torch.testing.assert_close(program.module()(x), expected)


def test_every_matrix_is_used_through_its_module():
    model = registered("dpt_base_384")
    seen = []
    matrices = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    for name, module in matrices.items():
        module.register_forward_hook(lambda *args, name=name: seen.append(name))
    model(torch.empty(1, 3, 64, 64, device="meta"))
    assert set(seen) == set(matrices)


def test_the_command_line_knows_them():
    runner = CliRunner()
    listed = runner.invoke(main, ["list", "dpt_hybrid*"])
    assert listed.exit_code == 0, listed.output
    assert "dpt_hybrid_384_kitti" in listed.output
    analyzed = runner.invoke(main, ["analyze", "dpt_hybrid_384", "--input", "384"])
    assert analyzed.exit_code == 0, analyzed.output
    assert "dpt_hybrid_384" in analyzed.output
