"""Token mixers against naive formulas, at odd sizes, outputs and gradients."""

from __future__ import annotations

import importlib

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


def naive_masked(mixer, x: torch.Tensor) -> torch.Tensor:
    """`CausalConv2d`: the three rows above and the row so far, tap by tap."""
    padded = F.pad(x, (0, 0, 3, 3, 3, 0))
    _, H, W, _ = x.shape
    out = mixer.conv.bias.expand_as(x)
    for i in range(4):
        for j in range(7 if i < 3 else 4):
            out = out + padded[:, i : i + H, j : j + W] * mixer.conv.weight[:, 0, i, j]
    return out


def naive_sequence(mixer, x: torch.Tensor) -> torch.Tensor:
    """`CausalConv1d`: the last k tokens of the row-major sequence."""
    k = mixer.conv.weight.shape[-1]
    padded = F.pad(x.flatten(1, 2), (0, 0, k - 1, 0))
    L = x.shape[1] * x.shape[2]
    return (mixer.conv.bias + sum(padded[:, j : j + L] * mixer.conv.weight[:, 0, 0, j] for j in range(k))).view_as(x)


def naive_global(mixer, x: torch.Tensor) -> torch.Tensor:
    """`GlobalConv`: a weight per offset, zero for those beyond the kernel."""
    _, H, W, _ = x.shape
    rows, columns = (side // 2 for side in mixer.weight.shape[2:])
    out = []
    for i in range(H):
        for j in range(W):
            y = mixer.bias.expand(len(x), -1)
            for a in range(max(0, i - rows), min(H, i + rows + 1)):
                for b in range(max(0, j - columns), min(W, j + columns + 1)):
                    y = y + x[:, a, b] * mixer.weight[:, 0, rows + a - i, columns + b - j]
            out.append(y)
    return torch.stack(out, 1).view_as(x)


def naive_linear(mixer, x: torch.Tensor) -> torch.Tensor:
    """Linear attention, token by token and head by head."""
    B, H, W, D = x.shape
    q, k, v = (x.reshape(B, H * W, D) @ mixer.qkv.weight.T).split(D, dim=-1)
    heads, out = x.shape[-1] // mixer.head_dim, []
    for t in range(H * W):
        seen = slice(0, t + 1 if mixer.causal else H * W)
        parts = []
        for h in range(heads):
            part = slice(h * mixer.head_dim, (h + 1) * mixer.head_dim)
            scores = ((F.elu(k[:, seen, part]) + 1) * (F.elu(q[:, t : t + 1, part]) + 1)).sum(-1, keepdim=True)
            parts.append((scores * v[:, seen, part]).sum(1) / scores.sum(1))
        out.append(torch.cat(parts, -1))
    return torch.stack(out, 1).view_as(x)


def naive_ncssd(mixer, x: torch.Tensor) -> torch.Tensor:
    """One state per head, written by every token, then read by every token."""
    tokens, out = x.flatten(1, 2), []
    P = x.shape[-1] // mixer.num_heads
    B, C, dt = (tokens @ mixer.proj.weight.T).split([mixer.d_state, mixer.d_state, mixer.num_heads], -1)
    for h in range(mixer.num_heads):
        u = tokens[..., h * P : (h + 1) * P]
        weight = F.softplus(dt[..., h] + mixer.dt_bias[h]) * mixer.A_log[h].exp()
        state = sum(
            weight[:, s, None, None] * F.silu(B[:, s, :, None]) * u[:, s, None] for s in range(tokens.shape[1])
        )  # (B, N, P)
        out.append(torch.einsum("bln,bnp->blp", F.silu(C), state) + mixer.D[h] * u)
    return F.layer_norm(torch.cat(out, -1), x.shape[-1:], mixer.norm.weight, mixer.norm.bias).view_as(x)


def naive_route(mixer, x: torch.Tensor) -> torch.Tensor:
    """`Scan`: as `naive_scan`, of the input itself."""
    ssm, state, out = mixer.ssm, 0.0, []
    for token in x.flatten(1, 2).unbind(1):
        dt, B, C = (token @ ssm.x_proj_weight[0].T).split([ssm.dt_rank, ssm.d_state, ssm.d_state], -1)
        step = F.softplus(dt @ ssm.dt_proj_weight[0].T + ssm.dt_bias[0])[..., None]  # (B, E, 1)
        state = torch.exp(-step * ssm.A_log[0].exp()) * state + step * token[..., None] * B[:, None]
        out.append((state * C[:, None]).sum(-1) + ssm.D[0] * token)
    return torch.stack(out, 1).view_as(x)


def naive_then(first):
    """``first``, SiLU, then the naive formula of what is behind it."""
    formulas = {mixer_class(name): NAIVE[name] for name in BARE}
    return lambda mixer, x: formulas[type(mixer.inner)](mixer.inner, F.silu(first(mixer, x)))


NAIVE = {
    "s6": naive_scan,
    "bis6": naive_scan,
    "ss2d": naive_scan,
    "ssd": naive_ssd,
    "gatedcnn": naive_depthwise,
    "attn": naive_attention,
    "attn_causal": naive_attention,
    "pool": naive_pool,
    "identity": lambda mixer, x: x,
    "conv_causal2d": naive_masked,
    "conv_causal1d": naive_sequence,
    "conv31_causal1d": naive_sequence,
    "globalconv": naive_global,
    "linear": naive_linear,
    "linear_causal": naive_linear,
    "ncssd": naive_ncssd,
    "s6_alone": naive_route,
}
BARE = list(NAIVE)
NAIVE |= {
    name: naive_then(first)
    for first, names in {
        naive_depthwise: ("placebo", "conv_attn", "conv_linear", "conv_ncssd", "conv_globalconv"),
        naive_masked: ("placebo_causal2d", "s6_causal2d", "attn_causal2d", "linear_causal2d"),
        naive_sequence: ("placebo_causal1d", "s6_causal1d"),
    }.items()
    for name in names
}
EVERY = list_mixers(controls=True)


def build(name: str, dim: int, **kwargs):
    """The mixer; those with a grid for maps of 5×5, which other maps crop or pad."""
    cls = mixer_class(name)
    return cls(dim, **({"grid": (5, 5)} if getattr(cls, "needs_grid", False) else {}), **kwargs)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", NAIVE)
def test_output_and_gradients(name, size):
    mixer = build(name, 64).double()
    x = torch.randn(2, *size, 64, dtype=torch.double, requires_grad=True)
    leaves = (x, *mixer.parameters())
    weight = torch.randn_like(x)
    out, expected = mixer(x), NAIVE[name](mixer, x)
    rtol, atol = 1e-9, 1e-11  # float64 throughout, the parameters of the scans included
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
    grads = torch.autograd.grad((out * weight).sum(), leaves)
    naive = torch.autograd.grad((expected * weight).sum(), leaves)
    for grad, wanted in zip(grads, naive, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=rtol, atol=atol * max(1.0, wanted.abs().max().item()))


@pytest.mark.parametrize("name", EVERY)
def test_causality_is_as_declared(name):
    mixer = build(name, 32)
    mixer.exact = True  # an FFT leaves rounding where there is nothing
    x = torch.randn(1, 4, 5, 32, requires_grad=True)
    early = mixer(x).flatten(1, 2)[:, :9].sum()  # the first nine tokens in row-major order
    (grad,) = torch.autograd.grad(early, x)
    later = grad.flatten(1, 2)[:, 9:].abs().sum()
    sees_nothing_later = mixer.causal or mixer.kind == "identity"
    assert (later == 0) == sees_nothing_later


@pytest.mark.parametrize("name", EVERY)
def test_every_mixer_says_what_it_is(name):
    mixer = build(name, 48, device="meta", dtype=torch.bfloat16)
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
    assert set(NAIVE) == set(EVERY)


def test_controls_are_none_of_mambaout():
    assert "placebo" not in list_mixers()
    assert set(list_mixers()) < set(EVERY)


@pytest.mark.parametrize("size", [(5, 5), (7, 4), (2, 3)], ids=str)
def test_global_convolution_is_its_exact_form(size):
    mixer = build("globalconv", 8).double()
    x = torch.randn(2, *size, 8, dtype=torch.double)
    fast = mixer(x)
    mixer.exact = True
    torch.testing.assert_close(fast, mixer(x), rtol=1e-10, atol=1e-12)
    mixer.exact = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(mixer.float()(x.float()).double(), fast, rtol=1e-4, atol=1e-5)


def test_registry():
    with pytest.raises(ValueError, match="unknown token mixer 'atn', did you mean 'attn'"):
        mixer_class("atn")
    with pytest.raises(ValueError, match="already registered by GatedCNN"):
        register_mixer("gatedcnn")(Pool)


def test_a_mixer_module_may_be_reloaded():
    module = importlib.import_module("mixerzoo.backbones.mixers.pool")
    before = mixer_class("pool")
    assert importlib.reload(module).Pool is mixer_class("pool") is not before
    register_mixer("pool")(before)
