"""Token mixers against naive formulas, at odd sizes, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.backbones.mixers import Attention, GatedCNN, Pool, list_mixers, mixer_class, register_mixer
from torch import nn

SIZES = [(5, 7), (1, 9), (1, 1), (8, 3)]


def naive_attention(mixer: Attention, x: torch.Tensor) -> torch.Tensor:
    B, H, W, D = x.shape
    q, k, v = (x.reshape(B, H * W, D) @ mixer.qkv.weight.T).split(D, dim=-1)
    out = torch.zeros_like(q)
    d = D // mixer.num_heads
    for b in range(B):
        for h in range(mixer.num_heads):
            heads = slice(h * d, (h + 1) * d)
            for t in range(H * W):
                seen = slice(0, t + 1 if mixer.causal else H * W)
                scores = (k[b, seen, heads] @ q[b, t, heads]) / d**0.5
                out[b, t, heads] = scores.softmax(0) @ v[b, seen, heads]
    return out.reshape(B, H, W, D)


def naive_pool(mixer: Pool, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    _, H, W, _ = x.shape
    for i in range(H):
        for j in range(W):
            window = x[:, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
            out[:, i, j] = window.mean((1, 2))
    return out


def naive_depthwise(mixer: GatedCNN, x: torch.Tensor) -> torch.Tensor:
    padded = nn.functional.pad(x, (0, 0, 3, 3, 3, 3))
    _, H, W, _ = x.shape
    out = mixer.conv.bias.expand_as(x)
    for i in range(7):
        for j in range(7):
            out = out + padded[:, i : i + H, j : j + W] * mixer.conv.weight[:, 0, i, j]
    return out


NAIVE = {
    "gatedcnn": naive_depthwise,
    "attn": naive_attention,
    "attn_causal": naive_attention,
    "pool": naive_pool,
    "identity": lambda mixer, x: x,
}


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAIVE)
def test_output_and_gradients(name, size):
    mixer = mixer_class(name)(64).double()
    x = torch.randn(2, *size, 64, dtype=torch.double, requires_grad=True)
    leaves = (x, *mixer.parameters())
    weight = torch.randn_like(x)
    out, expected = mixer(x), NAIVE[name](mixer, x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    naive = torch.autograd.grad((expected * weight).sum(), leaves)
    for grad, wanted in zip(grads, naive, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", list_mixers())
def test_causality_is_as_declared(name):
    mixer = mixer_class(name)(32)
    x = torch.randn(1, 4, 5, 32, requires_grad=True)
    early = mixer(x).flatten(1, 2)[:, :9].sum()  # the first nine tokens in row-major order
    (grad,) = torch.autograd.grad(early, x)
    later = grad.flatten(1, 2)[:, 9:].abs().sum()
    sees_nothing_later = mixer.causal or mixer.kind == "identity"
    assert (later == 0) == sees_nothing_later


@pytest.mark.parametrize("name", list_mixers())
def test_every_mixer_says_what_it_is(name):
    mixer = mixer_class(name)(48, device="meta", dtype=torch.bfloat16)
    assert mixer.kind in {"convolution", "attention", "pooling", "identity", "scan"}
    assert isinstance(mixer.causal, bool)
    assert mixer(torch.empty(2, 3, 5, 48, device="meta", dtype=torch.bfloat16)).shape == (2, 3, 5, 48)


def test_convolution_reads_its_input_without_a_copy():
    x = torch.randn(1, 8, 8, 16)
    assert x.permute(0, 3, 1, 2).is_contiguous(memory_format=torch.channels_last)
    assert GatedCNN(16)(x).is_contiguous()


def test_heads():
    assert [Attention(dim, device="meta").num_heads for dim in (16, 48, 96, 256)] == [1, 1, 3, 8]
    with pytest.raises(ValueError, match="num_heads must divide dim, got dim=48 and num_heads=5"):
        Attention(48, num_heads=5)


def test_registry():
    with pytest.raises(ValueError, match="unknown token mixer 'atn', did you mean 'attn'"):
        mixer_class("atn")
    with pytest.raises(ValueError, match="already registered by GatedCNN"):
        register_mixer("gatedcnn")(Pool)
