"""LocalVMamba: four stages of SS2D blocks whose scans go through local windows, too.

Paper: "LocalMamba: Visual State Space Model with Windowed Selective Scan", arXiv 2403.09338. Official code:
hunto/LocalMamba (Apache-2.0). Blocks are those of VMamba's first version (16 states, gate, no MLP) with two changes:
each block scans in four directions of its own, found by a search, and each direction's output passes a channel gate
that the four share before they are added.

Where a map does not divide into windows it is padded behind its convolution: padding is a step of the scan with a zero
input, and is dropped afterwards. Images whose sides are no multiples of 4 are padded with zeros; the official stem
drops the pixels that are left over.
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
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.swin_transformer import PatchMerging
from torch import nn

from ._checkpoint import load_official, read_files_safely, unwrap
from ._hierarchical import HierarchicalBackbone, Stage
from .mixers.local import GatedSum, LocalSSM

__all__ = ["LocalVMamba"]

EPS = 1e-5  # of every norm


class PatchStem(nn.Module):
    """Patches of 4×4 pixels, ``(B, C, H, W) -> (B, ceil(H/4), ceil(W/4), D)``."""

    def __init__(self, in_chans: int, dim: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, dim, 4, stride=4, **dd)
        self.norm = LayerNorm(dim, eps=EPS, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, -x.shape[3] % 4, 0, -x.shape[2] % 4))
        x = self.conv(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


class LocalSS2D(nn.Module):
    """Gated SS2D in local directions, ``(B, H, W, D) -> (B, H, W, D)`` (paper section 4).

    Args:
        dim: channels D; the inner width E is twice as wide.
        directions: names of `ops.scan_orders.scan_order`.
        d_state: states N per inner channel.
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, dim: int, directions: Sequence[str], d_state: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        inner = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False, **dd)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, **dd)
        self.ssm = LocalSSM(inner, directions, d_state, math.ceil(dim / 16), backend, **dd)
        self.attn = GatedSum(inner, **dd)
        self.out_norm = LayerNorm(inner, eps=EPS, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, E) each
        u = F.silu(self.conv2d(u.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        y = self.attn(self.ssm(u))
        y = self.out_norm(y.to(self.out_norm.weight.dtype)) * F.silu(z)
        return self.out_proj(y.to(x.dtype))


class Block(nn.Module):
    """Pre-norm residual block, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(
        self, dim: int, directions: Sequence[str], d_state: int, drop_path: float, backend: str = "auto", **dd: Any
    ) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=EPS, **dd)
        self.op = LocalSS2D(dim, directions, d_state, backend, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(self.op(self.norm(x)))


class LocalVMamba(HierarchicalBackbone):
    """LocalVMamba on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        directions: four names of `ops.scan_orders.scan_order` per block, through all stages; shorter lists start anew.
        depths: blocks per stage.
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
        directions: Sequence[Sequence[str]] = (("h", "h_flip", "w2", "w2_flip"),),
        depths: Sequence[int] = (2, 2, 9, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
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
            first = sum(depths[:i])
            blocks = [
                Block(dim, directions[(first + j) % len(directions)], d_state, rate, backend, **dd)
                for j, rate in enumerate(drop_path[i])
            ]
            stages.append(Stage(PatchMerging(dims[i - 1], dim, **dd) if i else None, blocks))
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
        return {f"*.op.ssm.{name}" for name in LocalSSM.no_weight_decay}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


def init_weights(module: nn.Module) -> None:
    """The official initialisation of linear layers."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


_SSM = {
    "x_proj_weight": "x_proj_weight",
    "dt_projs_weight": "dt_proj_weight",
    "dt_projs_bias": "dt_bias",
    "A_logs": "A_log",
    "Ds": "D",
}
_NAMES = (  # official prefix or infix, ours
    ("patch_embed.0.", "stem.conv."),
    ("patch_embed.2.", "stem.norm."),
    ("classifier.norm.", "norm."),
    ("classifier.head.", "head.fc."),
    (".op.multi_scan.attn.", ".op.attn."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: LocalVMamba) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`_checkpoint.unwrap`).
        model: the network to load into (unused; timm's signature).

    Raises:
        ValueError: the keys are not those of a LocalVMamba checkpoint.
    """
    state_dict = unwrap(state_dict)
    if "stem.conv.weight" in state_dict and any(".op.attn." in key for key in state_dict):
        return state_dict
    if not any(".op.multi_scan.attn." in key for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a LocalVMamba checkpoint: expected keys such as 'patch_embed.0.weight' and "
            f"'layers.0.blocks.0.op.multi_scan.attn.norm.weight', found {some}"
        )
    return {official_to_ours(key): _per_route(key, value) for key, value in state_dict.items()}


def _per_route(key: str, value: torch.Tensor) -> torch.Tensor:
    """The official A and D stack the four directions along the channels."""
    return value.unflatten(0, (4, -1)) if key.endswith((".A_logs", ".Ds")) else value


def official_to_ours(key: str) -> str:
    """Name of an official key of the first VMamba's layout."""
    for official, ours in _NAMES:
        key = key.replace(official, ours)
    parts = key.split(".")
    if parts[0] == "layers" and parts[2] == "downsample":  # official: at the stage's end
        return ".".join(["stages", str(int(parts[1]) + 1), *parts[2:]])
    if parts[0] == "layers" and parts[-1] in _SSM:
        return ".".join(["stages", *parts[1:-1], "ssm", _SSM[parts[-1]]])
    return ".".join(["stages", *parts[1:]]) if parts[0] == "layers" else key


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "custom_load": True,  # `LocalVMamba.load_pretrained` reads the files safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2403.09338",
        "paper_name": "LocalMamba: Visual State Space Model with Windowed Selective Scan",
        "origin_url": "https://github.com/hunto/LocalMamba",
        "license": "apache-2.0",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "localvmamba_tiny.in1k": _cfg(),  # never released (hunto/LocalMamba#26, #34, #42)
        "localvmamba_small.in1k": _cfg(
            url="https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vssm_small.ckpt"
        ),
    }
)

# Found by the authors' search, one line per stage; "h w7" stands for rows, then windows of 7×7.
_TINY = """
h h_flip w7 w7_flip, h_flip v_flip w2 w2_flip,
h_flip v_flip w2_flip w7, h_flip v v_flip w2,
h h_flip v_flip w2_flip, h_flip v_flip w2 w2_flip, h w2_flip w7 w7_flip, h h_flip v v_flip, h v_flip w7 w7_flip,
h_flip v w2 w7_flip, v v_flip w2 w7_flip, h h_flip v_flip w2_flip, v_flip w2_flip w7 w7_flip,
h_flip v_flip w2_flip w7_flip, h_flip v w7 w7_flip
"""
_SMALL = """
h v v_flip w7_flip, h h_flip v w7,
h_flip v v_flip w7, h_flip v w2_flip w7,
h_flip v w2_flip w7, h_flip v_flip w2 w7_flip, h_flip v v_flip w7, h v v_flip w7, h v v_flip w7, h v v_flip w7_flip,
h h_flip v v_flip, h v v_flip w2, v v_flip w2_flip w7, h h_flip v w2, h_flip v v_flip w7_flip, h h_flip v v_flip,
h v v_flip w7_flip, h v v_flip w7_flip, h h_flip v_flip w7, h_flip v_flip w2_flip w7, h_flip v v_flip w7_flip,
v v_flip w7 w7_flip, h v v_flip w7_flip, h_flip v v_flip w2, h v v_flip w2_flip, h h_flip v w7, h h_flip w7 w7_flip,
h v_flip w2 w2_flip, h v_flip w2 w7, h v v_flip w7_flip, h_flip v w2_flip w7,
h_flip v_flip w7 w7_flip, h v w7 w7_flip
"""


def direction_lists(text: str) -> list[list[str]]:
    """``"h v, w2 w7" -> [["h", "v"], ["w2", "w7"]]``."""
    return [block.split() for block in text.split(",")]


def _create_localvmamba(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        LocalVMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def localvmamba_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalVMamba-T, 25.5 M parameters."""
    return _create_localvmamba("localvmamba_tiny", pretrained, **{"directions": direction_lists(_TINY), **kwargs})


@register_model
def localvmamba_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """LocalVMamba-S, 49.7 M parameters."""
    arguments = {"directions": direction_lists(_SMALL), "depths": (2, 2, 27, 2), **kwargs}
    return _create_localvmamba("localvmamba_small", pretrained, **arguments)
