"""MambaVision: two stages of convolutions, then two of Mamba and attention blocks inside windows.

Paper: "MambaVision: A Hybrid Mamba-Transformer Vision Backbone", arXiv 2407.08083. Official code and weights:
NVlabs/MambaVision (NVIDIA Source Code License-NC; weights CC BY-NC-SA 4.0, for research only). Written from the paper.

Windows are not part of the weights: the classifiers were trained with 14 and 7 tokens a side, the authors' detectors
run with 112 and 56, `MambaVision`'s ``window_sizes`` takes any. Maps that they do not divide are padded at the bottom
and right. As in the original, padded tokens are tokens like any others, so results at such sizes depend on the padding.

The official scan adds the bias of its step twice, once in the linear layer and once in the kernel; the weights want it.

Multiply-adds at 224 are 4.59, 7.61, 15.21 and 35.23 G. The published 4.4, 7.5, 15.0 and 34.9 leave out the products
inside attention and the scans, without which they are 4.46, 7.48, 14.96 and 34.84.
"""

from __future__ import annotations

import math
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
    Mlp,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
    generate_default_cfgs,
    register_model,
    register_notrace_module,
)
from timm.models.vision_transformer import Attention
from torch import nn

from ._checkpoint import load_official, read_files_safely
from ._hierarchical import HierarchicalBackbone, Stage
from ._rename import rename
from .mixers.s6 import ignored_by_torchscript
from .ops.cross_scan import Route
from .ops.selective_scan import selective_scan_2d

__all__ = ["MambaVision"]


class BatchNorm(nn.Module):
    """Batch norm of NHWC maps."""

    def __init__(self, dim: int, **dd: Any) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(dim, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Stem(nn.Module):
    """Two 3×3 convolutions of stride 2, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, mid: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, mid, 3, stride=2, padding=1, bias=False, **dd)
        self.norm1 = nn.BatchNorm2d(mid, eps=1e-4, **dd)
        self.conv2 = nn.Conv2d(mid, dim, 3, stride=2, padding=1, bias=False, **dd)
        self.norm2 = nn.BatchNorm2d(dim, eps=1e-4, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(x.contiguous(memory_format=torch.channels_last))))
        return F.relu(self.norm2(self.conv2(x))).permute(0, 2, 3, 1)


class Downsample(nn.Module):
    """3×3 convolution of stride 2 without norm, ``(B, H, W, D_in) -> (B, ceil(H/2), ceil(W/2), D_out)``."""

    def __init__(self, dim_in: int, dim_out: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim_out, 3, stride=2, padding=1, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvBlock(nn.Module):
    """Residual block of two 3×3 convolutions, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1, **dd)
        self.norm1 = nn.BatchNorm2d(dim, **dd)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, **dd)
        self.norm2 = nn.BatchNorm2d(dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(self.norm1(self.conv1(x.permute(0, 3, 1, 2))), approximate="tanh")
        return x + self.drop_path(self.norm2(self.conv2(y)).permute(0, 2, 3, 1))


@register_notrace_module
class MambaMixer(nn.Module):
    """Half of the channels scanned, the other half convolved alone and concatenated, ``(B, L, D) -> (B, L, D)``.

    The convolutions see one token to either side: the mixer is not causal.

    Args:
        dim: channels D; each half has E = D/2.
        d_state: states N per scanned channel.
        d_conv: taps of the convolutions.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    no_weight_decay = ("A_log", "D")

    def __init__(self, dim: int, d_state: int = 8, d_conv: int = 3, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        half, self.dt_rank, self.d_state, self.backend = dim // 2, math.ceil(dim / 16), d_state, backend
        conv = {"kernel_size": d_conv, "padding": d_conv // 2, "groups": half, "bias": False, **dd}
        self.in_proj = nn.Linear(dim, dim, bias=False, **dd)
        self.conv1d_x = nn.Conv1d(half, half, **conv)
        self.conv1d_z = nn.Conv1d(half, half, **conv)
        self.x_proj = nn.Linear(half, self.dt_rank + 2 * d_state, bias=False, **dd)
        self.dt_proj = nn.Linear(self.dt_rank, half, **dd)
        self.A_log = nn.Parameter(torch.empty(half, d_state, **dd))
        self.D = nn.Parameter(torch.ones(half, **dd))
        self.out_proj = nn.Linear(dim, dim, bias=False, **dd)
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, d_state + 1, device=self.A_log.device).log().expand_as(self.A_log))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(x).transpose(1, 2).chunk(2, dim=1)  # (B, E, L) each
        u = F.silu(self.conv1d_x(x)).transpose(1, 2).contiguous()  # (B, L, E)
        z = F.silu(self.conv1d_z(z)).transpose(1, 2)
        dt, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y = self.scan(u, self.dt_proj(dt), B, C)
        return self.out_proj(torch.cat((y.to(z.dtype), z), dim=-1))

    @ignored_by_torchscript
    def scan(self, u: torch.Tensor, delta: torch.Tensor, B: torch.Tensor, C: torch.Tensor) -> torch.Tensor:
        """Scans ``u`` (B, L, E) with steps softplus(delta + the bias that delta already has)."""
        y = selective_scan_2d(  # as maps (B, 1, L, ·) with one route: channels stay the contiguous axis
            u.unsqueeze(1),
            delta[:, None, :, None],
            -self.A_log.float().exp().unsqueeze(0),
            B[:, None, :, None],
            C[:, None, :, None],
            self.D.float().unsqueeze(0),
            delta_bias=self.dt_proj.bias.float().unsqueeze(0),
            delta_softplus=True,
            backend=self.backend,
            routes=(Route.ROWS,),
        )
        return y.squeeze(1)


@register_notrace_module
class WindowAttention(Attention):
    """timm's attention, ``(B, L, D) -> (B, L, D)``; its optional mask is control flow that torch.fx cannot follow."""


class Block(nn.Module):
    """Pre-norm residual block of a mixer and an MLP on the tokens of a window, ``(B, L, D) -> (B, L, D)``."""

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float, init_values: float | None, **dd: Any) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=1e-5, **dd)
        self.mixer = mixer
        self.ls1 = nn.Identity() if init_values is None else LayerScale(dim, init_values, **dd)
        self.norm2 = LayerNorm(dim, eps=1e-5, **dd)
        self.mlp = Mlp(dim, 4 * dim, **dd)
        self.ls2 = nn.Identity() if init_values is None else LayerScale(dim, init_values, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.ls1(self.mixer(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def to_windows(x: torch.Tensor, size: int) -> torch.Tensor:
    """Cuts maps into windows, row by row, with zeros behind the last row and column.

    Args:
        x: (B, H, W, D).
        size: side w of a window in tokens; 0 makes the whole map one window.

    Returns:
        (B·n, w·w, D) for n windows.
    """
    if size == 0:
        return x.flatten(1, 2)
    H, W = x.shape[1], x.shape[2]
    x = F.pad(x, (0, 0, 0, -W % size, 0, -H % size))
    x = x.unflatten(1, (-1, size)).unflatten(3, (-1, size))  # (B, rows, w, columns, w, D)
    return x.transpose(2, 3).flatten(0, 2).flatten(1, 2)


def from_windows(tokens: torch.Tensor, size: int, H: int, W: int) -> torch.Tensor:
    """Undoes `to_windows`: (B·n, w·w, D) -> (B, H, W, D)."""
    if size == 0:
        return tokens.unflatten(1, (H, W))
    rows, columns = (H + size - 1) // size, (W + size - 1) // size
    x = tokens.unflatten(1, (size, size)).unflatten(0, (-1, rows, columns))  # (B, rows, columns, w, w, D)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :H, :W]


class WindowStage(Stage):
    """A stage whose blocks all run inside the same windows, which nothing crosses.

    Args:
        downsample: module before the blocks.
        blocks: blocks of tokens.
        window_size: side of a window in tokens; 0 makes the whole map one window.
    """

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module], window_size: int) -> None:
        super().__init__(downsample, blocks)
        self.window_size = window_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.downsample(x)
        H, W = x.shape[1], x.shape[2]
        tokens = to_windows(x, self.window_size)
        if self.grad_checkpointing and not torch.jit.is_scripting():
            tokens = checkpoint_seq(self.blocks, tokens)
        else:
            tokens = self.blocks(tokens)
        return from_windows(tokens, self.window_size, H, W)


class MambaVision(HierarchicalBackbone):
    """MambaVision on NHWC maps at strides 4, 8, 16 and 32. Of each window stage's blocks the first half (rounded up)
    has the Mamba mixer, the second attention.

    Args:
        depths: blocks per stage; the first two stages are convolutional.
        dim: channels D of the first stage; they double with every stage.
        stem_dim: channels between the stem's convolutions.
        num_heads: attention heads of the last two stages.
        window_sizes: sides in tokens of the last two stages' windows; 0 makes the whole map one window.
        init_values: initial layer scale of the last two stages' blocks, none if ``None``.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).

    Raises:
        ValueError: not four depths, or not two ``num_heads`` and ``window_sizes``.
    """

    def __init__(
        self,
        depths: Sequence[int] = (1, 3, 8, 4),
        dim: int = 80,
        stem_dim: int = 32,
        num_heads: Sequence[int] = (8, 16),
        window_sizes: Sequence[int] = (14, 7),
        init_values: float | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str = "auto",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if (len(depths), len(num_heads), len(window_sizes)) != (4, 2, 2):
            raise ValueError(
                "depths must be four, num_heads and window_sizes two (of the last stages), "
                f"got {depths}, {num_heads} and {window_sizes}"
            )
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        dims = [dim * 2**i for i in range(4)]
        self.set_dims(dims, in_chans, num_classes)
        self.stem = Stem(in_chans, stem_dim, dim, **dd)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = [
            Stage(
                Downsample(dims[i - 1], dims[i], **dd) if i else None, [ConvBlock(dims[i], r, **dd) for r in rates[i]]
            )
            for i in (0, 1)
        ]
        for i in (2, 3):
            blocks = [
                Block(
                    dims[i],
                    MambaMixer(dims[i], backend=backend, **dd)
                    if j < (depths[i] + 1) // 2
                    else WindowAttention(dims[i], num_heads[i - 2], qkv_bias=True, **dd),
                    rate,
                    init_values,
                    **dd,
                )
                for j, rate in enumerate(rates[i])
            ]
            stages.append(WindowStage(Downsample(dims[i - 1], dims[i], **dd), blocks, window_sizes[i - 2]))
        self.stages = nn.Sequential(*stages)
        self.norm = BatchNorm(dims[-1], **dd)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(_init_weights)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the scan's own parameters. (The authors' recipe let the state matrix decay.)"""
        return {f"*.mixer.{name}" for name in MambaMixer.no_weight_decay}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


def _init_weights(module: nn.Module) -> None:
    """The official initialisation: the bias of the step is 0, unlike Mamba's."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_BLOCK = r"levels\.(\d+)\.blocks\.(\d+)\."
_RULES = (
    *((rf"patch_embed\.conv_down\.{i}\.", f"stem.{name}.") for i, name in ((0, "conv1"), (1, "norm1"))),
    *((rf"patch_embed\.conv_down\.{i}\.", f"stem.{name}.") for i, name in ((3, "conv2"), (4, "norm2"))),
    *((rf"levels\.{i}\.downsample\.reduction\.0\.", f"stages.{i + 1}.downsample.conv.") for i in range(3)),
    (_BLOCK + r"gamma_([12])$", r"stages.\1.blocks.\2.ls\3.gamma"),
    (r"levels\.", "stages."),
    (r"norm\.", "norm.bn."),
    (r"head\.(weight|bias)$", r"head.fc.\1"),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (`_rename.rename`); ours passes unchanged.

    Raises:
        ValueError: the keys are not those of a MambaVision checkpoint.
    """
    return rename(state_dict, model, "MambaVision", "stem.conv1.weight", "patch_embed.conv_down.0.weight", _RULES)


def _cfg(size: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "hf_hub_id": f"nvidia/MambaVision-{size}-1K",
        "hf_hub_filename": f"mambavision_{size.lower()}_1k.pth.tar",
        "custom_load": "hf",  # the files pickle training arguments: `MambaVision.load_pretrained` reads them safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2407.08083",
        "paper_name": "MambaVision: A Hybrid Mamba-Transformer Vision Backbone",
        "origin_url": "https://github.com/NVlabs/MambaVision",
        "license": "cc-by-nc-sa-4.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "mambavision_tiny.in1k": _cfg("T"),
        "mambavision_small.in1k": _cfg("S", crop_pct=0.93),
        "mambavision_base.in1k": _cfg("B"),
        "mambavision_large.in1k": _cfg("L"),
    }
)


def _create_mambavision(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        MambaVision,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def mambavision_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MambaVision-T, 31.8 M parameters."""
    return _create_mambavision("mambavision_tiny", pretrained, **kwargs)


@register_model
def mambavision_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MambaVision-S, 50.1 M parameters."""
    args = {"depths": (3, 3, 7, 5), "dim": 96, "stem_dim": 64}
    return _create_mambavision("mambavision_small", pretrained, **{**args, **kwargs})


@register_model
def mambavision_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MambaVision-B, 97.7 M parameters."""
    args = {"depths": (3, 3, 10, 5), "dim": 128, "stem_dim": 64, "init_values": 1e-5}
    return _create_mambavision("mambavision_base", pretrained, **{**args, **kwargs})


@register_model
def mambavision_large(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """MambaVision-L, 228.0 M parameters."""
    args = {"depths": (3, 3, 10, 5), "dim": 196, "stem_dim": 64, "num_heads": (16, 32), "init_values": 1e-5}
    return _create_mambavision("mambavision_large", pretrained, **{**args, **kwargs})
