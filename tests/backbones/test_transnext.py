"""TransNeXt against the official implementation and the published counts, its attention against a naive formula."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
import torch.nn.functional as F
from mixerzoo.backbones.transnext import AggregatedAttention
from mixerzoo.benchmarks.flops import count_flops

sys.path.insert(0, str(Path(__file__).parents[1]))
import goldens

PUBLISHED = {  # parameters counted on the official classes, multiply-adds in G
    "transnext_micro": (12_809_304, 2.7),
    "transnext_tiny": (28_258_960, 5.7),
    "transnext_small": (49_741_564, 10.3),
    "transnext_base": (89_721_496, 18.4),
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
    assert count.macs("paper") / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.01, abs=0.05)  # one decimal


@pytest.mark.parametrize("side", [224, 192])
def test_official_outputs(side, tmp_path):
    golden = goldens.load(f"transnext_micro_{side}")
    goldens.check_network("transnext_micro", golden, tmp_path / "official.pth", tolerance=2e-5, maps=2e-5)


def test_official_maps_of_an_oblong_image(tmp_path):
    golden = goldens.load("transnext_micro_dense_160x224")
    net = goldens.create("transnext_micro", golden.state_dict, tmp_path / "official.pth", num_classes=0)
    with torch.no_grad():
        maps = net.forward_intermediates(golden.image, intermediates_only=True)
    for i, stage in enumerate(maps):
        goldens.assert_agrees(stage.mean((2, 3)), golden.outputs[f"stage{i}"], 2e-5, f"stage{i}")
    goldens.assert_agrees(maps[3][:, ::8], golden.outputs["stage3_map"], 2e-5, "stage3_map")


def test_interpolated_positions():
    """The bias of the trained grid, resized: the same at that size, elsewhere first by the token, then by the cell."""
    trained = AggregatedAttention(12, 6, 2, 8, "extrapolated")
    attn = AggregatedAttention(12, 6, 2, 8, "interpolated")
    attn.load_state_dict(trained.state_dict())
    with torch.no_grad():
        bias = trained.bias(torch.empty(1, 8, 8, 12))  # (heads, 8·8, 4·4)
        torch.testing.assert_close(attn.bias(torch.empty(1, 8, 8, 12)), bias)
        queries = F.interpolate(bias.unflatten(1, (8, 8)).permute(0, 3, 1, 2), size=(6, 10), mode="bilinear")
        cells = queries.unflatten(1, (4, 4)).permute(0, 3, 4, 1, 2).flatten(1, 2)  # (heads, 6·10, 4, 4)
        expected = F.interpolate(cells, size=(3, 5), mode="bilinear").flatten(2)
        torch.testing.assert_close(attn.bias(torch.empty(1, 6, 10, 12)), expected)
        assert (trained.bias(torch.empty(1, 6, 10, 12)) - expected).abs().max() > 0.01 * expected.std()
    with pytest.raises(ValueError, match="position must be one of 'extrapolated', 'interpolated', got 'resized'"):
        timm.create_model("transnext_micro", position="resized")


def naive(attn: AggregatedAttention, x: torch.Tensor) -> torch.Tensor:
    """Query by query, as paper section 3.3 writes it; cells of sr×sr tokens, the last ones smaller."""
    _, H, W, D = x.shape
    sr, heads, d = attn.sr_ratio, attn.num_heads, D // attn.num_heads
    q, k, v = (t.unflatten(-1, (heads, d)) for t in (attn.q(x), *attn.kv(x).split(D, -1)))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    cells, centres = [], []
    for top in range(0, H, sr):
        for left in range(0, W, sr):
            cells.append(F.gelu(attn.sr(x[:, top : top + sr, left : left + sr])).mean((1, 2)))
            centres.append((top + (sr - 1) / 2, left + (sr - 1) / 2))
    far_k, far_v = (t.unflatten(-1, (heads, d)) for t in attn.kv(attn.norm(torch.stack(cells, 1))).split(D, -1))
    far_k = F.normalize(far_k, dim=-1)
    rows = []
    for y in range(H):
        for z in range(W):
            near = [(y + i, z + j, 3 * (i + 1) + j + 1) for i in (-1, 0, 1) for j in (-1, 0, 1)]
            near = [(i, j, place) for i, j, place in near if 0 <= i < H and 0 <= j < W]
            scale = F.softplus(attn.temperature[:, 0]) * math.log(len(near) + len(cells))
            query = (q[:, y, z] + attn.query_embedding[:, 0]) * scale
            offsets = torch.tensor([(y - i, z - j) for i, j in centres], dtype=x.dtype) * 8 / (attn.grid - 1)
            offsets = offsets.sign() * (offsets.abs() + 1).log2() / 3
            bias = attn.cpb_fc2(F.relu(attn.cpb_fc1(offsets)))  # (P, heads)
            scores = [(query * k[:, i, j]).sum(-1) + attn.relative_pos_bias_local[:, p] for i, j, p in near]
            scores += [(query * far_k[:, p]).sum(-1) + bias[p] for p in range(len(cells))]
            weights = torch.stack(scores).softmax(0).unsqueeze(-1)  # (9 + P, B, heads, 1)
            out = sum(weights[len(near) + p] * far_v[:, p] for p in range(len(cells)))
            for n, (i, j, place) in enumerate(near):
                learned = (q[:, y, z] * attn.learnable_tokens[..., place]).sum(-1) + attn.learnable_bias[:, 0, place]
                out = out + (weights[n] + learned.unsqueeze(-1)) * v[:, i, j]
            rows.append(attn.proj(out.flatten(1)))
    return torch.stack(rows, 1).view(x.shape)


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (4, 6)], ids=str)
def test_attention_and_its_gradients(size):
    attn = AggregatedAttention(12, 6, 2, 7, "extrapolated").double()
    for p in attn.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, *size, 12, dtype=torch.double, requires_grad=True)
    leaves = (x, *attn.parameters())
    out, expected = attn(x), naive(attn, x)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)  # offsets are float32
    weight = torch.randn_like(out)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    for grad, wanted in zip(grads, torch.autograd.grad((expected * weight).sum(), leaves), strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-5 * max(1.0, wanted.abs().max().item()))


def test_foreign_broken_and_own_checkpoints(tmp_path):
    small, path = {"depths": (1, 1, 1, 1)}, tmp_path / "checkpoint.pth"
    with pytest.raises(ValueError, match=r"not a TransNeXt checkpoint: expected keys such as.*found layer1\.weight"):
        goldens.create("transnext_micro", {"layer1.weight": torch.zeros(1)}, path, **small)
    with pytest.raises(RuntimeError, match=r"Missing key.*stem\."):
        goldens.create("transnext_micro", {"patch_embed1.proj.weight": torch.zeros(1, 3, 1, 1)}, path, **small)
    ours = timm.create_model("transnext_micro", **small).state_dict()
    again = goldens.create("transnext_micro", ours, path, **small).state_dict()
    assert all(torch.equal(again[key], value) for key, value in ours.items())
