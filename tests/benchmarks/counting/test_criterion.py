"""ρ, its growth and its verdict: exact for plain ViTs, measured for everything else."""

from __future__ import annotations

import dataclasses
import functools
import json
from fractions import Fraction

import pytest
from mixerzoo.benchmarks.counting.counter import count_flops
from mixerzoo.benchmarks.counting.criterion import TASKS, Analyzer, crossover, length_class, verdict
from mixerzoo.benchmarks.counting.formulas import UnknownOperatorError
from mixerzoo.benchmarks.counting.growth import ZERO, add, evaluate, exponent, fit, leading_power, measure_growth
from mixerzoo.benchmarks.counting.record import FLOP_CLASSES, from_json, to_json
from mixerzoo.benchmarks.sources import MetaModels

analyzer = functools.cache(Analyzer)


def analyze(name, image_size=None, **kwargs):
    return analyzer(name).at(image_size, **kwargs)


def stage(record, name):
    (found,) = (stage for stage in record.stages if stage.name == name)
    return found


# Growth


@pytest.mark.parametrize(
    ("coefficients", "power"),
    [
        ((7, 0, 0, 0, 0), 0),
        ((0, 0, 5, 0, 0), 2),
        ((3, 0, 5, 0, 0), 2),
        ((1, -2, 5, 0, 0), 2),  # (a·s - b)²: a convolution without padding
        ((0, 0, 0, 5, 0), 3),
        ((1, 0, 2 * 196, 0, 196**2), 4),  # (196·s² + 1)²
    ],
)
def test_fit_is_exact(coefficients, power):
    values = [sum(c * s**k for k, c in enumerate(coefficients)) for s in (1, 2, 3)]
    assert leading_power(values) == power
    polynomial = fit(values, power)
    assert polynomial == coefficients
    assert all(isinstance(c, Fraction) for c in polynomial if c)
    assert evaluate(polynomial, 5) == sum(c * 5**k for k, c in enumerate(coefficients))


def test_exponent_is_the_slope_in_pixels():
    assert exponent(fit((1, 4, 9), 2), 1.7) == pytest.approx(1)
    assert exponent(fit((1, 16, 81), 4), 0.3) == pytest.approx(2)
    assert exponent(add([fit((1, 4, 9), 2), fit((1, 16, 81), 4)]), 1) == pytest.approx(1.5)
    assert exponent(ZERO, 1) is None


def test_crossover_is_where_the_quadratic_part_overtakes():
    rest, quadratic = fit((6, 24, 54), 2), fit((1, 16, 81), 4)  # 6·s² and s⁴
    assert crossover(quadratic, rest) == pytest.approx(6**0.5)
    assert crossover(ZERO, rest) is None


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "caformer_s18", "swin_tiny_patch4_window7_224", "pvt_v2_b0", "samvit_base_patch16"]
)
def test_growth_predicts_a_fourth_size_to_the_last_flop(name):
    models = MetaModels(name)
    growth = measure_growth(models)
    assert growth.rounded == 0
    sums = {}
    for site in growth.sites:
        sums.setdefault(site.power, []).append(site.flops)
    polynomial = add(fit([sum(column) for column in zip(*rows, strict=True)], power) for power, rows in sums.items())
    side = 4 * growth.unit
    predicted = sum(c * 4**k for k, c in enumerate(polynomial))
    assert predicted == count_flops(models.at((side, side)), (side, side)).flops()


def test_sizes_of_the_fit_avoid_padding():
    """SAM's default of 1024 pads its windows of 14 tokens; EfficientNet-B1's 240 is no multiple of its stride."""
    assert measure_growth(MetaModels("samvit_base_patch16")).unit == 224
    assert measure_growth(MetaModels("efficientnet_b1")).unit == 256
    assert measure_growth(MetaModels("vit_small_patch14_dinov2")).unit == 518


# The oracle: plain ViT blocks


@pytest.mark.parametrize(("size", "D"), [("tiny", 192), ("small", 384), ("base", 768), ("large", 1024)])
def test_vit_blocks_are_the_papers_formula_exactly(size, D):
    for image_size, L in (((224, 224), 196), ((800, 1280), 4000)):
        record = analyze(f"vit_{size}_patch16_224", image_size)
        blocks = max(record.stages, key=lambda stage: stage.flops)
        assert (blocks.tokens, blocks.prefix_tokens, blocks.dim, blocks.stride) == (L, 1, D, 16)
        assert blocks.grid == (image_size[0] // 16, image_size[1] // 16)
        assert Fraction(blocks.rho_exact) == Fraction(blocks.attention_ratio_exact) == Fraction(L + 1, 6 * D)
        assert blocks.six_d == 6 * D
        assert blocks.formula == record.formula == L / (6 * D)
        assert blocks.mixer == "attention"


def test_causal_attention_doubles_the_threshold():
    record = analyze("mambaout_femto_attn_causal")
    plain = analyze("mambaout_femto_attn")
    assert record.causal
    assert not plain.causal
    for name, L in (("stages.1", 784), ("stages.2", 196)):
        causal, full = stage(record, name), stage(plain, name)
        assert causal.causal
        assert causal.mixer == "causal attention"
        assert Fraction(causal.rho_exact) / Fraction(full.rho_exact) == Fraction(L + 1, 2 * L)
    in_paper = analyze("mambaout_femto_attn_causal", convention="paper")
    assert in_paper.flops == 2 * in_paper.macs_paper == 2 * record.macs_paper


@pytest.mark.parametrize(
    ("name", "side", "tokens"),
    [
        ("vit_tiny_patch16_224", 551, 1187),
        ("vit_small_patch16_224", 774, 2339),
        ("vit_small_patch32_224", 1579, 9740),
        ("eva02_small_patch14_224", 676, 1785),  # SwiGLU of ratio 8/3
        ("caformer_s18", 922, 3322),
        ("pvt_v2_b2", 1169, 5338),
        ("mvitv2_tiny", 550, 1182),
        ("samvit_base_patch16", 1921, 14412),  # 4 of 12 blocks are global
    ],
)
def test_crossover_of_whole_networks(name, side, tokens):
    record = analyze(name)
    assert record.crossover_side == pytest.approx(side, rel=0.02)
    assert record.crossover_tokens == pytest.approx(tokens, rel=0.03)
    assert record.growth.rho_at(record.crossover_side) == pytest.approx(1)


@pytest.mark.parametrize(
    "name",
    ["swin_tiny_patch4_window7_224", "xcit_nano_12_p16_224", "edgenext_xx_small", "efficientvit_b0", "pvt_v2_b2_li"]
    + ["mambaout_femto", "convnext_atto", "resnet18", "vmamba_tiny_s1l8"],
)
def test_products_of_activations_need_not_be_quadratic(name):
    record = analyze(name, (800, 1280))
    assert (record.length_class, record.rho, record.crossover_side) == ("never", 0, None)
    assert set(record.growth.quadratic) == {"0"}
    assert record.exponent == pytest.approx(1, abs=0.01)


# Stages. Ratio of act×act to all other FLOPs at 800×1280, measured independently.
STAGES = {
    "caformer_s18": {"stages.0": 0, "stages.1": 0, "stages.2": 2.02, "stages.3": 0.28},
    "pvt_v2_b2": {"stages.0": 1.55, "stages.1": 0.75, "stages.2": 0.51, "stages.3": 0.28},
    "swin_tiny_patch4_window7_224": {"layers.0": 0.086, "layers.1": 0.041, "layers.2": 0.023, "layers.3": 0.011},
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_of_hierarchical_networks(name):
    record = analyze(name, (800, 1280))
    for i, (path, ratio) in enumerate(STAGES[name].items()):
        found = stage(record, path)
        assert found.attention_ratio == pytest.approx(ratio, rel=0.02, abs=1e-9)
        assert found.stride == 4 * 2**i
        assert found.grid == (200 // 2**i, 320 // 2**i)
        assert found.tokens == 64000 // 4**i
        # Windows are act×act, but of a constant number of pairs per token.
        assert found.rho == (0 if "swin" in name else found.attention_ratio)
    assert record.formula_stage == [*STAGES[name]][2]


@pytest.mark.parametrize("name", ["caformer_s18", "vit_tiny_patch16_224", "efficientnet_b0", "hrnet_w18_small"])
def test_stages_and_modules_add_up(name):
    record = analyze(name)
    assert sum(stage.flops for stage in record.stages) == record.flops
    assert sum(stage.macs for stage in record.stages) == record.macs == sum(record.macs_by_class.values())
    for kind in FLOP_CLASSES:
        assert sum(stage.flops_by_class[kind] for stage in record.stages) == record.flops_by_class[kind]
    root = record.modules[0]
    assert (root.path, root.flops) == ("", record.flops)
    children = [module for module in record.modules if module.path and "." not in module.path]
    assert sum(child.flops for child in children) == record.flops
    assert all(module.exponent is None or -0.01 < module.exponent < 2.01 for module in record.modules)


def test_modules_carry_their_growth():
    modules = {module.path: module for module in analyze("vit_tiny_patch16_224").modules}
    D, L = 192, 196
    assert list(map(Fraction, modules["blocks.3.mlp.fc1"].growth)) == [8 * D**2, 0, 8 * D**2 * L, 0, 0]
    attention = [Fraction(c) for c in modules["blocks.3.attn"].growth]
    assert attention == [8 * D**2 + 4 * D, 0, 8 * D**2 * L + 8 * D * L, 0, 4 * D * L**2]
    assert modules["head"].exponent == 0


@pytest.mark.parametrize(
    ("name", "mixers"),
    [
        ("mambaout_femto_gatedcnn", ["convolution"] * 4),
        ("mambaout_femto_identity", ["none"] * 4),
        ("mambaout_femto_pool", ["pooling"] * 4),
        ("mambaout_femto_s6", ["scan + convolution"] * 4),
        ("caformer_s18", ["convolution", "convolution", "attention", "attention"]),
        ("swin_tiny_patch4_window7_224", ["window attention"] * 4),
        ("pvt_v2_b0", [f"attention{keys} + convolution" for keys in (", keys/64", ", keys/16", ", keys/4", "")]),
        ("pvt_v2_b2_li", ["attention to pooled keys + convolution"] * 4),
        ("xcit_nano_12_p16_224", ["linear attention + convolution"]),
        ("mixer_s32_224", ["token MLP"]),
        ("sequencer2d_s", ["recurrent"] * 2),
        ("samvit_base_patch16", ["window attention + attention"]),
        ("vit_tiny_patch16_224_causal", ["causal attention"]),
    ],
)
def test_mixers_are_inferred(name, mixers):
    record = analyze(name)
    assert [stage.mixer for stage in record.stages if stage.name not in ("stem", "head", "between")] == mixers


def test_networks_without_feature_info_are_divided_by_structure():
    record = analyze("mvitv2_tiny")
    assert [stage.stride for stage in record.stages if stage.name.startswith("stages.")] == [4, 8, 16, 32]
    assert record.length_class in ("short", "mixed", "long")


# Sizes that do not fit


def test_padding_is_counted_and_said():
    record = analyze("swin_tiny_patch4_window7_224", (800, 1280))
    assert 0.03 < record.rounding < 0.06  # windows of 7 on maps of 200×320 … 25×40
    assert analyze("swin_tiny_patch4_window7_224").rounding == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "counted"),
    [("halonet26t", (1024, 1280)), ("convit_tiny", (1022, 1022)), ("vit_tiny_patch16_224", (800, 1280))],
)
def test_architectures_that_take_multiples_or_squares_are_counted_at_the_next_size(name, counted):
    record = analyze(name, (800, 1280))
    assert record.image_size == (800, 1280)
    assert record.counted_size == counted


def test_network_of_one_size():
    record = analyze("efficientformer_l1")
    assert record.macs == pytest.approx(1.3e9, rel=0.05)  # as published
    assert (record.length_class, record.rho, record.growth, record.exponent) == ("unknown", None, None, None)
    assert [stage.grid for stage in record.stages][1:4] == [(56, 56), (28, 28), (14, 14)]
    with pytest.raises(ValueError, match=r"efficientformer_l1 cannot take 800×1280 images \(expected 224×224"):
        analyze("efficientformer_l1", (800, 1280))


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 cannot take 8×8 images \(expected the likes of"):
        analyze("vit_tiny_patch16_224", (8, 8))


def test_operators_without_a_formula_are_not_taken_for_a_refused_size(monkeypatch):
    def refuse(*args, **kwargs):
        raise UnknownOperatorError("mystery")

    monkeypatch.setattr("mixerzoo.benchmarks.counting.growth.count_flops", refuse)
    with pytest.raises(UnknownOperatorError, match="mystery"):
        Analyzer("resnet18")


# Verdicts


def test_task_presets():
    assert TASKS == {
        "imagenet": ((224, 224),),
        "coco": ((800, 1280),),
        "ade20k": ((512, 2048), (512, 512)),
        "nyu": ((480, 640),),
        "kitti": ((352, 1216),),
    }


@pytest.mark.parametrize(
    ("rho", "name"), [(0.0, "short"), (0.0999, "short"), (0.1, "mixed"), (0.999, "mixed"), (1.0, "long"), (3, "long")]
)
def test_classes(rho, name):
    assert length_class(rho, grows=True) == name
    assert length_class(rho, grows=False) == "never"
    assert length_class(None, grows=False) == "unknown"


def test_verdicts_follow_the_paper():
    assert "not autoregressive: an SSM has a case" in verdict("long", False)
    assert "not autoregressive: no case for an SSM" in verdict("short", False)
    assert "; autoregressive: an SSM has a case" in verdict("never", True)


def test_vit_small_per_task():
    vit = analyzer("vit_small_patch16_224")
    records = {(task, size): vit.at(size, task=task) for task, sizes in TASKS.items() for size in sizes}
    assert {key: record.length_class for key, record in records.items()} == {
        ("imagenet", (224, 224)): "short",
        ("coco", (800, 1280)): "long",
        ("ade20k", (512, 2048)): "long",
        ("ade20k", (512, 512)): "mixed",
        ("nyu", (480, 640)): "mixed",
        ("kitti", (352, 1216)): "mixed",
    }
    assert not any(record.autoregressive for record in records.values())
    assert all("not autoregressive" in record.verdict for record in records.values())
    assert records["coco", (800, 1280)].rho == pytest.approx(1.7128, abs=1e-4)


def test_unknown_convention():
    with pytest.raises(ValueError, match="convention: expected one of exact, paper, got 'vmamba'"):
        analyze("resnet10t", convention="vmamba")


# Records


def test_records_survive_json():
    records = [analyze("caformer_s18"), analyze("efficientformer_l1")]
    text = to_json(records)
    assert from_json(text) == records
    row = json.loads(text)[0]
    assert row["schema_version"] == 1
    assert Fraction(row["rho_exact"]) == pytest.approx(row["rho"])
    assert row["versions"]["torch"]


def test_records_of_another_schema_are_refused():
    record = dataclasses.asdict(analyze("resnet10t"))
    with pytest.raises(ValueError, match="expected a record of schema_version 1, got 99"):
        from_json(json.dumps([{**record, "schema_version": 99}]))
    with pytest.raises(ValueError, match="expected a JSON array"):
        from_json("{}")


# Any model of timm: one of each family, some with no stages, no features, or a layout of their own.
FAMILIES = {
    "beit": "beit_base_patch16_224",
    "byobnet": "repvgg_a0",
    "cait": "cait_xxs24_224",
    "coat": "coat_lite_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_1024_20_ks9_p14",
    "convnext": "convnext_atto",
    "crossvit": "crossvit_tiny_240",
    "cspnet": "cspresnet50",
    "davit": "davit_tiny",
    "densenet": "densenet121",
    "dla": "dla34",
    "edgenext": "edgenext_xx_small",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mobilenetv2_050",
    "efficientvit_mit": "efficientvit_b0",
    "eva": "eva02_tiny_patch14_224",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "ghostnet": "ghostnet_050",
    "hiera": "hiera_tiny_224",
    "inception_v3": "inception_v3",
    "levit": "levit_128s",
    "maxxvit": "coatnet_nano_rw_224",
    "metaformer": "poolformer_s12",
    "mlp_mixer": "gmlp_s16_224",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "nest": "nest_tiny",
    "nfnet": "nf_resnet26",
    "pit": "pit_ti_224",
    "pvt_v2": "pvt_v2_b0",
    "regnet": "regnetx_002",
    "repvit": "repvit_m0_9",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "starnet": "starnet_s1",
    "swin": "swin_tiny_patch4_window7_224",
    "swinv2_cr": "swinv2_cr_tiny_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "twins": "twins_pcpvt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer_relpos": "vit_relpos_small_patch16_224",
    "volo": "volo_d1_224",
    "xception": "xception41",
    "xcit": "xcit_nano_12_p16_224",
}


@pytest.mark.parametrize("name", FAMILIES.values(), ids=FAMILIES)
def test_any_family(name):
    record = analyze(name, (256, 256) if "inception" not in name else (320, 320))
    assert record.macs > 10**7
    assert record.length_class in ("never", "short", "mixed", "long")
    assert record.growth is not None
    assert record.stages
    assert sum(stage.flops for stage in record.stages) == record.flops
    assert (record.rho > 0) == (record.crossover_side is not None)
    assert record.uncounted
    assert to_json([record])
