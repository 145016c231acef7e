"""DPT against the official implementation's outputs, transformers', and files that are not what they claim to be."""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mixerzoo.backbones.checkpoints.dpt_names import UNUSED, to_our_names
from mixerzoo.backbones.dpt import DPT, checkpoint_filter_fn
from mixerzoo.backbones.layers import feature_taps
from mixerzoo.backbones.layers.dense_prediction import (
    Bounded,
    DepthHead,
    Fusion,
    Inverted,
    Readout,
    Relative,
    SegmentationHead,
)
from mixerzoo.tasks.depth import create_depth_model, list_depth_models
from mixerzoo.tasks.depth.models import load_depth_checkpoint
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

SMALL = {"img_size": 64, "embed_dim": 64, "depth": 4, "num_heads": 2}
CHANNELS = (16, 24, 32, 40)


def randomise(module: torch.nn.Module) -> torch.nn.Module:
    """Zero biases, unit norms and running statistics at rest would hide a mix-up."""
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn_like(value)
                plain = 0.1 * noise + (1 if name.endswith("weight") else 0)
                value.copy_(noise / value[0].numel() ** 0.5 if value.ndim > 1 else plain)
                if name.endswith("running_var"):
                    value.abs_().add_(1)
    return module.eval()


def small_dpt(segmentation: bool = False) -> DPT:
    taps = feature_taps.ViTTaps(
        range(4), norm=False, class_token=True, resize_positions=feature_taps.resize_bilinear, patch_size=16, **SMALL
    )
    head = SegmentationHead(32, 5) if segmentation else DepthHead(32, Relative())
    return DPT(taps, CHANNELS, head, 32, batch_norm=segmentation)


def small_hybrid() -> DPT:
    taps = feature_taps.HybridTaps((1, 1, 1), (128, 256, 512), (2, 3), **SMALL)
    return DPT(taps, (0, 0, 32, 40), DepthHead(32, Relative()), 32)


def small_depth_anything() -> DPT:
    options = {**SMALL, "img_size": 70}
    taps = feature_taps.dinov2(range(4), **options)
    return DPT(taps, CHANNELS, DepthHead(32, Relative()), 32)


GOLDENS = {
    "dpt_hybrid_384": "384x384",
    "dpt_hybrid_384_nyu": "480x640",
    "dpt_hybrid_384_ade20k": "480x480",
    "dpt_base_384": "384x384",
    "dpt_large_384": "384x384",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDENS)
def test_official_outputs(name, official):
    golden = official(f"{name}_{GOLDENS[name]}")
    model = create_depth_model(name, golden.state_dict).eval()
    with torch.no_grad():
        maps = model.forward_reassembled(golden.image)
        prediction = model.head(model.fuse(maps), golden.image.shape[-2:])
    for i, x in enumerate(maps, 1):
        expected = golden.outputs[f"reassembled{i}_mean"]
        torch.testing.assert_close(x.mean((2, 3)), expected, rtol=0, atol=1e-4 * float(expected.std()))
    assert prediction.shape == (1, *([150] if "ade20k" in name else []), *golden.image.shape[-2:])
    samples = (prediction[:, ::10] if "ade20k" in name else prediction)[..., ::8, ::8]
    expected = golden.outputs["output_sub8"]
    error = (samples - expected) / expected.std()
    assert error.square().mean().sqrt() < 1e-4
    # Single pixels: the official float32 outputs are themselves up to 2.6e-4 (hybrid) and 3.6e-4 (nyu, where one unit
    # in the last place of a depth is 0.5e-4 of their spread) off the same network in float64; ours less.
    assert error.abs().max() < (3e-4 if "hybrid" in name else 1e-4)


def test_every_published_model_has_the_published_parts():
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in create_depth_model(name).parameters())
            for name in ("dpt_base_384", "dpt_hybrid_384")
        }
    # Official counts (111.65 M and 123.15 M) with the classifier and what nothing uses: 1000 classes on 768 channels,
    # a norm, and one residual unit of the fusion.
    unused = 769 * 1000 + 2 * 768 + 2 * (256 * 256 * 9 + 256)
    assert round((counts["dpt_base_384"] + unused) / 1e6, 2) == 111.65
    assert round((counts["dpt_hybrid_384"] + unused) / 1e6, 2) == 123.15
    assert {"dpt_large_384", "dpt_hybrid_384_kitti", "dpt_large_384_ade20k"} <= set(list_depth_models())


@pytest.mark.parametrize("make", [small_dpt, small_hybrid, small_depth_anything, partial(small_dpt, True)])
def test_every_parameter_gets_a_gradient(make):
    model = randomise(make()).train()
    output = model(torch.randn(2, 3, 64, 96))
    loss = sum(part.square().sum() for part in output) if isinstance(output, tuple) else output.square().sum()
    loss.backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


# The official modules' arithmetic, written down plainly.


def test_readout_is_that_of_the_paper():
    x, class_tokens = torch.randn(2, 8, 3, 5), torch.randn(2, 2, 8)
    tokens = x.flatten(2).mT
    project = randomise(Readout(8, "project"))
    both = torch.cat([tokens, class_tokens[:, :1].expand_as(tokens)], dim=2)
    expected = F.gelu(project.project(both)).mT.reshape(x.shape)
    torch.testing.assert_close(project(x, class_tokens), expected)
    mean = (class_tokens[:, 0] + class_tokens[:, 1]) / 2
    torch.testing.assert_close(Readout(8, "add")(x, class_tokens), x + mean[..., None, None])
    assert Readout(8, "ignore")(x, class_tokens) is x
    with pytest.raises(ValueError, match="expected one of ignore, add, project, got 'mean'"):
        Readout(8, "mean")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_fusion_is_that_of_the_official_code(batch_norm):
    fusion = randomise(Fusion(6, True, batch_norm)).double()

    def unit(module, x):
        y = module.norm1(module.conv1(F.relu(x)))
        return module.norm2(module.conv2(F.relu(y))) + x

    x, skip = torch.randn(2, 1, 6, 5, 7, dtype=torch.double)
    y = unit(fusion.unit, x + unit(fusion.skip_unit, skip))
    y = F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=True)
    torch.testing.assert_close(fusion(x, skip, (10, 14)), fusion.project(y))


def test_outputs_of_the_heads():
    y = torch.tensor([-1.0, 0.0, 2.0])
    assert Relative()(y).tolist() == [0, 0, 2]
    torch.testing.assert_close(Inverted(0.5, 0.25)(y), torch.tensor([4.0, 4.0, 0.8]))
    assert Inverted(0.5, 0.0)(y)[0] == 1e8
    torch.testing.assert_close(Bounded(10.0)(y), 10 / (1 + (-y).exp()))
    with pytest.raises(ValueError, match="above 0"):
        Bounded(0.0)


def test_dinov2_resizes_positions_as_its_own_code():
    positions = torch.randn(1, 4, 37, 37, dtype=torch.double)
    assert feature_taps.resize_dinov2(positions, (37, 37)) is positions
    ours = feature_taps.resize_dinov2(positions, (19, 28))
    scale = ((19 + 0.1) / 37, (28 + 0.1) / 37)
    expected = F.interpolate(positions, scale_factor=scale, mode="bicubic")
    assert ours.shape == (1, 4, 19, 28)
    torch.testing.assert_close(ours, expected)
    assert not torch.allclose(ours, F.interpolate(positions, size=(19, 28), mode="bicubic"))


# transformers


def hugging_face(hybrid: bool = False, segmentation: bool = False):
    transformers = pytest.importorskip("transformers")
    options = {
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 256,
        "image_size": 64,
        "layer_norm_eps": 1e-6,
        "readout_type": "project",
        "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": list(CHANNELS),
        "fusion_hidden_size": 32,
        "use_batch_norm_in_fusion_residual": segmentation,
    }
    if hybrid:
        bit = transformers.BitConfig(
            global_padding="same",
            layer_type="bottleneck",
            depths=[1, 1, 1],
            hidden_sizes=[128, 256, 512],
            out_features=["stage1", "stage2", "stage3"],
            embedding_dynamic_padding=True,
        )
        options |= {
            "is_hybrid": True,
            "backbone_config": bit,
            "backbone_featmap_shape": [1, 512, 4, 4],
            "neck_hidden_sizes": [128, 256, 32, 40],
            "neck_ignore_stages": [0, 1],
            "reassemble_factors": [1, 1, 1, 0.5],
            "backbone_out_indices": [0, 1, 2, 3],
        }
    if segmentation:
        config = transformers.DPTConfig(num_labels=5, **options)
        return randomise(transformers.DPTForSemanticSegmentation(config))
    return randomise(transformers.DPTForDepthEstimation(transformers.DPTConfig(**options)))


@pytest.mark.parametrize("kind", ["vit", "hybrid", "segmentation"])
def test_transformers_computes_the_same(kind):
    theirs = hugging_face(kind == "hybrid", kind == "segmentation").double()
    ours = small_hybrid() if kind == "hybrid" else small_dpt(kind == "segmentation")
    load_depth_checkpoint(ours, theirs.state_dict())
    state = {k: v for k, v in to_our_names(theirs.state_dict()).items() if k in ours.state_dict()}
    ours.eval().double().load_state_dict(state)
    images = torch.randn(2, 3, 64, 64, dtype=torch.double)
    with torch.no_grad():
        output = theirs(images)
        expected = output.logits if kind == "segmentation" else output.predicted_depth
        prediction = ours(images)
    assert expected.std() > 0.05
    # BiT standardises weights with another epsilon than the released hybrid.
    tolerance = 2e-3 if kind == "hybrid" else 1e-9
    torch.testing.assert_close(prediction, expected, rtol=0, atol=tolerance * float(expected.std()))


def hugging_face_depth_anything():
    transformers = pytest.importorskip("transformers")
    dinov2 = transformers.Dinov2Config(
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=70,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=dinov2,
        reassemble_hidden_size=64,
        neck_hidden_sizes=list(CHANNELS),
        fusion_hidden_size=32,
        head_in_index=-1,
        head_hidden_size=32,
    )
    return randomise(transformers.DepthAnythingForDepthEstimation(config))


_IN_FILES = [  # what transformers 5 calls otherwise than the published files
    (".attention.q_proj.", ".attention.attention.query."),
    (".attention.k_proj.", ".attention.attention.key."),
    (".attention.v_proj.", ".attention.attention.value."),
    (".attention.o_proj.", ".attention.output.dense."),
]


@pytest.mark.parametrize("published", [False, True], ids=["as transformers holds it", "as the files do"])
def test_transformers_depth_anything_computes_the_same(published, tmp_path):
    theirs, ours = hugging_face_depth_anything(), small_depth_anything()
    state = theirs.state_dict()
    for name, in_files in _IN_FILES if published else ():
        state = {key.replace(name, in_files): value for key, value in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    load_depth_checkpoint(ours, tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 70, 70)
    with torch.no_grad():
        expected, prediction = theirs(images).predicted_depth, ours.eval()(images)
    assert expected.std() > 0.01
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-4 * float(expected.std()))


# Checkpoints


def official_names(model: DPT) -> dict[str, torch.Tensor]:
    """Our state dict under the official keys, with the tensors that nothing uses."""
    names = [
        (r"^backbone\.resnet\.", "pretrained.model.patch_embed.backbone."),
        (r"^backbone\.vit\.", "pretrained.model."),
        (r"^head\.conv1\.", "scratch.output_conv.0."),
        (r"^head\.conv2\.", "scratch.output_conv.2."),
        (r"^head\.conv3\.", "scratch.output_conv.4."),
        (r"skip_unit", "resConfUnit1"),
        (r"\bunit\b", "resConfUnit2"),
        (r"^(fusions\.\d\.)project", r"\1out_conv"),
    ]
    state = {}
    for key, value in model.state_dict().items():
        for pattern, name in names:
            key = re.sub(pattern, name, key)
        key = re.sub(
            r"^reassemble\.(\d)\.readout\.project\.",
            lambda m: f"pretrained.act_postprocess{int(m[1]) + 1}.0.project.0.",
            key,
        )
        key = re.sub(r"^reassemble\.(\d)\.project\.", lambda m: f"pretrained.act_postprocess{int(m[1]) + 1}.3.", key)
        key = re.sub(r"^reassemble\.(\d)\.resize\.", lambda m: f"pretrained.act_postprocess{int(m[1]) + 1}.4.", key)
        key = re.sub(r"^adapters\.(\d)\.", lambda m: f"scratch.layer{int(m[1]) + 1}_rn.", key)
        key = re.sub(r"^fusions\.(\d)\.", lambda m: f"scratch.refinenet{int(m[1]) + 1}.", key)
        state[key] = value
    state["pretrained.model.norm.weight"] = torch.ones(64)
    state["scratch.refinenet4.resConfUnit1.conv1.weight"] = torch.ones(32, 32, 3, 3)
    return state


@pytest.mark.parametrize("form", ["bare", "optimizer", "safetensors", "ours"])
def test_official_files(form, tmp_path, caplog):
    source, model = randomise(small_dpt()), small_dpt()
    state, path = official_names(source), tmp_path / "dpt.pt"
    if form == "safetensors":
        path = tmp_path / "dpt.safetensors"
        save_file(state, path)
    else:
        content = {"bare": state, "optimizer": {"model": state, "optimizer": {"lr": 1.0}}, "ours": source.state_dict()}
        torch.save(content[form], path)
    with caplog.at_level(logging.INFO, "mixerzoo"):
        load_depth_checkpoint(model, path)
    if form != "ours":
        assert caplog.text.endswith("uses them: backbone.vit.norm.weight, fusions.3.skip_unit.conv1.weight\n")
    for name, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_depth_anything_layout():
    source, model = randomise(small_depth_anything()), small_depth_anything()
    state = {}
    for key, value in official_names(source).items():
        key = re.sub(r"^pretrained\.act_postprocess(\d)\.3", lambda m: f"depth_head.projects.{int(m[1]) - 1}", key)
        key = re.sub(r"^pretrained\.act_postprocess(\d)\.4", lambda m: f"depth_head.resize_layers.{int(m[1]) - 1}", key)
        key = key.replace("pretrained.model.", "pretrained.").replace("scratch.output_conv.0", "scratch.output_conv1")
        key = key.replace("output_conv.2.", "output_conv2.0.").replace("output_conv.4.", "output_conv2.2.")
        state["depth_head." + key if key.startswith("scratch.") else key] = value
    state["pretrained.norm.weight"] = source.backbone.vit.norm.weight.detach()
    state["pretrained.mask_token"] = torch.zeros(1, 64)
    assert set(to_our_names(state)) - set(checkpoint_filter_fn(state, model)) == {
        "backbone.vit.mask_token",
        "fusions.3.skip_unit.conv1.weight",
    }
    load_depth_checkpoint(model, state)
    images = torch.randn(1, 3, 42, 84)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images), source(images))
        taps = model.backbone(images)
        raw = model.backbone.vit.forward_intermediates(images, [3], norm=False, intermediates_only=True)[0]
    assert all(class_token is None for _, class_token in taps)
    normed = model.backbone.vit.norm(raw.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(taps[-1][0], normed)


def test_what_does_not_fit_is_named():
    state = official_names(randomise(small_dpt()))
    del state["scratch.layer2_rn.weight"]
    state["pretrained.model.blocks.0.attn.surprise"] = torch.zeros(1)
    state["scratch.output_conv.4.weight"] = torch.zeros(2, 32, 1, 1)
    with pytest.raises(RuntimeError) as error:
        load_depth_checkpoint(small_dpt(), state)
    for key in ("adapters.1.weight", "backbone.vit.blocks.0.attn.surprise", "head.conv3.weight"):
        assert key in str(error.value)


def test_unused_is_dropped_only_where_it_is_unused():
    model = small_depth_anything()
    assert "backbone.vit.norm.weight" in model.state_dict()
    state = model.state_dict()
    del state["backbone.vit.norm.weight"]
    with pytest.raises(RuntimeError, match=r"backbone\.vit\.norm\.weight"):
        load_depth_checkpoint(model, state)
    assert any(re.match(pattern, "backbone.vit.norm.weight") for pattern in UNUSED)


@pytest.mark.parametrize("foreign", [{"cls_token": torch.zeros(1, 1, 192)}, {}], ids=["vit", "empty"])
def test_foreign_checkpoint(foreign, tmp_path):
    torch.save(foreign, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"not a DPT checkpoint: expected .*scratch\.layer1_rn.*found"):
        create_depth_model("dpt_hybrid_384", tmp_path / "foreign.pt")


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_pickle_with_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"scratch.layer1_rn.weight": torch.zeros(1), "extra": Malicious()}, "evil.pt")
    with pytest.raises(ValueError, match="only a trusted file may"):
        create_depth_model("dpt_hybrid_384", "evil.pt")
    assert not Path("executed").exists()


def test_missing_file_and_unknown_names():
    with pytest.raises(FileNotFoundError):
        create_depth_model("dpt_hybrid_384", "no/such/file.pt")
    with pytest.raises(ValueError, match="unknown depth model 'dpt_hybrd_384'; did you mean dpt_hybrid_384"):
        create_depth_model("dpt_hybrd_384")
    with pytest.raises(TypeError, match="unexpected keyword argument 'features'"):
        create_depth_model("dpt_base_384", features=64)


# The head on other backbones, and images of any size


@pytest.mark.parametrize(
    "name",
    [
        "mambaout_femto_gatedcnn",
        "vmamba_tiny_s1l8",
        "swin_tiny_patch4_window7_224",
        "convnext_atto",
        "vim_tiny_patch16_224",
        "vit_tiny_patch16_224",
        "vit_tiny_patch16_224_causal",
        "deit_tiny_distilled_patch16_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_the_head_on_any_backbone(name):
    small = {"depths": (1, 1, 1, 1)} if name.startswith(("mambaout", "swin", "convnext")) else {"depth": 4}
    small = {} if name.startswith("vmamba") else small
    model = create_depth_model(name, features=16, **small)
    images = torch.randn(1, 3, 56, 70)
    depth = model(images)
    assert depth.shape == (1, 56, 70)
    assert model.unit == "relative"
    randomise(model).train()(images).square().sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None]
    assert not dead
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_levels_stand_at_their_strides():
    for name, kwargs in {
        "mambaout_femto_gatedcnn": {"depths": (1, 1, 1, 1)},
        "vit_tiny_patch16_224": {"depth": 4},
    }.items():
        model = create_depth_model(name, features=16, **kwargs)
        with torch.no_grad():
            maps = model.forward_reassembled(torch.randn(1, 3, 64, 128))
        assert [tuple(x.shape[-2:]) for x in maps] == [(16, 32), (8, 16), (4, 8), (2, 4)]


def test_taps_of_an_isotropic_model_are_its_blocks():
    model = create_depth_model("vit_tiny_patch16_224", features=16, depth=8)
    assert model.backbone.blocks == [1, 3, 5, 7]
    with pytest.raises(ValueError, match="at least 4 blocks to tap, found 3"):
        create_depth_model("vit_tiny_patch16_224", depth=3)
    with pytest.raises(ValueError, match="strides 4, 8, 16 and 32"):
        create_depth_model("resnet18", output_stride=16)


def test_images_are_normalised_as_the_backbone_was_trained():
    vit = create_depth_model("vit_tiny_patch16_224", features=16, depth=4).convention
    assert (vit.mean, vit.std, vit.multiple) == ((0.5,) * 3, (0.5,) * 3, 32)
    dinov2 = create_depth_model("vit_small_patch14_dinov2", features=16, depth=4).convention
    assert (dinov2.mean, dinov2.multiple) == ((0.485, 0.456, 0.406), 14)
    ours = create_depth_model("mambaout_femto_gatedcnn", features=16, depths=(1, 1, 1, 1)).convention
    assert (ours.mean, ours.std, ours.multiple) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 32)


def test_metric_head_is_bounded():
    model = create_depth_model("mambaout_femto_gatedcnn", features=16, max_depth=10.0, depths=(1, 1, 1, 1))
    depth = model(torch.randn(1, 3, 64, 64))
    assert model.unit == "metre"
    assert depth.min() > 0
    assert depth.max() < 10


@pytest.mark.parametrize("size", [(1, 1), (17, 200), (33, 47), (48, 64)])
def test_images_of_any_size(size):
    model = randomise(small_dpt())
    with torch.no_grad():
        depth = model(torch.randn(1, 3, *size))
    assert depth.shape == (1, *size)
    assert depth.isfinite().all()
    assert depth.min() >= 0


def test_a_shape_that_is_no_image():
    with pytest.raises(ValueError, match=r"expected \(B, C, H, W\) without an empty side, got \(3, 8, 8\)"):
        small_dpt()(torch.randn(3, 8, 8))


def test_segmentation_gives_auxiliary_scores_only_while_training():
    model = small_dpt(segmentation=True)
    scores, auxiliary = model(torch.randn(2, 3, 64, 96))
    assert scores.shape == auxiliary.shape == (2, 5, 64, 96)
    assert model.eval()(torch.randn(1, 3, 40, 96)).shape == (1, 5, 40, 96)


# timm's contract. A dense network has no pooling, no pre-logits and, of depth, no classes; these calls say so.
