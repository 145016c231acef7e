"""Depth models by name: the published ones, and the DPT head on any backbone."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import nn

from . import backbones
from ._convert import load_depth_checkpoint
from .dpt import DPT, Bounded, DepthHead, Inverted, Relative, SegmentationHead
from .transforms import DEPTH_ANYTHING, DPT_384, DPT_480, DPT_KITTI, DPT_NYU, GENERIC, Convention


@dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
        backbone: makes the four feature maps.
        channels: of the reassembled maps.
        output: makes what turns the head's number into depth; ``None`` for the segmentation models.
        convention: how its images are resized and normalised.
        features: channels of the fused maps.
    """

    backbone: Callable[[], nn.Module]
    channels: Sequence[int]
    output: Callable[[], nn.Module] | None
    convention: Convention
    features: int = 256


_BASE, _LARGE, _HYBRID = (96, 192, 384, 768), (256, 512, 1024, 1024), (256, 512, 768, 768)

PRESETS = {
    "dpt_base_384": Preset(backbones.dpt_base, _BASE, Relative, DPT_384),
    "dpt_large_384": Preset(backbones.dpt_large, _LARGE, Relative, DPT_384),
    "dpt_hybrid_384": Preset(backbones.dpt_hybrid, _HYBRID, Relative, DPT_384),
    # The constants that the authors fitted, averaged over the training set of each.
    "dpt_hybrid_384_nyu": Preset(backbones.dpt_hybrid, _HYBRID, partial(Inverted, 0.000305, 0.1378), DPT_NYU),
    "dpt_hybrid_384_kitti": Preset(backbones.dpt_hybrid, _HYBRID, partial(Inverted, 0.00006016, 0.00579), DPT_KITTI),
    "dpt_large_384_ade20k": Preset(backbones.dpt_large, _LARGE, None, DPT_480),
    "dpt_hybrid_384_ade20k": Preset(backbones.dpt_hybrid, _HYBRID, None, DPT_480),
}

_DEPTH_ANYTHING = {  # arguments of DINOv2, its taps, channels of the reassembled and of the fused maps
    "small": ({"embed_dim": 384, "depth": 12, "num_heads": 6}, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "base": (backbones.VIT_BASE, (2, 5, 8, 11), _BASE, 128),
    "large": (backbones.VIT_LARGE, (4, 11, 17, 23), _LARGE, 256),
}
_DEPTH_ANYTHING_OUTPUTS = {"": Relative, "_hypersim": partial(Bounded, 20.0), "_vkitti": partial(Bounded, 80.0)}

for _size, (_vit, _blocks, _channels, _features) in _DEPTH_ANYTHING.items():
    for _suffix, _output in _DEPTH_ANYTHING_OUTPUTS.items():
        _backbone = partial(backbones.dinov2, _blocks, **_vit)
        _preset = Preset(_backbone, _channels, _output, DEPTH_ANYTHING, _features)
        PRESETS[f"depth_anything_v2_{_size}{_suffix}"] = _preset


def list_depth_models() -> list[str]:
    """The published models; beside them every timm and zoo model that hands out intermediate maps is a name."""
    return sorted(PRESETS)


def create_depth_model(name: str, checkpoint: str | Path | dict[str, Any] | None = None, **kwargs: Any) -> DPT:
    """Builds a depth model.

    Args:
        name: a published model (`list_depth_models`): ``dpt_{base,large,hybrid}_384`` give inverse depth up to scale
            and shift, ``dpt_hybrid_384_{nyu,kitti}`` metres, ``dpt_{large,hybrid}_384_ade20k`` scores of 150 classes,
            ``depth_anything_v2_{small,base,large}`` inverse depth, with ``_hypersim`` or ``_vkitti`` metres. Or any
            backbone of the zoo or of timm, which gets a new DPT head (see `on_backbone`, which takes ``kwargs``).
        checkpoint: file of weights, or its content, in the official layout, Hugging Face's, or the one
            this model saves; see `load_depth_checkpoint`.
        kwargs: only for a backbone.

    Returns:
        The model, in training mode as constructors leave it; ``model.unit`` says what it predicts and
        ``model.convention`` how its images are made. ``model(images)`` maps (B, 3, H, W) to (B, H, W), or to
        (B, 150, H, W).

    Raises:
        ValueError: unknown name, or a checkpoint that is not one.
        RuntimeError: keys of the checkpoint are missing, unexpected or misshapen.
        OSError: the checkpoint cannot be read.
    """
    if name in PRESETS:
        if kwargs:
            raise ValueError(f"{name}: a published model takes no further arguments, got {', '.join(sorted(kwargs))}")
        # With weights at hand a random initialisation would be thrown away: half the time of loading.
        with torch.device("meta") if checkpoint is not None else nullcontext():
            model = _published(PRESETS[name])
    elif timm.is_model(name.partition(".")[0]):
        model = on_backbone(name, **kwargs)
    else:
        near = difflib.get_close_matches(name, [*PRESETS, *timm.list_models()], n=3, cutoff=0.5)
        raise ValueError(f"unknown depth model {name!r}; did you mean {' or '.join(near) or 'dpt_hybrid_384'}?")
    if checkpoint is not None:
        load_depth_checkpoint(model, checkpoint)
    return model


def on_backbone(
    name: str,
    *,
    max_depth: float | None = None,
    features: int = 256,
    channels: Sequence[int] | None = None,
    readout: str = "project",
    **kwargs: Any,
) -> DPT:
    """A new DPT head on a backbone of the zoo or of timm.

    Args:
        name: of the backbone. Where all blocks work at one scale, four of them are reassembled; otherwise the stages
            at strides 4, 8, 16 and 32 are fused as they are.
        max_depth: metres; the output is then ``max_depth · sigmoid``, otherwise inverse depth up to scale and shift.
        features: channels of the fused maps.
        channels: of the reassembled maps; default: D/8, D/4, D/2, D, DPT-Base's ratios.
        readout: ``project``, ``add`` or ``ignore``, for a backbone with a class token.
        kwargs: of ``timm.create_model`` (``pretrained``, ``drop_path_rate``, ...).

    Raises:
        ValueError: the backbone does not hand out four maps.
    """
    taps = backbones.timm_taps(name, **kwargs)
    dim = taps.taps[-1].dim
    head = DepthHead(features, Relative() if max_depth is None else Bounded(max_depth))
    model = DPT(taps, channels or (dim // 8, dim // 4, dim // 2, dim), head, features, readout)
    model.convention = _convention_of(taps)
    return model


def _convention_of(taps: nn.Module) -> Convention:
    """`GENERIC`, normalised as the backbone was pre-trained, in multiples that it can take as they are."""
    data = resolve_data_config(model=taps.model)
    multiple = GENERIC.multiple if GENERIC.multiple % taps.multiple == 0 else taps.multiple
    return replace(GENERIC, mean=tuple(data["mean"]), std=tuple(data["std"]), multiple=multiple)


def _published(preset: Preset) -> DPT:
    if preset.output is None:
        head = SegmentationHead(preset.features, num_classes=150)
    else:
        head = DepthHead(preset.features, preset.output())
    model = DPT(preset.backbone(), preset.channels, head, preset.features, batch_norm=preset.output is None)
    model.convention = preset.convention
    return model
