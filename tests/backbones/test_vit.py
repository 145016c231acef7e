"""The causal ViT: who sees whom, and that nothing but the mask differs from timm's."""

from __future__ import annotations

import math

import mixerzoo.backbones  # noqa: F401  (registers)
import pytest
import timm
import torch
from mixerzoo.backbones.vit import CausalAttention


def naive(attention: CausalAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention under an explicit mask, tokens in their stored order, class token first."""
    B, N, D = x.shape
    q, k, v = attention.qkv(x).view(B, N, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    token = torch.arange(N)
    sees = (token[None] <= token[:, None]) & (token[None] > 0)  # patches: patches up to themselves
    sees[0] = True  # the class token: everything
    scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
    y = scores.masked_fill(~sees, -math.inf).softmax(-1) @ v
    return attention.proj(y.transpose(1, 2).reshape(B, N, D))


def test_attention_is_the_masked_one():
    attention = CausalAttention(24, num_heads=3, qkv_bias=True).double()
    x = torch.randn(2, 11, 24, dtype=torch.double, requires_grad=True)
    leaves = (x, *attention.parameters())
    weight = torch.randn_like(x)
    torch.testing.assert_close(attention(x), naive(attention, x))
    grads = torch.autograd.grad((attention(x) * weight).sum(), leaves)
    expected = torch.autograd.grad((naive(attention, x) * weight).sum(), leaves)
    torch.testing.assert_close(grads, expected)


def test_another_mask_is_refused():
    net = timm.create_model("vit_tiny_patch16_224_causal", img_size=32, depth=1)
    with pytest.raises(ValueError, match="takes no attn_mask"):
        net.forward_features(torch.randn(1, 3, 32, 32), attn_mask=torch.ones(5, 5, dtype=torch.bool))


def test_no_patch_sees_what_comes_after_it_and_the_class_token_sees_all():
    net = timm.create_model("vit_tiny_patch16_224_causal", img_size=64, depth=3).eval()
    image = torch.randn(1, 3, 64, 64, requires_grad=True)
    tokens = net.forward_features(image)  # (1, 1 + 16, D)
    tokens = tokens * torch.randn(192)  # normalised tokens sum to 0, whatever the image is
    (of_patch,) = torch.autograd.grad(tokens[0, 1 + 5].sum(), image, retain_graph=True)
    seen = of_patch.abs().sum((0, 1)).view(4, 16, 4, 16).sum((1, 3)).flatten() > 0  # by patch
    assert seen.tolist() == [True] * 6 + [False] * 10
    (of_class,) = torch.autograd.grad(tokens[0, 0].sum(), image)
    assert (of_class.abs().sum((0, 1)).view(4, 16, 4, 16).sum((1, 3)) > 0).all()


@pytest.mark.parametrize("source", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_takes_ordinary_weights(source, tmp_path):
    full = timm.create_model(source)
    torch.save(full.state_dict(), tmp_path / "weights.pth")
    net = timm.create_model(
        "vit_tiny_patch16_224_causal",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")},
    )
    for name, value in full.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_without_a_class_token():
    net = timm.create_model("vit_tiny_patch16_224_causal", img_size=64, depth=2, class_token=False, global_pool="avg")
    tokens = net.eval().forward_features(image := torch.randn(1, 3, 64, 64, requires_grad=True))
    (grad,) = torch.autograd.grad(tokens[0, 0].sum(), image)
    assert grad[..., 16:].abs().sum() == grad[..., 16:, :].abs().sum() == 0
