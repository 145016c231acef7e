"""TransNeXt: attention to the 3×3 neighbours and to a pooled map in one softmax, and convolutional gated MLPs.

Paper: "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", arXiv 2311.17132. Official code:
DaiShiResearch/TransNeXt (Apache-2.0).

Positions are a function of the offset between query and key in units of the grid trained at (``pretrain_size``), so any
image size works. The official classifier is built for one size, the official dense models compute the function at the
actual offsets (``position="extrapolated"``, what the published results use unless they say otherwise) or resize the
trained grid's bias (``"interpolated"``). At the training size both are the same, and the released weights take either.
Where a side is no multiple of the pooling, which the original refuses, the last cells pool what there is.

Multiply-adds at 224 are 2.66, 5.73, 10.33 and 18.35 G (paper: 2.7, 5.7, 10.3, 18.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, DropPath, LayerNorm, calculate_drop_path_rates, get_device_dtype, trunc_normal_
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from torch import nn

from ._checkpoint import load_official, read_files_safely
from ._hierarchical import HierarchicalBackbone, Stage
from ._rename import rename
from .mixers.s6 import ignored_by_torchscript

__all__ = ["TransNeXt"]

POSITIONS = ("extrapolated", "interpolated")


class PatchEmbed(nn.Module):
    """Overlapping convolution and LayerNorm, ``(B, C, H, W) -> (B, ceil(H/s), ceil(W/s), D)``."""

    def __init__(self, in_chans: int, dim: int, kernel: int, stride: int, **dd: Any) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, dim, kernel, stride=stride, padding=kernel // 2, **dd)
        self.norm = LayerNorm(dim, eps=1e-5, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1))


class Downsample(PatchEmbed):
    """`PatchEmbed` of stride 2 between stages, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, **dd: Any) -> None:
        super().__init__(dim_in, dim_out, 3, 2, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class PositionBias(nn.Module):
    """What both attentions share: cosine scores with a learned query embedding and temperature, and a bias that a small
    network computes from the offset between query and key (paper sections 3.2 and 3.3).

    Args:
        dim: channels D.
        head_dim: channels of a head.
        sr_ratio: side of a pooled cell in tokens.
        grid: side in tokens of the map trained at.
        position: ``extrapolated`` or ``interpolated`` (see the module).
    """

    no_weight_decay = ("temperature", "query_embedding", "relative_pos_bias_local", "cpb_fc1.weight", "cpb_fc2.weight")

    def __init__(self, dim: int, head_dim: int, sr_ratio: int, grid: int, position: str, **dd: Any) -> None:
        super().__init__()
        self.num_heads, self.sr_ratio, self.grid = dim // head_dim, sr_ratio, grid
        self.is_interpolated = position == "interpolated"
        self.temperature = nn.Parameter(torch.empty(self.num_heads, 1, 1, **dd))
        self.query_embedding = nn.Parameter(torch.empty(self.num_heads, 1, head_dim, **dd))
        self.cpb_fc1 = nn.Linear(2, 512, **dd)
        self.cpb_fc2 = nn.Linear(512, self.num_heads, **dd)
        self.proj = nn.Linear(dim, dim, **dd)
        nn.init.constant_(self.temperature, math.log(math.expm1(1 / 0.24)))  # softplus⁻¹
        trunc_normal_(self.query_embedding, std=0.02)

    def heads(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L, D) -> (B, heads, L, head_dim)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def sharpened(self, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Queries (B, heads, L, head_dim) scaled by the temperature and the logarithm of the keys' number."""
        return (q + self.query_embedding) * (F.softplus(self.temperature) * keys.log())

    def bias(self, x: torch.Tensor) -> torch.Tensor:
        """(heads, L, P) for the L tokens and P cells of a map (B, H, W, D)."""
        offsets, rows, columns = self.offsets(x)
        table = self.cpb_fc2(F.relu(self.cpb_fc1(offsets))).permute(2, 0, 1)  # (heads, H', W'): per offset, not pair
        pairs = table[:, rows][..., columns].transpose(2, 3)  # (heads, H, W, P_h, P_w)
        return self.resized(pairs, x).flatten(3).flatten(1, 2)

    @ignored_by_torchscript
    def offsets(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Every offset (H', W', 2) between a token and a cell's centre, on a logarithmic scale, and where those of a
        token's and a cell's row (H, P_h) and column (W, P_w) stand in it."""
        size = self.sr_ratio
        sides = (self.grid, self.grid) if self.is_interpolated else x.shape[1:3]
        axes, places = [], []
        for side in sides:
            reach = (-(-side // size) - 1) * size  # from the first cell to the last
            offset = torch.arange(side + reach, device=x.device) - (reach + (size - 1) / 2)
            offset = offset.float() * (8 / max(self.grid - 1, 1))
            axes.append(offset.sign() * (offset.abs() + 1).log2() / 3)
            cells = torch.arange(reach, -1, -size, device=x.device)
            places.append(torch.arange(side, device=x.device)[:, None] + cells)
        table = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).to(self.cpb_fc1.weight.dtype)
        return table, places[0], places[1]

    @ignored_by_torchscript
    def resized(self, pairs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The trained grid's bias at the size of ``x``, if interpolated: cells first, then tokens."""
        if not self.is_interpolated:
            return pairs
        height, width = x.shape[1:3]
        cells = [-(-side // self.sr_ratio) for side in (height, width)]
        heads, rows, columns = pairs.shape[:3]
        keys = F.interpolate(pairs.flatten(1, 2), size=cells, mode="bilinear")  # (heads, G·G, P_h, P_w)
        queries = keys.flatten(2).transpose(1, 2).reshape(heads, -1, rows, columns)
        queries = F.interpolate(queries, size=(height, width), mode="bilinear")  # (heads, P, H, W)
        return queries.unflatten(1, cells).permute(0, 3, 4, 1, 2)


@register_notrace_module
class Attention(PositionBias):
    """Cosine attention over all tokens, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, *args: Any, **dd: Any) -> None:
        super().__init__(dim, *args, **dd)
        self.qkv = nn.Linear(dim, 3 * dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        q, k, v = F.normalize(self.heads(q), dim=-1), F.normalize(self.heads(k), dim=-1), self.heads(v)
        keys = torch.ones_like(q[:1, :1, :, :1]) * q.shape[2]
        q = self.sharpened(q, keys)
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), self.bias(x).to(q.dtype)[None], scale=1.0)
        return self.proj(y.transpose(1, 2).flatten(2)).view(x.shape)


@register_notrace_module
class AggregatedAttention(PositionBias):
    """Attention to the 3×3 neighbours and to the cells of a pooled map at once, ``(B, H, W, D) -> (B, H, W, D)``
    (paper section 3.3). To the neighbours' weights a linear function of the query is added behind the softmax.

    P = HW/sr² cells cost 2·P·D multiply-adds per token: quadratic with a small factor. Not causal.
    """

    def __init__(self, dim: int, *args: Any, **dd: Any) -> None:
        super().__init__(dim, *args, **dd)
        head_dim = dim // self.num_heads
        self.relative_pos_bias_local = nn.Parameter(torch.empty(self.num_heads, 9, **dd))
        self.learnable_tokens = nn.Parameter(torch.empty(self.num_heads, head_dim, 9, **dd))
        self.learnable_bias = nn.Parameter(torch.zeros(self.num_heads, 1, 9, **dd))
        self.q = nn.Linear(dim, dim, **dd)
        self.kv = nn.Linear(dim, 2 * dim, **dd)
        self.sr = nn.Linear(dim, dim, **dd)
        self.norm = LayerNorm(dim, eps=1e-5, **dd)
        trunc_normal_(self.relative_pos_bias_local, std=0.0004)
        trunc_normal_(self.learnable_tokens, std=0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = F.normalize(self.heads(self.q(x.flatten(1, 2))), dim=-1)  # (B, heads, L, d)
        near_k, near_v = self.kv(x).chunk(2, dim=-1)
        near_k = F.normalize(near_k.unflatten(-1, (self.num_heads, -1)), dim=-1).flatten(-2)
        near_k, near_v = self.neighbours(near_k), self.neighbours(near_v)  # (B, heads, L, 9, d)
        far_k, far_v = self.kv(self.pooled(x)).chunk(2, dim=-1)
        far_k, far_v = F.normalize(self.heads(far_k), dim=-1), self.heads(far_v)  # (B, heads, P, d)

        inside = self.neighbours(torch.ones_like(x[:1, :, :, : self.num_heads]))[0, ..., 0]  # (heads, L, 9)
        sharp = self.sharpened(q, inside.sum(-1, keepdim=True) + far_k.shape[2])
        near = (near_k.to(sharp.dtype) @ sharp.unsqueeze(-1)).squeeze(-1) + self.relative_pos_bias_local.unsqueeze(1)
        near = near.masked_fill(inside == 0, float("-inf"))
        far = sharp @ far_k.transpose(2, 3).to(sharp.dtype) + self.bias(x)
        weights = torch.cat((near, far), dim=-1).softmax(-1)
        near, far = weights[..., :9], weights[..., 9:]
        near = near + (q @ self.learnable_tokens.to(q.dtype) + self.learnable_bias)
        y = (near.unsqueeze(-2).to(near_v.dtype) @ near_v).squeeze(-2) + far.to(far_v.dtype) @ far_v
        return self.proj(y.transpose(1, 2).flatten(2)).view(x.shape)

    def neighbours(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, heads·d) -> (B, heads, L, 9, d): the 3×3 tokens around each, row by row, zeros outside."""
        windows = F.pad(x, (0, 0, 1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)  # (B, H, W, heads·d, 3, 3), a view
        windows = windows.unflatten(3, (self.num_heads, -1)).permute(0, 3, 1, 2, 5, 6, 4)
        return windows.flatten(4, 5).flatten(2, 3)

    def pooled(self, x: torch.Tensor) -> torch.Tensor:
        """(B, H, W, D) -> (B, P, D)."""
        cells = F.gelu(self.sr(x)).permute(0, 3, 1, 2)
        cells = F.avg_pool2d(cells, self.sr_ratio, self.sr_ratio, ceil_mode=True)
        return self.norm(cells.flatten(2).transpose(1, 2))


class ConvGLU(nn.Module):
    """MLP gated by a 3×3 depthwise convolution of its own input, ``(B, H, W, D) -> (B, H, W, D)`` (section 3.5)."""

    def __init__(self, dim: int, hidden: int, **dd: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, value = self.fc1(x).chunk(2, dim=-1)
        gate = F.gelu(self.dwconv(gate.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.fc2(gate * value)


class Block(nn.Module):
    """Two pre-norm residual branches, attention and ConvGLU, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, attn: nn.Module, mlp_ratio: float, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=1e-6, **dd)
        self.attn = attn
        self.norm2 = LayerNorm(dim, eps=1e-6, **dd)
        self.mlp = ConvGLU(dim, int(2 * int(mlp_ratio * dim) / 3), **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class NormedStage(Stage):
    """A stage that ends in a LayerNorm: what it puts out is normalised, for the next stage as for dense heads."""

    def __init__(self, downsample: nn.Module | None, blocks: Sequence[nn.Module], norm: nn.Module) -> None:
        super().__init__(downsample, blocks)
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self.norm(checkpoint_seq(self.blocks, x))
        return self.norm(self.blocks(x))


class TransNeXt(HierarchicalBackbone):
    """TransNeXt on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        depths: blocks per stage.
        dims: channels per stage, multiples of ``head_dim``.
        head_dim: channels of an attention head.
        mlp_ratios: hidden width of the gated MLPs over 2/3 of the channels, per stage.
        sr_ratios: side in tokens of a pooled cell, per stage; 1 is attention over all tokens.
        pretrain_size: side in pixels of the images that the positions were trained at.
        position: at other sizes, ``extrapolated`` or ``interpolated`` (see the module).
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.

    Raises:
        ValueError: depths, dims and ratios of different lengths, a width that no head fits, or unknown ``position``.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 15, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        head_dim: int = 24,
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        pretrain_size: int = 224,
        position: str = "extrapolated",
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not len(depths) == len(dims) == len(mlp_ratios) == len(sr_ratios):
            raise ValueError(
                "depths, dims, mlp_ratios and sr_ratios must be equally many, "
                f"got {depths}, {dims}, {mlp_ratios} and {sr_ratios}"
            )
        if any(dim % head_dim for dim in dims):
            raise ValueError(f"dims must be multiples of head_dim, got {dims} and {head_dim}")
        if position not in POSITIONS:
            raise ValueError(f"position must be one of {', '.join(map(repr, POSITIONS))}, got {position!r}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.set_dims(dims, in_chans, num_classes)
        self.stem = PatchEmbed(in_chans, dims[0], 7, 4, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            attention = Attention if sr_ratios[i] == 1 else AggregatedAttention
            where = (head_dim, sr_ratios[i], pretrain_size // 2 ** (i + 2), position)
            stages.append(
                NormedStage(
                    Downsample(dims[i - 1], dim, **dd) if i else None,
                    [Block(dim, attention(dim, *where, **dd), mlp_ratios[i], rate, **dd) for rate in rates[i]],
                    LayerNorm(dim, eps=1e-6, **dd),
                )
            )
        self.stages = nn.Sequential(*stages)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the attentions' own parameters that must not decay."""
        return {f"*.attn.{name}" for name in PositionBias.no_weight_decay}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[0, 0].numel() * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        nn.init.zeros_(module.bias)


_RULES = (
    (r"patch_embed1\.", "stem."),
    *((rf"patch_embed{i + 1}\.", f"stages.{i}.downsample.") for i in (1, 2, 3)),
    *((rf"block{i + 1}\.(\d+)\.mlp\.dwconv\.dwconv\.", rf"stages.{i}.blocks.\1.mlp.dwconv.") for i in range(4)),
    *((rf"block{i + 1}\.", f"stages.{i}.blocks.") for i in range(4)),
    *((rf"norm{i + 1}\.", f"stages.{i}.norm.") for i in range(4)),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (`_rename.rename`); ours passes unchanged.

    Raises:
        ValueError: the keys are not those of a TransNeXt checkpoint.
    """
    return rename(state_dict, model, "TransNeXt", "stem.proj.weight", "patch_embed1.proj.weight", _RULES)


def _cfg(size: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "hf_hub_id": f"DaiShiResearch/transnext-{size}-224-1k",
        "hf_hub_filename": f"transnext_{size}_224_1k.pth",
        "custom_load": "hf",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2311.17132",
        "paper_name": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        "origin_url": "https://github.com/DaiShiResearch/TransNeXt",
        "license": "apache-2.0",
        **kwargs,
    }


SIZES = ("micro", "tiny", "small", "base")
default_cfgs = generate_default_cfgs({f"transnext_{size}.in1k": _cfg(size) for size in SIZES})


def _create_transnext(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        TransNeXt,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def transnext_micro(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Micro, 12.8 M parameters."""
    return _create_transnext("transnext_micro", pretrained, **kwargs)


@register_model
def transnext_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Tiny, 28.3 M parameters."""
    return _create_transnext("transnext_tiny", pretrained, **{"dims": (72, 144, 288, 576), **kwargs})


@register_model
def transnext_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Small, 49.7 M parameters."""
    args = {"depths": (5, 5, 22, 5), "dims": (72, 144, 288, 576)}
    return _create_transnext("transnext_small", pretrained, **{**args, **kwargs})


@register_model
def transnext_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """TransNeXt-Base, 89.7 M parameters."""
    args = {"depths": (5, 5, 23, 5), "dims": (96, 192, 384, 768)}
    return _create_transnext("transnext_base", pretrained, **{**args, **kwargs})
