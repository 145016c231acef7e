"""EfficientVMamba: two stages of atrous selective scans beside convolutions, then two stages of convolutions alone.

Paper: "EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba", arXiv 2403.09977. Official code:
TerryPei/EfficientVMamba (Apache-2.0 by its README). EfficientVMamba-S is 64 channels wide, as its training log and its
parameters say, not 96 as the paper's table.

An atrous scan visits every second pixel of every second row: four scans, each over a quarter of the map, instead of
four over all of it. Two of them share their rows, and their neighbouring pixels are read as one pixel of 2E channels on
a map half as large: nothing is copied into another order, only the outputs of even and odd rows are laid together.

Maps with odd sides are padded behind their convolution. Images whose sides are no multiples of 4 are padded with zeros;
the official stem drops the pixels that are left over.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, DropPath, LayerNorm, calculate_drop_path_rates, get_device_dtype
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model, register_notrace_module
from timm.models._efficientnet_blocks import InvertedResidual, SqueezeExcite
from timm.models.swin_transformer import PatchMerging
from torch import nn

from ._checkpoint import load_official, read_files_safely, unwrap
from ._hierarchical import HierarchicalBackbone, Stage
from .localvmamba import PatchStem, init_weights, official_to_ours
from .mixers.local import ChannelGate
from .mixers.s6 import SelectiveSSM, ignored_by_torchscript
from .ops.cross_scan import Route
from .ops.selective_scan import selective_scan_2d

__all__ = ["EfficientVMamba"]

EPS = 1e-5  # of every norm
ATROUS_ROUTES = (Route.ROWS, Route.COLUMNS, Route.ROWS, Route.COLUMNS)
"""Of the pixels at (even, even), (odd, even), (even, odd) and (odd, odd) rows and columns, the order of the weights."""


@register_notrace_module
class AtrousSSM(SelectiveSSM):
    """Four selective scans, each over a quarter of the pixels, ``(B, H, W, E) -> (B, H, W, E)`` (paper section 4.1).

    Args:
        dim: channels E.
        d_state: states N per channel.
        dt_rank: rank R of the step's projection.
        backend: of `ops.selective_scan.selective_scan_2d`.
    """

    def __init__(self, dim: int, d_state: int, dt_rank: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__(dim, ATROUS_ROUTES, d_state, dt_rank, backend, **dd)

    @ignored_by_torchscript
    def forward(self, u: torch.Tensor) -> torch.Tensor:
        _, H, W, _ = u.shape
        u = F.pad(u, (0, 0, 0, W % 2, 0, H % 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, h, 2, w, 2, E)
        y = torch.stack([_scan_rows(self, u[:, :, i], i) for i in range(2)], dim=2)  # (B, h, 2, w, 2, E)
        return y.flatten(3, 4).flatten(1, 2)[:, :H, :W]


def _scan_rows(ssm: AtrousSSM, u: torch.Tensor, i: int) -> torch.Tensor:
    """Scans the even (i = 0) or odd rows (B, h, w, 2, E), even columns apart from odd ones."""
    params = torch.einsum("bhwje,jpe->bhwjp", u, ssm.x_proj_weight[i::2])
    dt, B, C = params.split([ssm.dt_rank, ssm.d_state, ssm.d_state], dim=-1)
    delta = torch.einsum("bhwjr,jer->bhwje", dt, ssm.dt_proj_weight[i::2])
    y = selective_scan_2d(
        u.flatten(3),  # (B, h, w, 2E)
        delta.flatten(3).unsqueeze(3),
        -ssm.A_log[i::2].float().exp().flatten(0, 1).unsqueeze(0),
        B.unsqueeze(3),  # (B, h, w, 1, 2, N): a group of channels per column parity
        C.unsqueeze(3),
        ssm.D[i::2].float().reshape(1, -1),
        None,
        ssm.dt_bias[i::2].float().reshape(1, -1),
        delta_softplus=True,
        backend=ssm.backend,
        routes=ssm.routes[i : i + 1],
    )
    return y.unflatten(3, (2, -1))


class AtrousSS2D(nn.Module):
    """Gated SS2D with atrous scans, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D; the inner width E is twice as wide.
        d_state: states N per inner channel.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, dim: int, d_state: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **dd)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, **dd)
        self.ssm = AtrousSSM(inner, d_state, math.ceil(dim / 16), backend, **dd)
        self.out_norm = LayerNorm(inner, eps=EPS, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, E) each
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        return self.out_proj(self.out_norm(self.ssm(u)) * F.silu(z))


class ScanBlock(nn.Module):
    """Scans beside convolutions, behind one gate, ``(B, H, W, D) -> (B, H, W, D)`` (the paper's EVSS block)."""

    def __init__(self, dim: int, d_state: int, drop_path: float, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=EPS, **dd)
        self.op = AtrousSS2D(dim, d_state, backend, **dd)
        self.conv_branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim, **dd),
            nn.BatchNorm2d(dim, **dd),
            nn.GELU(),
            nn.Conv2d(dim, dim, 1, **dd),
        )
        self.se = ChannelGate(dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = self.norm(x)
        local = self.conv_branch(n.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.drop_path(self.se(self.op(n)) + self.se(local))


class ConvBlock(nn.Module):
    """Inverted residual with squeeze-and-excitation, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, drop_path: float, **dd: Any) -> None:
        super().__init__()
        se = functools.partial(SqueezeExcite, rd_ratio=0.125)
        self.conv = InvertedResidual(dim, dim, exp_ratio=4, se_layer=se, drop_path_rate=drop_path, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class EfficientVMamba(HierarchicalBackbone):
    """EfficientVMamba on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        depths: blocks per stage; the first two stages scan, the others convolve.
        dims: channels per stage.
        d_state: states N per inner channel.
        in_chans: channels of the image.
        num_classes: classes; 0 gives the pooled features.
        global_pool: ``avg``, or ``''`` for no pooling.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, growing linearly from 0 over all blocks.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).

    Raises:
        ValueError: depths and dims of different lengths.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 4, 2),
        dims: Sequence[int] = (48, 96, 192, 384),
        d_state: int = 16,
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
        if len(depths) != len(dims):
            raise ValueError(f"depths and dims must be equally many, got {depths} and {dims}")
        dd: dict[str, Any] = {"device": device, "dtype": dtype}
        self.set_dims(dims, in_chans, num_classes)
        self.stem = PatchStem(in_chans, dims[0], **dd)
        drop_path = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for i, dim in enumerate(dims):
            merging = PatchMerging(dims[i - 1], dim, **dd) if i else None
            if i < 2:
                blocks = [ScanBlock(dim, d_state, rate, backend, **dd) for rate in drop_path[i]]
            else:
                blocks = [ConvBlock(dim, rate, **dd) for rate in drop_path[i]]
            stages.append(Stage(merging, blocks))
        self.stages = nn.Sequential(*stages)
        self.norm = LayerNorm(dims[-1], eps=EPS, **dd)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(init_weights)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the SSM's own parameters, which must not decay."""
        return {f"*.op.ssm.{name}" for name in AtrousSSM.no_weight_decay}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


_CONV_BLOCK = {
    "conv_pw.0": "conv_pw",
    "conv_pw.1": "bn1",
    "conv_dw.0": "conv_dw",
    "conv_dw.1": "bn2",
    "conv_pw2.0": "conv_pwl",
    "conv_pw2.1": "bn3",
}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: EfficientVMamba) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`_checkpoint.unwrap`).
        model: the network to load into (unused; timm's signature).

    Raises:
        ValueError: the keys are not those of an EfficientVMamba checkpoint.
    """
    state_dict = unwrap(state_dict)
    if "stem.conv.weight" in state_dict and any(".conv_pwl." in key for key in state_dict):
        return state_dict
    if not any(".conv_pw2." in key for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not an EfficientVMamba checkpoint: expected keys such as 'patch_embed.0.weight' and "
            f"'layers.2.1.conv_pw2.0.weight', found {some}"
        )
    out = {}
    for key, value in state_dict.items():
        if key.endswith((".A_logs", ".Ds")):  # official: the routes stacked along the channels
            value = value.unflatten(0, (len(ATROUS_ROUTES), -1))
        out[_official_to_ours(key)] = value
    return out


def _official_to_ours(key: str) -> str:
    parts = key.split(".")
    if parts[0] != "layers" or not parts[2].isdecimal():
        return official_to_ours(key)
    # A stage of convolutions: between two changes of layout (places 0 and d + 1) its d blocks, then the merging.
    stage, place = int(parts[1]), int(parts[2])
    if parts[3] in ("norm", "reduction"):
        return ".".join(["stages", str(stage + 1), "downsample", *parts[3:]])
    layer = _CONV_BLOCK.get(".".join(parts[3:5]), ".".join(parts[3:5]))
    return ".".join(["stages", str(stage), "blocks", str(place - 1), "conv", layer, *parts[5:]])


def _cfg(size: str) -> dict[str, Any]:
    return {
        "hf_hub_id": f"TerryPei/EfficientVMamba-{size}",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2403.09977",
        "paper_name": "EfficientVMamba: Atrous Selective Scan for Light Weight Visual Mamba",
        "origin_url": "https://github.com/TerryPei/EfficientVMamba",
        "license": "apache-2.0",
    }


default_cfgs = generate_default_cfgs(
    {
        "efficientvmamba_tiny.in1k": _cfg("Tiny"),
        "efficientvmamba_small.in1k": _cfg("Small"),
        "efficientvmamba_base.in1k": _cfg("Base"),
    }
)


def _create_efficientvmamba(variant: str, pretrained: bool, width: int, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        EfficientVMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **{"dims": (width, 2 * width, 4 * width, 8 * width), **read_files_safely(kwargs)},
    )


@register_model
def efficientvmamba_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientVMamba-T, 6.5 M parameters."""
    return _create_efficientvmamba("efficientvmamba_tiny", pretrained, 48, **kwargs)


@register_model
def efficientvmamba_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientVMamba-S, 11.3 M parameters."""
    return _create_efficientvmamba("efficientvmamba_small", pretrained, 64, **kwargs)


@register_model
def efficientvmamba_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """EfficientVMamba-B, 33.7 M parameters."""
    return _create_efficientvmamba("efficientvmamba_base", pretrained, 96, **{"depths": (2, 2, 9, 2), **kwargs})
