"""Spatial-Mamba: one scan per block, whose states are mixed with those of their neighbours, in MILA's frame.

Paper: "Spatial-Mamba: Effective Visual State Space Models via Structure-Aware State Fusion", arXiv 2410.15091. Official
code: EdwardChasel/Spatial-Mamba (Apache-2.0). Published accuracies are with MESA (self-distillation from the moving
average): not comparable with those of plain recipes.

The official model merges its three fusion kernels into one of 11×11 at the first evaluation and keeps that after later
training; here they are three convolutions at any time, which is the same function.

Multiply-adds at 224 are 4.47, 7.12 and 15.80 G (paper: 4.5, 7.1, 15.8).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from ._checkpoint import load_official, read_files_safely
from ._rename import rename
from .mila import FRAME_RULES, MILA, frame_cfg
from .mixers.spatial import SpatialSSM

__all__ = ["SpatialMamba"]


class SpatialMambaMixer(nn.Module):
    """`mixers.spatial.SpatialSSM` at twice the width between two projections, gated, ``(B, H, W, D) -> (B, H, W, D)``.

    Args:
        dim: channels D.
        backend: of the scan (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, dim: int, backend: str = "auto", **dd: Any) -> None:
        super().__init__()
        self.in_proj = nn.Linear(dim, 4 * dim, bias=False, **dd)
        self.core = SpatialSSM(2 * dim, math.ceil(dim / 16), backend, **dd)
        self.out_proj = nn.Linear(2 * dim, dim, bias=False, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)  # (B, H, W, 2D) each
        return self.out_proj(self.core(x) * F.silu(z))


class SpatialMamba(MILA):
    """Spatial-Mamba on NHWC maps at strides 4, 8, 16 and 32. Arguments are those of `MILA` and

    Args:
        backend: of the scans (`ops.selective_scan.selective_scan_2d`).
    """

    def __init__(self, backend: str = "auto", **kwargs: Any) -> None:
        self.backend = backend
        super().__init__(**kwargs)

    def make_mixer(self, dim: int, num_heads: int, **dd: Any) -> nn.Module:
        """The token mixer of a block of ``dim`` channels; it has no heads."""
        return SpatialMambaMixer(dim, self.backend, **dd)

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str) -> None:
        """Loads an official file, strictly and without executing anything in it (`_checkpoint.load_official`)."""
        load_official(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Patterns of the scan's own parameters. (The authors' recipe let the state matrix decay.)"""
        return {f"*.mixer.core.{name}" for name in SpatialSSM.no_weight_decay}


_KERNELS = ("kernel_3", "kernel_3_1", "kernel_3_2")  # of dilation 1, 3, 5
_BLOCK = r"layers\.(\d+)\.blocks\.(\d+)\."
_OURS = r"stages.\1.blocks.\2."
_RULES = (
    *FRAME_RULES,
    (_BLOCK + r"ln_([12])\.", _OURS + r"norm\3."),
    (_BLOCK + r"self_attention\.(in_proj|out_proj)\.", _OURS + r"mixer.\3."),
    *(
        (_BLOCK + rf"self_attention\.{official}", _OURS + f"mixer.core.{ours}")
        for official, ours in (
            ("conv2d", "conv"),
            ("x_proj_weight", "x_proj_weight"),
            ("dt_projs_weight", "dt_proj_weight"),
            ("dt_projs_bias", "dt_bias"),
            ("A_logs", "A_log"),
            ("Ds", "D"),
            (r"state_fusion\.alpha", "fusion_scale"),
            ("out_norm", "norm"),
        )
    ),
    (r"layers\.", "stages."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, torch.Tensor]:
    """Turns the official checkpoints into our layout (`_rename.rename`; the fusion's three kernels are stacked); ours
    passes unchanged.

    Raises:
        ValueError: the keys are not those of a Spatial-Mamba checkpoint.
    """
    official = "layers.0.blocks.0.self_attention.A_logs"
    out = rename(state_dict, model, "Spatial-Mamba", "stages.0.blocks.0.mixer.core.A_log", official, _RULES)
    for key in [key for key in out if key.endswith(f".state_fusion.{_KERNELS[0]}")]:
        fusion = key.removesuffix(_KERNELS[0])
        block = fusion.removesuffix("self_attention.state_fusion.")
        out[f"{block}mixer.core.fusion_weight"] = torch.stack([out.pop(fusion + name).squeeze(1) for name in _KERNELS])
    return out


def _cfg(**kwargs: Any) -> dict[str, Any]:
    """The weights are in a cloud folder without addresses of its own: ``pretrained_cfg_overlay=dict(file=...)``."""
    return frame_cfg(
        paper_ids="arXiv:2410.15091",
        paper_name="Spatial-Mamba: Effective Visual State Space Models via Structure-Aware State Fusion",
        origin_url="https://github.com/EdwardChasel/Spatial-Mamba",
        license="apache-2.0",
        **kwargs,
    )


SIZES = ("tiny", "small", "base")
default_cfgs = generate_default_cfgs({f"spatial_mamba_{size}.mesa_in1k": _cfg() for size in SIZES})


def _create_spatial_mamba(variant: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        SpatialMamba,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **read_files_safely(kwargs),
    )


@register_model
def spatial_mamba_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Spatial-Mamba-T, 26.7 M parameters."""
    return _create_spatial_mamba("spatial_mamba_tiny", pretrained, **kwargs)


@register_model
def spatial_mamba_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Spatial-Mamba-S, 43.1 M parameters."""
    return _create_spatial_mamba("spatial_mamba_small", pretrained, **{"depths": (2, 4, 21, 5), **kwargs})


@register_model
def spatial_mamba_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Spatial-Mamba-B, 95.7 M parameters."""
    args = {"depths": (2, 4, 21, 5), "dims": (96, 192, 384, 768)}
    return _create_spatial_mamba("spatial_mamba_base", pretrained, **{**args, **kwargs})
