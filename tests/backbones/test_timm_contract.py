"""What timm's own tests/test_models.py asks of a model, asked of every model we register."""

from __future__ import annotations

import copy
import importlib
import math

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from timm.models import FeatureInfo, create_feature_extractor, group_parameters
from timm.optim import param_groups_layer_decay, param_groups_weight_decay

NAMES = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("mixerzoo.")]
LARGE = 20e6  # parameters above which a forward pass runs on a small image


SMALLEST = [name for name in NAMES if "_femto_" in name] + [
    "mambavision_tiny",
    "mila_tiny",
    "ravlt_tiny",
    "spatial_mamba_tiny",
    "transnext_micro",
    "vim_tiny_patch16_224",
    "vit_tiny_patch16_224_causal",
    "vmamba_tiny_s1l8",
]
SHALLOW = {  # by the first word of the name
    "mambaout": {"depths": (1, 1, 1, 1)},
    "mambavision": {"depths": (1, 1, 2, 2), "dim": 32},
    "mila": {"depths": (1, 1, 1, 1)},
    "ravlt": {"depths": (1, 1, 1, 1)},
    "spatial": {"depths": (1, 1, 1, 1)},
    "transnext": {"depths": (1, 1, 1, 1)},
    "vmamba": {"depths": (1, 1, 1, 1)},
    "vim": {"depth": 4},
    "vit": {"depth": 4, "img_size": 64},
}

code_paths = pytest.mark.parametrize("name", SMALLEST)  # for what does not depend on widths and depths
FAMILIES = {
    "mambaout_femto_gatedcnn",
    "mambaout_femto_s6",
    "vim_tiny_patch16_224",
    "vit_tiny_patch16_224_causal",
    "vmamba_tiny_s1l8",
}


def families_first(names: list[str]) -> pytest.MarkDecorator:
    """Tracing takes seconds per network: the default suite traces one of each code path, CI's slow tests all others."""
    return pytest.mark.parametrize(
        "name", [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.slow) for name in names]
    )


def shallow(name: str, **kwargs):
    """The model with few blocks; those with a fixed grid are built for 64×64 pixels."""
    return timm.create_model(name, **{**SHALLOW[name.partition("_")[0]], **kwargs})


IN_FULL = ("vim", "vit", "vmamba")  # families whose larger models are tested in full, too


def is_large_variant(name: str) -> bool:
    """The larger variants: their code is that of the smallest size, which is tested in full."""
    return name not in SMALLEST and name.partition("_")[0] not in IN_FULL and not name.endswith("_gatedcnn")


@pytest.fixture(scope="module", params=NAMES)
def net(request):
    """Every registered model; of the large variants one block per stage, to keep the suite quick."""
    torch.manual_seed(0)
    return (shallow if is_large_variant(request.param) else timm.create_model)(request.param).eval()


@pytest.fixture
def own_net(net):
    """A copy that the test may change."""
    return copy.deepcopy(net)


def image(net, batch: int = 1, side: int | None = None) -> torch.Tensor:
    if net.default_cfg.get("fixed_input_size"):
        side = net.patch_embed.img_size[0]
    elif side is None:
        side = 32 if sum(p.numel() for p in net.parameters()) > LARGE else 224
    return torch.randn(batch, net.in_chans, side, side)


def is_map(net) -> bool:
    """Whether features are maps (B, H, W, D), not tokens (B, L, D)."""
    return getattr(net, "output_fmt", "NLC") == "NHWC"


def test_there_are_models():
    assert {f"mambaout_{size}_gatedcnn" for size in ("femto", "kobe", "tiny", "small", "base")} <= set(NAMES)


def test_forward(net):
    with torch.no_grad():
        out = net(image(net))
    assert out.shape == (1, 1000)
    assert out.isfinite().all()


@code_paths
def test_gradient_checkpointing_changes_nothing(name):
    own_net = shallow(name).train()
    x = image(own_net, batch=2, side=64)
    out = own_net(x)
    out.square().mean().backward()
    grads = [p.grad.clone() for p in own_net.parameters()]
    own_net.zero_grad()
    own_net.set_grad_checkpointing()
    again = own_net(x)
    again.square().mean().backward()
    torch.testing.assert_close(again, out, rtol=1e-4, atol=1e-5)
    for p, grad in zip(own_net.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)


def test_backward_reaches_every_parameter(own_net):
    own_net.train()
    own_net.reset_classifier(42)
    out = own_net(image(own_net, batch=2, side=32))
    assert out.shape == (2, 42)
    out.mean().backward()
    for name, p in own_net.named_parameters():
        assert p.grad is not None, f"no gradient for {name}"
        assert p.grad.isfinite().all(), f"gradient of {name} is not finite"


def test_default_cfg_describes_the_model(net):
    cfg, state = net.default_cfg, net.state_dict()
    meta = copy.deepcopy(net).to("meta")
    x = torch.empty(1, *cfg["input_size"], device="meta")

    features = meta.forward_features(x)
    assert features.shape[-1] == net.num_features
    assert (tuple(features.shape[1:3]) if is_map(net) else None) == cfg["pool_size"]
    assert meta.forward_head(features, pre_logits=True).shape == (1, net.head_hidden_size)
    assert meta.get_classifier().out_features == cfg["num_classes"]
    meta.reset_classifier(0)
    assert meta.forward_head(features).shape == (1, net.head_hidden_size)
    meta.reset_classifier(0, "")
    assert meta.forward_head(features).shape[:-1] == features.shape[:-1]
    assert f"{cfg['classifier']}.weight" in state
    assert f"{cfg['first_conv']}.weight" in state


@code_paths
def test_constructor_takes_device_and_refuses_what_it_does_not_know(name):
    net = shallow(name, device="meta")
    assert all(tensor.is_meta for tensor in [*net.parameters(), *net.buffers()])
    with pytest.raises(TypeError, match="not_an_argument"):
        shallow(name, device="meta", not_an_argument=1)


@code_paths
def test_a_new_classifier_has_device_dtype_and_mode_of_the_network(name):
    net = shallow(name, device="meta", dtype=torch.double).eval().requires_grad_(False)
    net.reset_classifier(0)
    assert not any(p.requires_grad for p in net.parameters())
    net.reset_classifier(2)
    assert all(p.is_meta and p.dtype == torch.double for p in net.get_classifier().parameters())
    assert not any(module.training for module in net.modules())


@code_paths
def test_dtype_may_change_after_a_forward_pass(name):
    net = shallow(name).eval()
    x = image(net, side=64)
    with torch.no_grad():
        net(x)
        assert net.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@code_paths
def test_a_file_without_classifier_loads_into_a_network_without(name):
    net = shallow(name, num_classes=0)
    filter_fn = importlib.import_module(type(net).__module__).checkpoint_filter_fn
    state = dict(sorted(net.state_dict().items()))
    shallow(name, num_classes=0).load_state_dict(filter_fn(state, net))


@code_paths
def test_constructor_without_classifier(name):
    x = torch.empty(1, 3, 64, 64, device="meta")
    pooled = shallow(name, num_classes=0, device="meta")
    assert pooled(x).shape == (1, pooled.head_hidden_size)
    unpooled = shallow(name, num_classes=0, global_pool="", device="meta")
    assert unpooled(x).shape[:-1] == unpooled.forward_features(x).shape[:-1]


@pytest.mark.parametrize("in_chans", [1, 4, 6])
@code_paths
def test_non_standard_input_channels(name, in_chans):
    changed = shallow(name, in_chans=in_chans, device="meta")
    assert changed(torch.empty(2, in_chans, 64, 64, device="meta")).shape == (2, 1000)


def test_features_only(net):
    name = net.default_cfg["architecture"]
    create = shallow if is_large_variant(name) else timm.create_model
    features = create(name, features_only=True, device="meta")
    side = net.default_cfg["input_size"][-1]
    maps = features(torch.empty(1, 3, side, side, device="meta"))
    info = features.feature_info
    assert len(maps) == len(info.channels()) >= 3
    for y, channels, stride in zip(maps, info.channels(), info.reduction(), strict=True):
        assert y.shape[:2] == (1, channels)
        assert all(abs(size - side / stride) <= 1 for size in y.shape[2:])


@code_paths
def test_features_only_of_chosen_stages(name):
    net = shallow(name).eval()
    features = shallow(name, features_only=True, out_indices=(1, 2)).eval()
    assert not any(
        key.startswith(("model.head.", "model.stages.3.", "model.blocks.3.")) for key in features.state_dict()
    )
    features.model.load_state_dict(net.state_dict(), strict=False)
    x = image(net, side=64)
    with torch.no_grad():
        maps = features(x)
        expected = net.forward_intermediates(x, indices=[1, 2], intermediates_only=True)
    assert [y.shape[1] for y in maps] == FeatureInfo(net.feature_info, (1, 2)).channels()
    torch.testing.assert_close(maps, expected)


@code_paths
def test_forward_intermediates(name):
    net = shallow(name).eval()
    x = image(net, side=64)
    fmt = "NHWC" if is_map(net) else "NLC"
    with torch.no_grad():
        final, maps = net.forward_intermediates(x, output_fmt=fmt)
        torch.testing.assert_close(final, net.forward_features(x), rtol=0, atol=0)
        assert len(maps) == len(net.feature_info) >= 3
        for y, info in zip(maps, net.feature_info, strict=True):
            assert y.shape[-1] == info["num_chs"]
            assert y[..., 0].numel() == math.ceil(64 / info["reduction"]) ** 2
        nchw = net.forward_intermediates(x, indices=[0, 2], stop_early=True, intermediates_only=True)
        torch.testing.assert_close(nchw[1].flatten(2), maps[2].reshape(1, -1, maps[2].shape[-1]).transpose(1, 2))
        normed = net.forward_intermediates(x, indices=1, norm=True, intermediates_only=True)[0]
        assert normed.shape[1] == net.num_features
    with pytest.raises(
        (ValueError, AssertionError), match=r"(?i)output.f.*m.*t must be one of|output_fmt must be|Output format"
    ):
        net.forward_intermediates(x, output_fmt="NLC?")


def test_prune_intermediate_layers(own_net):
    x = image(own_net, side=32)
    with torch.no_grad():
        before = own_net.forward_intermediates(x, indices=[1], intermediates_only=True)
        assert own_net.prune_intermediate_layers([1]) == [1]
        after = own_net.forward_intermediates(x, indices=[1], intermediates_only=True)
        torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
        assert own_net(x).ndim == own_net.forward_features(x).ndim > 2
    assert own_net.num_features == own_net.feature_info[1]["num_chs"]
    assert not isinstance(own_net.get_classifier(), torch.nn.Linear)


@code_paths
def test_pruning_at_every_stage(name):
    net = shallow(name).eval()
    x = image(net, batch=2, side=64)
    last = len(net.feature_info) - 1
    with torch.no_grad():
        expected = net(x)
        taps = net.forward_intermediates(x, intermediates_only=True)
        whole = copy.deepcopy(net)
        whole.prune_intermediate_layers([last], prune_head=False)
        torch.testing.assert_close(whole(x), expected)
    for i, tap in enumerate(taps):
        pruned = copy.deepcopy(net).train()
        for module in pruned.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # its output is to be that of the whole network, not of this batch
        taken = pruned.prune_intermediate_layers([i], prune_norm=True)
        features = pruned.forward_features(x)
        maps = pruned.forward_intermediates(x, indices=taken, intermediates_only=True)
        torch.testing.assert_close(maps, [tap])
        if is_map(net):
            torch.testing.assert_close(features.permute(0, 3, 1, 2), tap)
        (features.sum() + maps[0].sum()).backward()
        assert [name for name, p in pruned.named_parameters() if p.grad is None] == []
        if is_map(net):  # a new classifier fits what is left
            pruned.reset_classifier(7, "avg")
            assert pruned(x).shape == (2, 7)
            assert pruned.forward_head(features, pre_logits=True).shape == (2, pruned.head_hidden_size)


@pytest.mark.parametrize("name", [name for name in SMALLEST if not name.startswith("vit_")])
def test_any_input_size(name):
    net = shallow(name).eval()
    with torch.no_grad():
        for height, width in ((33, 97), (61, 32), (1, 1)):
            if min(height, width) < getattr(net, "patch_size", 1):
                with pytest.raises(ValueError, match="images must be at least 16 pixels a side, got 1×1"):
                    net(torch.randn(1, 3, height, width))
                continue
            (last,) = net.forward_intermediates(torch.randn(1, 3, height, width), indices=1, intermediates_only=True)
            stride = net.feature_info[-1]["reduction"]
            tokens = math.floor if name.startswith("vim_") else math.ceil
            assert last.shape[2:] == (tokens(height / stride), tokens(width / stride))
            assert last.isfinite().all()


def exempt(name: str) -> bool:
    """Matrices that must not decay: those of scans, and TransNeXt's positions and temperatures."""
    own = (".ssm.", ".A_log", ".temperature", ".query_embedding", ".relative_pos_bias_local", ".cpb_fc")
    return any(part in name for part in own)


@code_paths
def test_parameter_groups(name):
    net = timm.create_model(name)
    grouped = group_parameters(net, net.group_matcher())
    names = [name for members in grouped.values() for name in members]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert len(group_parameters(net, net.group_matcher(coarse=True))) <= len(grouped)
    groups = param_groups_weight_decay(net, 0.05, no_weight_decay_list=net.no_weight_decay())
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert all(
        (id(p) in decayed) == (p.ndim > 1) for name, p in net.named_parameters() if "." in name and not exempt(name)
    )
    never = ("A_log", "D", "dt_bias", "pos_embed", "cls_token")
    assert not any(id(p) in decayed for name, p in net.named_parameters() if name.rpartition(".")[2] in never)
    scales = [g["lr_scale"] for g in param_groups_layer_decay(net, layer_decay=0.5)]
    assert max(scales) == 1
    assert min(scales) == 0.5 ** (len(grouped) - 1)


# TorchScript (deprecated) cannot follow Vim's grid either.
@pytest.mark.parametrize("name", [name for name in SMALLEST if not name.startswith("vim_")])
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_torchscript(name):
    net = shallow(name).eval()
    script = torch.jit.script(net)
    x = image(net, side=64)
    with torch.no_grad():
        torch.testing.assert_close(script(x), net(x), rtol=1e-4, atol=1e-5)


HIERARCHICAL = [name for name in SMALLEST if not name.startswith(("vim", "vit"))]


# Vim's grid and ViT's mask argument are control flow that symbolic tracing cannot follow.
@pytest.mark.parametrize("name", HIERARCHICAL)
def test_fx(name):
    net = shallow(name).eval()
    traced = create_feature_extractor(net, [net.default_cfg["classifier"]])
    x = image(net, side=64)
    with torch.no_grad():
        assert torch.equal(next(iter(traced(x).values())), net(x))


@pytest.mark.parametrize("name", sorted(FAMILIES.intersection(HIERARCHICAL)))
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_fx_then_torchscript(name):
    net = shallow(name).eval()
    script = torch.jit.script(create_feature_extractor(net, [net.default_cfg["classifier"]]))
    x = image(net, side=64)
    with torch.no_grad():
        torch.testing.assert_close(next(iter(script(x).values())), net(x), rtol=1e-4, atol=1e-5)


@code_paths
def test_channels_last_gives_the_same(name):
    net = shallow(name).eval()
    x = image(net, batch=2, side=64)
    with torch.no_grad():
        expected = net(x)
        last = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@code_paths
def test_autocast(name, dtype):
    net = shallow(name)
    x = image(net, batch=2, side=64)
    expected = net(x)
    with torch.autocast("cpu", dtype=dtype):
        out = net(x)
        loss = out.float().square().mean()
    loss.backward()
    assert out.dtype == dtype
    assert (out - expected).norm() < 0.05 * expected.norm()
    assert all(p.grad.isfinite().all() for p in net.parameters())


SEQUENCES = [
    name for name in SMALLEST if name.endswith(("_s6", "_bis6", "_ss2d", "_ssd", "_spatial")) or "mambaout" not in name
]
SEQUENCES.remove("transnext_micro")  # a quarter of a billion weights at 800×1280, and no sum but the softmax's


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.bfloat16, (224, 224)),
        (torch.float16, (800, 1280)),
        pytest.param(torch.float16, (224, 224), marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, (800, 1280), marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name",
    [
        name if name in FAMILIES or name.startswith("mambaout") else pytest.param(name, marks=pytest.mark.slow)
        for name in SEQUENCES
    ],
)
def test_autocast_stays_finite_over_long_sequences(name, dtype, size):
    narrow = {
        "mambavision": {"dim": 16},
        "vim": {"depth": 2, "embed_dim": 64},
        "vit": {"depth": 2, "embed_dim": 64, "num_heads": 2, "img_size": size},
    }
    net = shallow(name, **narrow.get(name.partition("_")[0], {"dims": (16, 32, 48, 64)}))
    with torch.autocast("cpu", dtype=dtype):
        logits = net(3 * torch.randn(1, 3, *size))
    logits.float().logsumexp(1).sum().backward()
    assert logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.unpoisoned
@families_first(SMALLEST)
def test_compile_is_one_graph(name):
    torch._dynamo.reset()
    net = shallow(name)
    x = image(net, batch=2, side=64)
    net(x).square().mean().backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    torch.compile(net, fullgraph=True, backend="aot_eager")(x).square().mean().backward()
    for p, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-3, atol=1e-6)


@pytest.mark.unpoisoned
@families_first(SMALLEST)
def test_export_with_any_batch(name):
    net = shallow(name).eval()
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(net, (image(net, 2, 64),), dynamic_shapes={"x": {0: batch}})
    x = image(net, 3, 64)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.unpoisoned
@families_first(HIERARCHICAL)
def test_export_with_any_size(name):
    net = shallow(name).eval()
    height = torch.export.Dim("height", min=2, max=64)
    program = torch.export.export(net, (torch.randn(2, 3, 64, 96),), dynamic_shapes={"x": {2: 32 * height}})
    x = torch.randn(2, 3, 128, 96)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), net(x), rtol=1e-4, atol=1e-5)
