"""MILA (Mamba-Inspired Linear Attention, at first MLLA): linear attention in the design of a Mamba block.

Paper: "Demystify Mamba in Vision: A Linear Attention Perspective", arXiv 2405.16605. Official code: LeapLabTHU/MLLA
(MIT). Published accuracies are with MESA (self-distillation from the moving average): not comparable with those of
plain recipes.

The official classifier is square and made for one size, as it stores rotation tables; those keys are dropped and the
tables made for the map at hand, which are the same numbers.

Multiply-adds at 224 are 4.15, 7.28 and 16.16 G (paper: 4.2, 7.3, 16.2).
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
    Mlp,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from . import mixers
from ._checkpoint import load_official, read_files_safely
from ._hierarchical import HierarchicalBackbone, Stage
from ._rename import rename

__all__ = ["MILA"]


class DepthwiseConv(nn.Conv2d):
    """3×3 depthwise convolution of NHWC maps, ``(B, H, W, D) -> (B, ceil(H/stride), ceil(W/stride), D)``."""

    def __init__(self, dim: int, stride: int = 1, **dd: Any) -> None:
        super().__init__(dim, dim, 3, stride=stride, padding=1, groups=dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x.permute(0, 3, 1, 2), self.weight, self.bias).permute(0, 2, 3, 1)


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU if ``act``, on NCHW maps."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int, stride: int = 1, act: bool = True, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, kernel, stride=stride, padding=kernel // 2, bias=False, **dd)
        self.norm = nn.BatchNorm2d(dim_out, **dd)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.norm(self.conv(x)))


class Stem(nn.Module):
    """Five convolutions, two of them of stride 2, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        half = dim // 2
        self.conv1 = ConvNorm(in_chans, half, 3, stride=2, **dd)
        self.conv2 = nn.Sequential(ConvNorm(half, half, 3, **dd), ConvNorm(half, half, 3, act=False, **dd))
        self.conv3 = nn.Sequential(
            ConvNorm(half, 4 * dim, 3, stride=2, **dd), ConvNorm(4 * dim, dim, 1, act=False, **dd)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x.contiguous(memory_format=torch.channels_last))  # (B, D/2, H/2, W/2)
        x = x + self.conv2(x)
        return self.conv3(x).permute(0, 2, 3, 1)


class Downsample(nn.Module):
    """Inverted bottleneck of stride 2, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.expand = nn.Linear(dim_in, 4 * dim_out, **dd)
        self.conv = DepthwiseConv(4 * dim_out, stride=2, **dd)
        self.reduce = nn.Linear(4 * dim_out, dim_out, **dd)
        self.norm = nn.BatchNorm2d(dim_out, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.reduce(F.relu(self.conv(F.relu(self.expand(x)))))
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MambaLikeMixer(nn.Module):
    """The mixer `mixers.MILA` between the projections and the gate of a Mamba block, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        num_heads: heads.
    """

    def __init__(self, dim: int, num_heads: int, **dd: Any) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, dim, **dd)
        self.act_proj = nn.Linear(dim, dim, **dd)
        self.core = mixers.MILA(dim, num_heads, **dd)
        self.out_proj = nn.Linear(dim, dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out_proj(self.core(self.in_proj(x)) * F.silu(self.act_proj(x)))


class Block(nn.Module):
    """The frame, which Spatial-Mamba shares: two pre-norm residual branches, a token mixer and an MLP, each behind a
    depthwise convolution added to its input (conditional position encoding), ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.cpe1 = DepthwiseConv(dim, **dd)
        self.norm1 = LayerNorm(dim, eps=1e-5, **dd)
        self.mixer = mixer
        self.cpe2 = DepthwiseConv(dim, **dd)
        self.norm2 = LayerNorm(dim, eps=1e-5, **dd)
        self.mlp = Mlp(dim, 4 * dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.cpe1(x)
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        x = x + self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MILA(HierarchicalBackbone):
    """MILA on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        depths: blocks per stage.
        dims: channels per stage.
        head_dim: channels of an attention head.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.

    Raises:
        ValueError: depths and dims of different lengths.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 4, 8, 4),
        dims: Sequence[int] = (64, 128, 256, 512),
        head_dim: int = 32,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if len(depths) != len(dims):
            raise ValueError(f"depths and dims must be equally many, got {depths} and {dims}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.set_dims(dims, in_chans, num_classes)
        self.stem = Stem(in_chans, dims[0], **dd)
        drop_path = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *[
                Stage(
                    Downsample(dims[i - 1], dim, **dd) if i else None,
                    [
                        Block(dim, self.make_mixer(dim, max(1, dim // head_dim), **dd), rate, **dd)
                        for rate in drop_path[i]
                    ],
                )
                for i, dim in enumerate(dims)
            ]
        )
        self.norm = LayerNorm(dims[-1], eps=1e-5, **dd)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    def make_mixer(self, dim: int, num_heads: int, **dd: Any) -> nn.Module:
        """The token mixer of a block of ``dim`` channels."""
        return MambaLikeMixer(dim, num_heads, **dd)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Nothing but what timm exempts by itself: biases and norms are one-dimensional."""
        return set()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


FRAME_RULES = (  # of the families that share the frame
    (r"patch_embed\.", "stem."),
    *(
        (rf"layers\.{i}\.downsample\.conv\.{place}\.", rf"stages.{i + 1}.downsample.{name}.")
        for i in range(3)  # official: at the end of the stage before
        for place, name in (
            (r"0\.conv", "expand"),
            (r"1\.conv", "conv"),
            (r"2\.conv", "reduce"),
            (r"2\.norm", "norm"),
        )
    ),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)
_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
_RULES = (
    *FRAME_RULES,
    (_BLOCK + r"attn\.rope\.", None),  # tables for the size trained at
    (_BLOCK + r"(in_proj|act_proj|out_proj)\.", r"stages.\1.blocks.\2.mixer.\3."),
    (_BLOCK + r"dwc\.", r"stages.\1.blocks.\2.mixer.core.conv."),
    (_BLOCK + r"attn\.(qk|lepe)\.", r"stages.\1.blocks.\2.mixer.core.\3."),
    (r"layers\.", "stages."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (`_rename.rename`); ours passes unchanged.

    Raises:
        ValueError: the keys are not those of a MILA checkpoint.
    """
    official = "layers.0.blocks.0.attn.lepe.weight"
    return rename(state_dict, model, "MILA", "stages.0.blocks.0.mixer.core.lepe.weight", official, _RULES)


def frame_cfg(**kwargs: Any) -> dict[str, Any]:
    """What the pretrained configurations of the families with this frame have in common."""
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1.conv",
        "classifier": "head.fc",
        **kwargs,
    }


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """The weights are in a cloud folder without addresses of its own: ``pretrained_cfg_overlay=dict(file=...)``."""
    return frame_cfg(
        paper_ids="arXiv:2405.16605",
        paper_name="Demystify Mamba in Vision: A Linear Attention Perspective",
        origin_url="https://github.com/LeapLabTHU/MLLA",
        license="mit",
        **kwargs,
    )


default_cfgs = generate_default_cfgs({f"mila_{size}.mesa_in1k": _cfg() for size in ("tiny", "small", "base")})


def _create_mila(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        MILA,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def mila_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MILA-T, 24.4 M parameters."""
    return _create_mila("mila_tiny", pretrained, **kwargs)


@register_model
def mila_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MILA-S, 43.0 M parameters."""
    return _create_mila("mila_small", pretrained, **{"depths": (3, 6, 21, 6), **kwargs})


@register_model
def mila_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MILA-B, 96.0 M parameters."""
    return _create_mila("mila_base", pretrained, **{"depths": (3, 6, 21, 6), "dims": (96, 192, 384, 768), **kwargs})
