"""VMamba: four stages of SS2D blocks, each followed by an MLP block.

Paper: "VMamba: Visual State Space Model", arXiv 2401.10166. Official code: MzeroMiko/VMamba (MIT). These are the
released models of the second version (``v05_noz``: one state per channel, no gate).

The official model copies each map into four sequences and adds four sequences up again. Here the four scans are routes
of one operation that reads and writes pixels in place, and maps stay NHWC from the stem to the head.
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
    Mlp,
    calculate_drop_path_rates,
    get_device_dtype,
    trunc_normal_,
)
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from .checkpoints import WeightFile, load_weights, through_our_reader, unwrap
from .layers import ConvDownsample, ConvStem, HierarchicalBackbone, SelectiveSSM, Stage, StateLayerNorm
from .ops.cross_scan import VMAMBA_ROUTES

__all__ = ["VMamba"]

EPS = 1e-5  # of every norm


class SS2D(nn.Module):
    """2-D selective scan, ``(B, H, W, D) -> (B, H, W, D)`` (paper section 4.3).

    Args:
        dim: channels D.
        ssm_ratio: inner width E over D.
        d_state: states N per inner channel.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, dim: int, ssm_ratio: float, d_state: int = 1, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        inner = int(ssm_ratio * dim)
        self.in_proj = nn.Linear(dim, inner, bias=False, **dd)
        self.conv2d = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False, **dd)
        self.ssm = SelectiveSSM(inner, VMAMBA_ROUTES, d_state, math.ceil(dim / 16), backend, **dd)
        self.out_norm = StateLayerNorm(inner, eps=EPS, **dd)
        self.out_proj = nn.Linear(inner, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.conv2d(self.in_proj(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # (B, H, W, E)
        y = self.out_norm(self.ssm(F.silu(u), None))
        return self.out_proj(y.to(x.dtype))


class Block(nn.Module):
    """Two pre-norm residual branches, SS2D and MLP, ``(B, H, W, D) -> (B, H, W, D)``."""

    def __init__(self, dim: int, ssm_ratio: float, drop_path: float, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.norm = LayerNorm(dim, eps=EPS, **dd)
        self.op = SS2D(dim, ssm_ratio, backend=backend, **dd)
        self.norm2 = LayerNorm(dim, eps=EPS, **dd)
        self.mlp = Mlp(dim, 4 * dim, **dd)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VMamba(HierarchicalBackbone):
    """VMamba on NHWC maps at strides 4, 8, 16 and 32.

    Args:
        depths: blocks per stage.
        dims: channels per stage.
        ssm_ratio: inner width of SS2D over the channels.
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
        depths: Sequence[int] = (2, 2, 8, 2),
        dims: Sequence[int] = (96, 192, 384, 768),
        ssm_ratio: float = 1.0,
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
        self.stem = ConvStem(in_chans, dims[0], EPS, **dd)
        drop_path = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        self.stages = nn.Sequential(
            *[
                Stage(
                    ConvDownsample(dims[i - 1], dim, EPS, **dd) if i else None,
                    [Block(dim, ssm_ratio, rate, backend, **dd) for rate in drop_path[i]],
                )
                for i, dim in enumerate(dims)
            ]
        )
        self.norm = LayerNorm(dims[-1], eps=EPS, **dd)
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate, input_fmt="NHWC", **dd)
        self.head_hidden_size = self.head.num_features
        self.apply(self.init_module)

    @staticmethod
    @torch.jit.ignore
    def init_module(module: nn.Module) -> None:
        """The official initialisation of linear layers; all others keep PyTorch's."""
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str | WeightFile) -> None:
        """Loads an official file or one of ours, executing nothing in it (`checkpoints.load_weights`)."""
        load_weights(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the SSM's own parameters, which must not decay."""
        return {f"*.op.ssm.{name}" for name in SelectiveSSM.no_weight_decay}

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier; 0 classes removes it, ``global_pool=''`` removes the pooling too."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool, **get_device_dtype(self))
        self.head_hidden_size = self.head.num_features


_STEM = {"0": "conv1", "2": "norm1", "5": "conv2", "7": "norm2"}  # places in the official nn.Sequential
_DOWNSAMPLE = {"1": "conv", "3": "norm"}
_SSM = {
    "x_proj_weight": "x_proj_weight",
    "dt_projs_weight": "dt_proj_weight",
    "dt_projs_bias": "dt_bias",
    "A_logs": "A_log",
    "Ds": "D",
}


def checkpoint_filter_fn(state_dict: dict[str, Any], model: VMamba) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`checkpoints.unwrap`).
        model: the network to load into (unused; timm's signature).

    Raises:
        ValueError: the keys are not those of a VMamba checkpoint.
    """
    state_dict = unwrap(state_dict)
    if "stem.conv1.weight" in state_dict and any(".op.ssm." in key for key in state_dict):
        return state_dict
    if "patch_embed.0.weight" not in state_dict or not any(".op." in key for key in state_dict):
        some = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            "not a VMamba checkpoint of the second version: expected keys such as 'patch_embed.0.weight' and "
            f"'layers.0.blocks.0.op.A_logs', found {some}"
        )
    out = {}
    for key, value in state_dict.items():
        name = _official_to_ours(key)
        leaf = name.rpartition(".")[2]
        if name.endswith((".ssm.A_log", ".ssm.D")):  # official: the routes stacked along the channels
            value = value.unflatten(0, (len(VMAMBA_ROUTES), -1))
        elif leaf == "weight" and value.ndim == 4 and ("_proj." in name or ".mlp." in name):  # 1×1 convolutions
            value = value.flatten(1)
        out[name] = value
    return out


def _official_to_ours(key: str) -> str:
    parts = key.split(".")
    if parts[0] == "patch_embed" and parts[1] in _STEM:
        return ".".join(["stem", _STEM[parts[1]], *parts[2:]])
    if parts[0] == "layers" and parts[2] == "downsample" and parts[3] in _DOWNSAMPLE:  # official: at the stage's end
        return ".".join(["stages", str(int(parts[1]) + 1), "downsample", _DOWNSAMPLE[parts[3]], *parts[4:]])
    if parts[0] == "layers" and parts[-1] in _SSM:
        return ".".join(["stages", *parts[1:-1], "ssm", _SSM[parts[-1]]])
    if parts[0] == "layers":
        return ".".join(["stages", *parts[1:]])
    return key.replace("classifier.norm.", "norm.").replace("classifier.head.", "head.fc.")


def _cfg(release: str, **kwargs: Any) -> dict[str, Any]:
    return {
        "url": f"https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/{release}.pth",
        "custom_load": True,  # the files pickle a yacs node: `VMamba.load_pretrained` reads them safely
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv1",
        "classifier": "head.fc",
        "paper_ids": "arXiv:2401.10166",
        "paper_name": "VMamba: Visual State Space Model",
        "origin_url": "https://github.com/MzeroMiko/VMamba",
        "license": "mit",
        **kwargs,
    }


default_cfgs = generate_default_cfgs(
    {
        "vmamba_tiny_s1l8.in1k": _cfg("vssm1_tiny_0230s_ckpt_epoch_264"),
        "vmamba_tiny_s2l5.in1k": _cfg("vssm_tiny_0230_ckpt_epoch_262"),
        "vmamba_small_s2l15.in1k": _cfg("vssm_small_0229_ckpt_epoch_222"),
        "vmamba_small_s1l20.in1k": _cfg("vssm1_small_0229s_ckpt_epoch_240"),
        "vmamba_base_s2l15.in1k": _cfg("vssm_base_0229_ckpt_epoch_237"),
        "vmamba_base_s1l20.in1k": _cfg("vssm1_base_0229s_ckpt_epoch_225"),
    }
)


def _create_vmamba(variant: str, pretrained: bool, width: int, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        VMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **{"dims": (width, 2 * width, 4 * width, 8 * width), **through_our_reader(kwargs)},
    )


@register_model
def vmamba_tiny_s1l8(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-T[s1l8], 30.2 M parameters."""
    return _create_vmamba("vmamba_tiny_s1l8", pretrained, 96, **{"depths": (2, 2, 8, 2), **kwargs})


@register_model
def vmamba_tiny_s2l5(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-T[s2l5], 30.7 M parameters."""
    return _create_vmamba("vmamba_tiny_s2l5", pretrained, 96, **{"depths": (2, 2, 5, 2), "ssm_ratio": 2.0, **kwargs})


@register_model
def vmamba_small_s2l15(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-S[s2l15], 50.1 M parameters."""
    return _create_vmamba("vmamba_small_s2l15", pretrained, 96, **{"depths": (2, 2, 15, 2), "ssm_ratio": 2.0, **kwargs})


@register_model
def vmamba_small_s1l20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-S[s1l20], 49.0 M parameters."""
    return _create_vmamba("vmamba_small_s1l20", pretrained, 96, **{"depths": (2, 2, 20, 2), **kwargs})


@register_model
def vmamba_base_s2l15(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-B[s2l15], 88.6 M parameters."""
    return _create_vmamba("vmamba_base_s2l15", pretrained, 128, **{"depths": (2, 2, 15, 2), "ssm_ratio": 2.0, **kwargs})


@register_model
def vmamba_base_s1l20(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """VMamba-B[s1l20], 86.6 M parameters."""
    return _create_vmamba("vmamba_base_s1l20", pretrained, 128, **{"depths": (2, 2, 20, 2), **kwargs})
