"""RAVLT: linear attention of higher rank in the first two stages, softmax attention in the last two.

Paper: "Breaking the Low-Rank Dilemma of Linear Attention" (RALA), arXiv 2411.07635. Official code: qhfan/RALA (no
licence file; the weights' card says MIT). Published accuracies are without distillation.

Both attentions have the same parameters under the same keys: a network built with other ``attentions`` than the
checkpoint's loads without a word and computes something else. All released weights want the default.

Multiply-adds at 224 are 2.63, 4.90, 10.61 and 17.25 G. The published 2.4, 4.6, 9.9 and 16.0 leave out the products
inside attention, without which they are 2.43, 4.53, 9.84 and 16.14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import (
    ClassifierHead,
    DropPath,
    LayerNorm,
    LayerScale,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from torch import nn

from ._checkpoint import load_official, read_files_safely
from ._hierarchical import HierarchicalBackbone, Stage
from ._rename import rename
from .mixers.ravlt import rank_augmented_attention, rotary_attention

__all__ = ["RAVLT"]

EPS = 1e-6  # of the layer norms
ATTENTIONS = ("linear", "softmax")


class Stem(nn.Module):
    """Four convolutions, two of them of stride 2, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for chans, width, stride in ((in_chans, dim // 2, 2), (dim // 2, dim // 2, 1), (dim // 2, dim // 2, 1)):
            layers += [
                nn.Conv2d(chans, width, 3, stride=stride, padding=1, **dd),
                nn.BatchNorm2d(width, **dd),
                nn.GELU(),
            ]
        layers += [nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1, **dd), nn.BatchNorm2d(dim, **dd)]
        self.proj = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)


class Downsample(nn.Module):
    """3×3 convolution of stride 2 and batch norm, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1, **dd)
        self.norm = nn.BatchNorm2d(dim_out, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.reduction(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


@register_notrace_module
class GatedAttention(nn.Module):
    """Linear or softmax attention, a 5×5 depthwise convolution of the values and a gate without activation,
    ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        num_heads: heads, of a multiple of 4 channels.
        attention: ``linear`` (`mixers.ravlt.rank_augmented_attention`) or ``softmax`` (`rotary_attention` there).
    """

    def __init__(self, dim: int, num_heads: int, attention: str, **dd: Any) -> None:
        super().__init__()
        self.num_heads, self.is_linear = num_heads, attention == "linear"
        self.qkvo = nn.Linear(dim, 4 * dim, **dd)
        self.lepe = nn.Conv2d(dim, dim, 5, padding=2, groups=dim, **dd)
        self.proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v, gate = self.qkvo(x).chunk(4, dim=-1)
        if self.is_linear:
            y = rank_augmented_attention(q, k, v, self.num_heads)
        else:
            y = rotary_attention(q, k, v, self.num_heads)
        return self.proj((y + self.lepe(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)) * gate)


class ConvMlp(nn.Module):
    """MLP with a depthwise convolution added to its hidden map, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, hidden: int, **dd: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, **dd)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, **dd)
        self.fc2 = nn.Linear(hidden, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.fc1(x))
        return self.fc2(x + self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class Block(nn.Module):
    """A depthwise convolution added to the input, then two pre-norm residual branches with layer scale, attention and
    MLP, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, attn: nn.Module, init_values: float, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.pos = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd)
        self.norm1 = LayerNorm(dim, eps=EPS, **dd)
        self.attn = attn
        self.ls1 = LayerScale(dim, init_values, **dd)
        self.norm2 = LayerNorm(dim, eps=EPS, **dd)
        self.ffn = ConvMlp(dim, int(3.5 * dim), **dd)
        self.ls2 = LayerScale(dim, init_values, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.pos(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.ffn(self.norm2(x))))


class Head(ClassifierHead):
    """A hidden layer with batch norm and SiLU at every position, then pooling and the classifier."""

    def __init__(self, dim: int, hidden: int, num_classes: int, global_pool: str, drop_rate: float, **dd: Any) -> None:
        super().__init__(hidden, num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.proj = nn.Linear(dim, hidden, **dd)
        self.norm = nn.BatchNorm2d(hidden, **dd)
        self.act = nn.SiLU()

    def reset(self, num_classes: int, pool_type: str | None = None, in_features: int | None = None, **dd: Any) -> None:
        """As timm's; ``in_features`` takes the hidden layer off, which is made for the whole network."""
        if in_features is not None:
            self.proj = self.norm = self.act = nn.Identity()
        super().reset(num_classes, pool_type, in_features=in_features, **dd)

    def forward(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.act(self.norm(self.proj(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        x = self.drop(self.global_pool(x))
        return x if pre_logits else self.fc(x)


class RAVLT(HierarchicalBackbone):
    """RAVLT on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        depths: blocks per stage.
        dims: channels per stage.
        num_heads: heads per stage, of a multiple of 4 channels.
        attentions: ``linear`` or ``softmax`` per stage (see the module).
        init_values: initial layer scale per stage.
        head_width: channels of the hidden layer before the classifier.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.

    Raises:
        ValueError: settings per stage of different lengths, or an unknown attention.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 6, 2),
        dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (1, 2, 4, 8),
        attentions: Sequence[str] = ("linear", "linear", "softmax", "softmax"),
        init_values: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
        head_width: int = 1024,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not len(depths) == len(dims) == len(num_heads) == len(attentions) == len(init_values):
            raise ValueError(
                "depths, dims, num_heads, attentions and init_values must be equally many, "
                f"got {depths}, {dims}, {num_heads}, {attentions} and {init_values}"
            )
        if not set(attentions) <= set(ATTENTIONS):
            raise ValueError(f"attentions must be of {', '.join(map(repr, ATTENTIONS))}, got {attentions}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.set_dims(dims, in_chans, num_classes)
        self.stem = Stem(in_chans, dims[0], **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *[
                Stage(
                    Downsample(dims[i - 1], dim, **dd) if i else None,
                    [
                        Block(dim, GatedAttention(dim, num_heads[i], attentions[i], **dd), init_values[i], rate, **dd)
                        for rate in rates[i]
                    ],
                )
                for i, dim in enumerate(dims)
            ]
        )
        self.head = Head(dims[-1], head_width, num_classes, global_pool, drop_rate, **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Nothing but what timm exempts by itself: biases, norms and layer scales are one-dimensional."""
        return set()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_RULES = (
    (r"layers\.\d+\.RoPE\.", None),  # computed
    (r"patch_embed\.", "stem."),
    *((rf"layers\.{i}\.downsample\.", f"stages.{i + 1}.downsample.") for i in range(3)),
    (r"layers\.(\d+)\.blocks\.(\d+)\.gamma_([12])$", r"stages.\1.blocks.\2.ls\3.gamma"),
    (r"layers\.(\d+)\.blocks\.(\d+)\.norm([12])\.norm\.", r"stages.\1.blocks.\2.norm\3."),
    (r"layers\.", "stages."),
    (r"(proj|norm)\.", r"head.\1."),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (`_rename.rename`); ours passes unchanged.

    Raises:
        ValueError: the keys are not those of a RAVLT checkpoint.
    """
    return rename(state_dict, model, "RAVLT", "stem.proj.0.weight", "layers.0.blocks.0.attn.qkvo.weight", _RULES)


def _cfg(size: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "hf_hub_id": "aldjalkdf/RAVLT",
        "hf_hub_filename": f"RAVLT_{size}.pth",
        "custom_load": "hf",  # the files pickle an argparse.Namespace: `RAVLT.load_pretrained` reads them safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.proj.0",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2411.07635",
        "paper_name": "Breaking the Low-Rank Dilemma of Linear Attention",
        "origin_url": "https://github.com/qhfan/RALA",
        "license": "mit",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "ravlt_tiny.in1k": _cfg("T"),
        "ravlt_small.in1k": _cfg("S"),
        "ravlt_base.in1k": _cfg("B"),
        "ravlt_large.in1k": _cfg("L"),
    }
)


def _create_ravlt(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        RAVLT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def ravlt_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RAVLT-T, 14.9 M parameters."""
    return _create_ravlt("ravlt_tiny", pretrained, **kwargs)


@register_model
def ravlt_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RAVLT-S, 25.6 M parameters."""
    args = {"depths": (3, 5, 9, 3), "dims": (64, 128, 320, 512), "num_heads": (1, 2, 5, 8)}
    return _create_ravlt("ravlt_small", pretrained, **{**args, **kwargs})


@register_model
def ravlt_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RAVLT-B, 48.2 M parameters."""
    args = {"depths": (4, 6, 12, 6), "dims": (96, 192, 384, 512), "num_heads": (1, 2, 6, 8)}
    return _create_ravlt("ravlt_base", pretrained, **{**args, "init_values": (1.0, 1.0, 1e-6, 1e-6), **kwargs})


@register_model
def ravlt_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RAVLT-L, 95.2 M parameters."""
    args = {"depths": (4, 7, 19, 8), "dims": (96, 192, 448, 640), "num_heads": (1, 2, 7, 10)}
    return _create_ravlt("ravlt_large", pretrained, **{**args, "init_values": (1e-6,) * 4, **kwargs})
