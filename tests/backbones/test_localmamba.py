"""LocalVim and LocalVMamba against the official implementations, published sizes and costs."""

from __future__ import annotations

import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.backbones.localvim import rotation_tables
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PARAMETERS = {  # counted exactly on the official classes
    "localvim_tiny": 7_994_152,
    "localvim_tiny_midcls": 7_994_536,
    "localvim_small": 27_783_784,
    "localvmamba_tiny": 25_527_160,
    "localvmamba_small": 49_748_536,
}
SMALLER = {"localvim": {"depth": 2, "embed_dim": 32}, "localvmamba": {"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}}


def load(name: str, state: dict, path: Path, **kwargs):
    torch.save(state, path)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **kwargs).eval()


def assert_close_to_golden(actual: torch.Tensor, expected: torch.Tensor, tolerance: float):
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * expected.std().item())


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_parameter_counts(name):
    assert sum(p.numel() for p in timm.create_model(name, device="meta").parameters()) == PARAMETERS[name]


def test_localvmamba_computes_the_official_outputs(tmp_path):
    """At a side where windows of 7 divide every map, and at one where none is divided."""
    state = goldens.load("localvmamba_tiny_224").state_dict
    net = load("localvmamba_tiny", {"state_dict": state}, tmp_path / "official.pth")
    for name in ("localvmamba_tiny_224", "localvmamba_tiny_160"):
        golden = goldens.load(name)
        assert golden.state_dict.keys() == state.keys()
        with torch.no_grad():
            features, maps = net.forward_intermediates(golden.image)
            assert_close_to_golden(net.forward_head(features), golden.outputs["logits"], 3e-5)
        for i, stage in enumerate(maps):
            assert_close_to_golden(stage.mean((2, 3)), golden.outputs[f"stage{i}"], 3e-5)


@pytest.mark.parametrize("name", ["localvim_tiny", "localvim_tiny_midcls"])
def test_localvim_computes_the_official_outputs(name, tmp_path):
    golden = goldens.load(f"{name}_224")
    tables = {key: torch.zeros(196, 192) for key in golden.buffers}  # are computed, whatever the file says
    net = load(name, {"state_dict": {**golden.state_dict, **tables}}, tmp_path / "official.ckpt")
    mixed = []
    for layer in net.layers:
        layer.mixer.register_forward_hook(lambda module, args, y: mixed.append(y.mean(1)))
    with torch.no_grad():
        logits = net(golden.image)
    assert_close_to_golden(logits, golden.outputs.pop("logits"), 2e-5)
    for layer, expected in golden.outputs.items():
        assert_close_to_golden(mixed[int(layer.removeprefix("layer"))], expected, 2e-5)


@pytest.mark.parametrize(("name", "gmacs"), [("localvmamba_tiny", 5.7), ("localvmamba_small", 11.4)])
def test_published_macs_of_localvmamba(name, gmacs):
    count = count_flops(timm.create_model(name, device="meta"), (224, 224))
    assert count.macs("paper") / 1e9 == pytest.approx(gmacs, rel=0.01)


@pytest.mark.parametrize(("name", "gmacs"), [("localvim_tiny", 1.5), ("localvim_small", 4.8)])
def test_published_macs_of_localvim(name, gmacs):
    """The authors count 5·E·N per step of a scan, and what comes before the scan for one of four directions."""
    count = count_flops(timm.create_model(name, device="meta"), (224, 224))
    macs = 0.0
    for path, module in count.modules.items():
        for op in module.ops:
            if op.kind == "scan":
                macs += op.paper_macs * (5 * 16 + 1) / (9 * 16 + 1)
            elif ".mixer.attn" not in path and not any(f".mixer.ssm.{k}" in path for k in (1, 2, 3)):
                macs += op.paper_macs
    assert round(macs / 1e9, 1) == gmacs


@pytest.mark.parametrize("name", ["localvim_tiny_midcls", "localvmamba_tiny"])
def test_all_backends_agree_on_padded_windows(name):
    torch.manual_seed(0)
    image, outputs = torch.randn(1, 3, 80, 48), {}
    for backend in ("cpu", "torch", "reference"):
        net = timm.create_model(name, backend=backend, **SMALLER[name.partition("_")[0]]).eval()
        net.load_state_dict(outputs.setdefault("state", net.state_dict()))
        with torch.no_grad():
            outputs[backend] = net(image)
    for backend in ("cpu", "torch"):
        torch.testing.assert_close(outputs[backend], outputs["reference"], rtol=1e-4, atol=1e-5)


def naive_localvim_mixer(mixer, x: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """One direction after another on lists of tokens, as section 3.3 of the official forward is described."""
    (H, W), (u, z) = grid, mixer.in_proj(x).chunk(2, -1)
    half, total = H * W // 2, 0
    pixels = [*range(half), *range(half + 1, H * W + 1)] if mixer.class_token else [*range(H * W)]
    for name, ssm in zip(mixer.directions, mixer.ssm, strict=True):
        kind, K = name.partition("_")[0], int(name.partition("_")[0][1:] or 0)
        if kind == "h":
            order = [(i, j) for i in range(H) for j in range(W)]
        elif kind == "v":
            order = [(i, j) for j in range(W) for i in range(H)]
        else:
            padded = [(i, j) for i in range(-(-H // K) * K) for j in range(-(-W // K) * K)]
            order = sorted(padded, key=lambda p: (p[0] // K, p[1] // K, p[0] % K, p[1] % K))
        order = order[::-1] if name.endswith("_flip") else order
        steps = [pixels[i * W + j] if i < H and j < W else None for i, j in order]
        if mixer.class_token:
            steps.insert(half, half)
        zero = torch.zeros_like(u[:, 0])
        sequence = torch.stack([zero if step is None else u[:, step] for step in steps], 1)
        s = F.pad(sequence, (0, 0, 3, 0))
        weight = ssm.conv1d.weight[:, 0]
        s = F.silu(sum(s[:, k : k + len(steps)] * weight[:, k] for k in range(4)) + ssm.conv1d.bias)
        dt, B, C = ssm.x_proj(s).split(ssm.split, -1)
        dt, state, y = F.softplus(ssm.dt_proj(dt)), 0, torch.zeros_like(u)
        for t, step in enumerate(steps):
            decay = torch.exp(-dt[:, t, :, None] * ssm.A_log.exp())
            state = decay * state + (dt[:, t] * s[:, t])[..., None] * B[:, t, None]
            if step is not None:
                y[:, step] = (state * C[:, t, None]).sum(-1) + ssm.D * s[:, t]
        y = y * F.silu(z)
        gate = mixer.attn
        mean = gate.norm(y).mean(1, keepdim=True)
        total = total + y * gate.channel_select(F.gelu(gate.global_reduce(mean))).sigmoid()
    return mixer.out_proj(total)


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("grid", [(3, 5), (8, 2)], ids=str)
def test_localvim_mixer_with_padded_windows(grid, class_token):
    directions = [["h", "v_flip", "w7_flip", "w2"]]
    net = timm.create_model(
        "localvim_tiny", directions=directions, class_token=class_token, depth=1, embed_dim=16, img_size=64
    )
    mixer = net.layers[0].mixer.double()
    x = torch.randn(2, grid[0] * grid[1] + class_token, 16, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(mixer(x, grid), naive_localvim_mixer(mixer, x, grid), rtol=1e-5, atol=1e-6)


def test_rotations():
    """Element by element, as backbones are built for another size."""
    sin, cos = rotation_tables((2, 3), 8, torch.device("cpu"))
    for row in range(2):
        for column in range(3):
            for channel in range(8):
                position = (row / 2 if channel < 4 else column / 3) * 14
                angle = torch.tensor(position * 10000 ** -(channel % 4 // 2 * 2 / 4))
                torch.testing.assert_close(sin[3 * row + column, channel], angle.sin())
                torch.testing.assert_close(cos[3 * row + column, channel], angle.cos())


def test_other_sizes_make_or_resize_the_rotations(tmp_path):
    state = timm.create_model("localvim_tiny", depth=2).state_dict()
    image = torch.randn(1, 3, 96, 160)
    made, resized = (
        load("localvim_tiny", state, tmp_path / "ours.pth", depth=2, resized_rotation=flag) for flag in (False, True)
    )
    larger = load("localvim_tiny", state, tmp_path / "ours.pth", depth=2, img_size=(96, 160))
    with torch.no_grad():  # positions resized when loaded, or on the way: the same
        torch.testing.assert_close(made(image), larger(image), rtol=1e-4, atol=1e-4)
        (grid, rotation), (_, other) = made.embed(image)[1], resized.embed(image)[1]
    tables = rotation_tables((14, 14), 192, image.device)
    for mine, table, actual in zip(rotation_tables((6, 10), 192, image.device), tables, other, strict=True):
        expected = F.interpolate(table.T.view(1, 192, 14, 14), (6, 10), mode="bicubic", align_corners=False)
        torch.testing.assert_close(actual, expected.flatten(2)[0].T)
        assert grid == (6, 10)
        assert not torch.allclose(mine, actual, atol=1e-2)
    torch.testing.assert_close(rotation, rotation_tables((6, 10), 192, image.device))


def test_class_token_stays_in_the_middle_at_another_size(tmp_path):
    state = timm.create_model("localvim_tiny_midcls", depth=2).state_dict()
    larger = load("localvim_tiny_midcls", state, tmp_path / "ours.pth", depth=2, img_size=(48, 80))
    assert larger.pos_embed.shape == (1, 3 * 5 + 1, 192)
    torch.testing.assert_close(larger.pos_embed[0, 7], state["pos_embed"][0, 98])
    image = torch.randn(1, 3, 48, 80)
    with torch.no_grad():
        tokens = larger.forward_features(image)
        torch.testing.assert_close(larger.forward_head(tokens, pre_logits=True), tokens[:, 7])
        larger.reset_classifier(0, "avg")
        torch.testing.assert_close(larger(image), torch.cat((tokens[:, :7], tokens[:, 8:]), 1).mean(1))
    with pytest.raises(ValueError, match="global_pool must be one of 'avg', ''"):
        timm.create_model("localvim_tiny", global_pool="token", device="meta")


@pytest.mark.parametrize("name", ["localvim_tiny", "localvmamba_tiny"])
def test_foreign_broken_and_own_checkpoints(name, tmp_path):
    family, smaller = ("LocalVim", "LocalVMamba")[name.startswith("localvm")], SMALLER[name.partition("_")[0]]
    with pytest.raises(ValueError, match=f"not a {family} checkpoint.*expected keys such as.*found layer1.weight"):
        load(name, {"layer1.weight": torch.zeros(1)}, tmp_path / "foreign.pth", **smaller)
    own = timm.create_model(name, **smaller).state_dict()
    again = load(name, own, tmp_path / "ours.pth", **smaller).state_dict()
    assert all(torch.equal(again[key], value) for key, value in own.items())
    del own[next(key for key in own if key.endswith("channel_select.weight"))]
    with pytest.raises(RuntimeError, match=r"Missing key.*channel_select\.weight"):
        load(name, own, tmp_path / "broken.pth", **smaller)
