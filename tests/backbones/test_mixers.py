"""Token mixers against naive formulas, at odd sizes, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mixerzoo.backbones.mixers import Attention, GatedCNN, Pool, list_mixers, mixer_class, register_mixer
from mixerzoo.backbones.ops.cross_scan import Route

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
    padded = F.pad(x, (0, 0, 3, 3, 3, 3))
    _, H, W, _ = x.shape
    out = mixer.conv.bias.expand_as(x)
    for i in range(7):
        for j in range(7):
            out = out + padded[:, i : i + H, j : j + W] * mixer.conv.weight[:, 0, i, j]
    return out


def naive_scan(mixer, x: torch.Tensor) -> torch.Tensor:
    """S6, BiS6 and SS2D step by step: convolution, SiLU, one recurrence per route, their sum."""
    u = F.silu(F.conv2d(x.permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=3, groups=x.shape[-1]))
    u = u.permute(0, 2, 3, 1)  # (B, H, W, E)
    ssm, (_, H, W, _) = mixer.ssm, u.shape
    total = torch.zeros_like(u)
    for k, route in enumerate(ssm.routes):
        pixels = [(i, j) for i in range(H) for j in range(W)]
        if route in (Route.COLUMNS, Route.COLUMNS_REVERSED):
            pixels.sort(key=lambda pixel: (pixel[1], pixel[0]))
        if route in (Route.ROWS_REVERSED, Route.COLUMNS_REVERSED):
            pixels.reverse()
        state = 0.0
        y = torch.zeros_like(u)
        for i, j in pixels:
            token = u[:, i, j]  # (B, E)
            dt, B, C = (token @ ssm.x_proj_weight[k].T).split([ssm.dt_rank, ssm.d_state, ssm.d_state], -1)
            step = F.softplus(dt @ ssm.dt_proj_weight[k].T + ssm.dt_bias[k])[..., None]  # (B, E, 1)
            state = torch.exp(-step * ssm.A_log[k].exp()) * state + step * token[..., None] * B[:, None]
            y = y.index_put((torch.arange(len(x))[:, None], torch.tensor([[i]]), torch.tensor([[j]])),
                            ((state * C[:, None]).sum(-1) + ssm.D[k] * token)[:, None])  # fmt: skip
        total = total + y
    return mixer.finish(total)


def naive_ssd(mixer, x: torch.Tensor) -> torch.Tensor:
    """SSD as a recurrence of matrix states."""
    u = F.silu(F.conv2d(x.permute(0, 3, 1, 2), mixer.conv.weight, mixer.conv.bias, padding=3, groups=x.shape[-1]))
    u, ssm = u.flatten(2).transpose(1, 2), mixer.ssm  # (B, L, D)
    state, out = 0.0, []
    for token in u.unbind(1):
        B, C, dt = (token @ ssm.proj.weight.T).split([ssm.d_state, ssm.d_state, ssm.num_heads], -1)
        heads = token.unflatten(-1, (ssm.num_heads, -1))  # (B, H, P)
        step = F.softplus(dt + ssm.dt_bias)[..., None, None]  # (B, H, 1, 1)
        decay = torch.exp(-step * ssm.A_log.exp()[:, None, None])
        state = decay * state + step * heads[..., None] * B[:, None, None]
        out.append(((state * C[:, None, None]).sum(-1) + ssm.D[:, None] * heads).flatten(1))
    return torch.stack(out, 1).view_as(x)


def depthwise(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution of NHWC maps with zeros around them."""
    reach = weight.shape[-1] // 2
    return F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=reach, groups=len(weight)).permute(0, 2, 3, 1)


def turned(x: torch.Tensor, frequencies: list[float]) -> torch.Tensor:
    """Pairs of channels as complex numbers, the first half turned by the row, the second by the column."""
    _, H, W, _ = x.shape
    angles = torch.zeros(H, W, 2 * len(frequencies), dtype=x.dtype)
    for i, frequency in enumerate(frequencies):
        angles[..., i] = torch.arange(H, dtype=x.dtype)[:, None] * frequency
        angles[..., len(frequencies) + i] = torch.arange(W, dtype=x.dtype) * frequency
    turn = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * turn).flatten(-2)


def naive_linear_attention(q, k, v, turned_q, turned_k) -> torch.Tensor:
    """Every pair of tokens of one head, (B, H, W, ·) each."""
    q, k, turned_q, turned_k = (t.flatten(1, 2) for t in (q, k, turned_q, turned_k))
    mean = (q @ k.transpose(1, 2)).mean(2, keepdim=True) + 1e-6
    return ((turned_q @ turned_k.transpose(1, 2)) @ v.flatten(1, 2) / (mean * q.shape[1])).view(v.shape)


def naive_mila(mixer, x: torch.Tensor) -> torch.Tensor:
    D = x.shape[-1]
    v = F.silu(depthwise(mixer.conv.weight, mixer.conv.bias, x))
    q, k = (F.elu(t) + 1 for t in (v @ mixer.qk.weight.T + mixer.qk.bias).split(D, -1))
    frequencies = [10000 ** (-4 * i / D) for i in range(D // 4)]  # over all heads at once
    parts = (t.chunk(mixer.num_heads, -1) for t in (q, k, v, turned(q, frequencies), turned(k, frequencies)))
    y = torch.cat([naive_linear_attention(*head) for head in zip(*parts, strict=True)], -1)
    return y + depthwise(mixer.lepe.weight, mixer.lepe.bias, v)


def naive_ravlt(mixer, x: torch.Tensor) -> torch.Tensor:
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, -1)
    d = x.shape[-1] // mixer.num_heads
    frequencies = [10000 ** (-i / (d // 4 - 1)) for i in range(d // 4)]  # of every head
    out = []
    for q_h, k_h, v_h in zip(*(t.chunk(mixer.num_heads, -1) for t in (F.elu(q) + 1, F.elu(k) + 1, v)), strict=True):
        scores = (k_h * q_h.mean((1, 2), keepdim=True)).sum(-1) / d**0.5  # (B, H, W)
        weight = scores.flatten(1).softmax(1).view(scores.shape).unsqueeze(-1)
        k_h = k_h * weight * scores[0].numel()
        out.append(naive_linear_attention(q_h, k_h, v_h, turned(q_h, frequencies), turned(k_h, frequencies)))
    return torch.cat(out, -1) + depthwise(mixer.lepe.weight, mixer.lepe.bias, v)


def naive_spatial(mixer, x: torch.Tensor) -> torch.Tensor:
    """One recurrence over the tokens in rows, then 27 taps of its states, borders repeated."""
    u = F.silu(depthwise(mixer.conv.weight, mixer.conv.bias, x))
    _, H, W, _ = u.shape
    dt, B, C = (u @ mixer.x_proj_weight.T).split([mixer.dt_rank, 1, 1], -1)
    step = F.softplus(dt @ mixer.dt_proj_weight.T + mixer.dt_bias)
    state, states = 0.0, []
    for i in range(H):
        for j in range(W):
            state = torch.exp(-step[:, i, j] * mixer.A_log[:, 0].exp()) * state + (step * B * u)[:, i, j]
            states.append(state)
    states = torch.stack(states, 1).view_as(u)
    fused = 0.0
    for n, dilation in enumerate((1, 3, 5)):
        for a in range(3):
            for b in range(3):
                rows = (torch.arange(H) + (a - 1) * dilation).clamp(0, H - 1)
                columns = (torch.arange(W) + (b - 1) * dilation).clamp(0, W - 1)
                tap = mixer.fusion_scale[n] * mixer.fusion_weight[n, :, a, b]
                fused = fused + tap * states[:, rows][:, :, columns]
    return mixer.norm(C * fused + mixer.D * u)


NAIVE = {
    "mila": naive_mila,
    "ravlt": naive_ravlt,
    "spatial": naive_spatial,
    "s6": naive_scan,
    "bis6": naive_scan,
    "ss2d": naive_scan,
    "ssd": naive_ssd,
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
    # The state matrix is kept in float32: exact to that in the scans, exact to float64 elsewhere.
    rtol, atol = (1e-5, 1e-6) if mixer.kind == "scan" else (1e-9, 1e-11)
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    naive = torch.autograd.grad((expected * weight).sum(), leaves)
    for grad, wanted in zip(grads, naive, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=rtol, atol=atol * max(1.0, wanted.abs().max().item()))


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


def test_every_mixer_has_a_naive_formula():
    assert set(NAIVE) == set(list_mixers())


def test_registry():
    with pytest.raises(ValueError, match="unknown token mixer 'atn', did you mean 'attn'"):
        mixer_class("atn")
    with pytest.raises(ValueError, match="already registered by GatedCNN"):
        register_mixer("gatedcnn")(Pool)
