"""DPT and Depth Anything V2: depth, or class scores, for every pixel, from four feature maps of a backbone.

Papers: "Vision Transformers for Dense Prediction", arXiv 2103.13413 (official code: isl-org/DPT, MIT), and "Depth
Anything V2", arXiv 2406.09414. Three steps (2103.13413, section 3): *reassemble* turns tokens into maps at strides 4,
8, 16 and 32, *fusion* adds them up from coarse to fine (RefineNet, arXiv 1611.06612), a *head* makes depth or class
scores of the finest. Depth Anything has the same head with other constants on a DINOv2.

The published models are registered under their names, and ``dpt`` puts the head on any backbone:
``timm.create_model("dpt", backbone="vmamba_tiny_s1l8", max_depth=10.0)``.

A dense network answers timm's calls for features: ``forward_features``, ``forward_intermediates``, ``features_only``,
``prune_intermediate_layers``, ``group_matcher``, ``no_weight_decay``, ``set_grad_checkpointing``. It pools nothing:
there is no ``global_pool``, and ``forward_head`` has no ``pre_logits``. Only a segmentation model has classes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, IMAGENET_INCEPTION_MEAN, IMAGENET_INCEPTION_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import nn

from .checkpoints import WeightFile, load_weights, through_our_reader, unwrap
from .checkpoints.dpt_names import to_our_names, without_unused
from .layers import feature_taps
from .layers.dense_prediction import (
    SCALES,
    AsItIs,
    Bounded,
    CutOff,
    DepthHead,
    Fusion,
    Inverted,
    Reassemble,
    Relative,
    SegmentationHead,
)

__all__ = ["DPT", "on_backbone"]


class DPT(nn.Module):
    """A backbone, reassembled to four scales, fused, and a head.

    Args:
        backbone: ``images -> four Taps``, fine to coarse, with ``taps`` (their `TapSpec`) and ``multiple`` (the pixels
            that both sides of its images must be a multiple of); see `feature_taps`.
        channels: of the four reassembled maps; for maps that are not tokens, ignored.
        head: `DepthHead` or `SegmentationHead`.
        features: channels of the fused maps.
        readout: see `Readout`.
        batch_norm: in the fusion's residual units.
    """

    holds_networks = True  # trainers that treat a pre-trained network otherwise than a new head look inside

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        head: nn.Module,
        features: int = 256,
        readout: str = "project",
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.in_chans = getattr(backbone, "in_chans", 3)
        self.num_classes = head.num_classes
        self.num_features = self.head_hidden_size = features
        self.feature_info = [
            {"num_chs": features, "reduction": 2 * 2**i, "module": f"fusions.{i}"} for i in range(len(SCALES))
        ]
        specs = list(zip(backbone.taps, channels, SCALES, strict=True))
        self.reassemble = nn.ModuleList(
            Reassemble(tap, width, scale, readout) if tap.tokens else AsItIs() for tap, width, scale in specs
        )
        widths = [width if tap.tokens else tap.dim for tap, width, _ in specs]
        self.adapters = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)
        coarsest = len(widths) - 1
        self.fusions = nn.ModuleList(Fusion(features, i < coarsest, batch_norm) for i in range(len(widths)))
        self.finest = 0  # levels above it are cut off
        self.head = head

    @property
    def unit(self) -> str:
        """``relative`` (inverse depth up to scale and shift), ``metre`` or ``classes``."""
        return self.head.unit

    @torch.jit.ignore
    def load_pretrained(self, checkpoint_path: str | WeightFile) -> None:
        """Loads an official file, Hugging Face's or one of ours, executing nothing in it."""
        load_weights(self, checkpoint_path, checkpoint_filter_fn)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names and patterns of the backbone's parameters exempt from weight decay."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Parameter groups for layer-wise learning rates: the backbone's own, then everything of DPT."""
        groups = feature_taps.below("backbone", self.backbone.group_matcher(coarse))
        # Behind 99999, which makes timm put a network's last norm into the group before.
        groups["blocks"] = [*groups["blocks"], (r"^(?:reassemble|adapters|fusions|head)\.", (100_000,))]
        return groups

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of storing their activations."""
        self.backbone.set_grad_checkpointing(enable)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The last convolution: of class scores, or of the one number per pixel that becomes depth."""
        return self.head.last if hasattr(self.head, "last") else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the head by a new one for ``num_classes``; 0 removes it.

        Raises:
            ValueError: classes for a model of depth, or a pooling.
        """
        if global_pool:
            raise ValueError(f"global_pool: a dense network pools nothing, got {global_pool!r}")
        if num_classes and not isinstance(self.head, SegmentationHead):
            raise ValueError(f"num_classes: a model of depth has none, got {num_classes}")
        weight, self.num_classes = self.get_weight(), num_classes
        head = SegmentationHead(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(device=weight.device, dtype=weight.dtype).train(self.training)

    def get_weight(self) -> torch.Tensor:
        """One of its parameters."""
        return self.adapters[-1].weight

    def forward_reassembled(self, images: torch.Tensor) -> list[torch.Tensor]:
        """``(B, 3, H, W)`` to the four maps that fusion starts from, fine to coarse."""
        taps = self.backbone(images)
        return [step(x, class_tokens) for step, (x, class_tokens) in zip(self.reassemble, taps, strict=True)]

    def fuse(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The four maps to the four sums, fine to coarse; each has the size of the next finer map, the finest twice
        its own."""
        sizes = [[2 * side for side in maps[0].shape[-2:]], *(x.shape[-2:] for x in maps[:-1])]
        fused: list[torch.Tensor] = []
        for i in reversed(range(self.finest, len(maps))):
            # In NHWC memory, which all that follows keeps, convolutions and up-sampling take a tenth less time on CPUs.
            x = self.adapters[i](maps[i].contiguous(memory_format=torch.channels_last))
            fused.insert(0, self.fusions[i](fused[0] if fused else x, x if fused else None, sizes[i]))
        return fused

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Runs the network and collects fused maps, at strides 2, 4, 8 and 16.

        Args:
            x: images (B, C, H, W), as `forward` takes them; maps are of the size that the backbone takes.
            indices: the last n maps if an integer, all if ``None``, else those listed; fine to coarse.
            norm: there is none.
            stop_early: fusion goes from coarse to fine, there is nothing to stop.
            output_fmt: ``NCHW``.
            intermediates_only: leave out the final features.

        Returns:
            ``(features, intermediates)``, features as `forward_features` gives them.

        Raises:
            ValueError: another ``output_fmt``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be NCHW, got {output_fmt!r}")
        take, _ = feature_take_indices(len(SCALES), indices)
        fused = self.forward_features(x)
        intermediates = [fused[i - self.finest] for i in sorted(take)]
        return intermediates if intermediates_only else (fused, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drops what is finer than the finest map asked for, with the head; returns the indices kept."""
        take, _ = feature_take_indices(len(SCALES), indices)
        self.finest = min(take)
        for i in range(self.finest):
            if isinstance(self.reassemble[i], Reassemble):
                self.reassemble[i] = CutOff(int(SCALES[i]))
            self.adapters[i], self.fusions[i] = nn.Identity(), nn.Identity()
            self.backbone.drop(i)
        if prune_head or self.finest:
            self.head, self.num_classes = nn.Identity(), 0
        return take

    def forward_features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Images (B, C, H, W) to the four fused maps (B, features, H/2, W/2) … (B, features, H/16, W/16)."""
        return self.fuse(self.forward_reassembled(self._fit(images)))

    def forward_head(self, maps: Sequence[torch.Tensor], size: Sequence[int] | None = None) -> Any:
        """Fused maps to the prediction at ``size``; default: twice that of the finest map, which is the images'."""
        if isinstance(self.head, nn.Identity):
            return maps
        return self.head(maps, size or tuple(2 * side for side in maps[0].shape[-2:]))

    def _fit(self, images: torch.Tensor) -> torch.Tensor:
        """Resized, bicubically, to the nearest size that the backbone can take."""
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images: expected (B, C, H, W) without an empty side, got {tuple(images.shape)}")
        size = tuple(nearest_multiple(side, self.backbone.multiple) for side in images.shape[-2:])
        if size == tuple(images.shape[-2:]):
            return images
        return F.interpolate(images, size=size, mode="bicubic", align_corners=False)

    def forward(self, images: torch.Tensor) -> Any:
        """Predicts at the images' size.

        Args:
            images: normalised (B, C, H, W), any H and W. Sides that the backbone cannot take are resized to the
                nearest multiple it can, bicubically, and the prediction back, as the official scripts do.

        Returns:
            (B, H, W) inverse depth or metres (see `unit`), or (B, classes, H, W) scores; a segmentation model in
            training mode gives ``(scores, auxiliary scores)``; without a head the fused maps.

        Raises:
            ValueError: not a batch of images.
        """
        size, images = images.shape[-2:], self._fit(images)
        inner = images.shape[-2:]
        prediction = self.forward_head(self.fuse(self.forward_reassembled(images)), inner)
        if inner == size or isinstance(self.head, nn.Identity):
            return prediction
        if isinstance(prediction, tuple):
            return tuple(_resize_back(part, size) for part in prediction)
        return _resize_back(prediction, size)


def nearest_multiple(side: int, multiple: int) -> int:
    """The multiple of ``multiple`` (at least one) nearest to ``side``; ties to the even one, as NumPy rounds."""
    return max(1, round(side / multiple)) * multiple


def _resize_back(prediction: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """``(B, h, w)`` or ``(B, classes, h, w)`` to ``size``. Bicubic overshoots at edges: the range is kept, so that a
    depth stays positive."""
    x = prediction.unsqueeze(1) if prediction.ndim == 3 else prediction
    low, high = x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True)
    x = F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False).clamp(low, high)
    return x.squeeze(1) if prediction.ndim == 3 else x


def checkpoint_filter_fn(state_dict: dict[str, Any], model: DPT) -> dict[str, torch.Tensor]:
    """Turns the layouts of the authors and of Hugging Face into ours, in float32; ours passes unchanged.

    Args:
        state_dict: the file's content; wrappers are opened (`checkpoints.unwrap`).
        model: the network to load into; what no network uses is left out (`checkpoints.dpt_names`).

    Raises:
        ValueError: no layout of a DPT model.
    """
    state = without_unused(to_our_names(unwrap(state_dict)), model.state_dict())
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def on_backbone(
    name: str,
    *,
    max_depth: float | None = None,
    num_classes: int = 0,
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
        num_classes: a segmentation head for so many classes instead.
        features: channels of the fused maps.
        channels: of the reassembled maps; default: D/8, D/4, D/2, D, DPT-Base's ratios.
        readout: ``project``, ``add`` or ``ignore``, for a backbone with a class token.
        kwargs: of ``timm.create_model`` (``pretrained``, ``drop_path_rate``, ...).

    Raises:
        ValueError: the backbone does not hand out four maps.
    """
    taps = feature_taps.timm_taps(name, **kwargs)
    dim = taps.taps[-1].dim
    if num_classes:
        head: nn.Module = SegmentationHead(features, num_classes)
    else:
        head = DepthHead(features, Relative() if max_depth is None else Bounded(max_depth))
    widths = channels or (dim // 8, dim // 4, dim // 2, dim)
    return DPT(taps, widths, head, features, readout, batch_norm=bool(num_classes))


@dataclass(frozen=True)
class Preset:
    """A published model.

    Attributes:
        backbone: makes the four feature maps.
        channels: of the reassembled maps.
        output: makes what turns the head's number into depth; ``None`` for the segmentation models.
        cfg: its ``pretrained_cfg``.
        features: channels of the fused maps.
    """

    backbone: Callable[..., nn.Module]
    channels: Sequence[int]
    output: Callable[[], nn.Module] | None
    cfg: dict[str, Any]
    features: int = 256


def _cfg(height: int, width: int, first_conv: str | None, **kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 0,
        "input_size": (3, height, width),
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_INCEPTION_MEAN,
        "std": IMAGENET_INCEPTION_STD,
        "first_conv": first_conv,
        "classifier": None,
        "paper_ids": "arXiv:2103.13413",
        "paper_name": "Vision Transformers for Dense Prediction",
        "origin_url": "https://github.com/isl-org/DPT",
        "license": "mit",
        **kwargs,
    }


def _dpt(file: str | None, height: int = 384, width: int = 384, hybrid: bool = False, **kwargs: Any) -> dict[str, Any]:
    """The authors' release; DPT-Base has none."""
    if file:
        kwargs |= {"url": f"https://github.com/intel-isl/DPT/releases/download/1_0/{file}.pt", "custom_load": True}
    stem = "backbone.resnet.stem.conv" if hybrid else "backbone.vit.patch_embed.proj"
    return _cfg(height, width, stem, **kwargs)


_BASE, _LARGE, _HYBRID = (96, 192, 384, 768), (256, 512, 1024, 1024), (256, 512, 768, 768)
_CLASSES = {"num_classes": 150, "classifier": ("head.main.4", "head.auxiliary.4")}
base, large, hybrid = feature_taps.dpt_base, feature_taps.dpt_large, feature_taps.dpt_hybrid

# The metric models' constants: what the authors fitted, averaged over the training set of each.
_NYU, _KITTI = partial(Inverted, 0.000305, 0.1378), partial(Inverted, 0.00006016, 0.00579)
PRESETS = {
    "dpt_base_384": Preset(base, _BASE, Relative, _dpt(None)),
    "dpt_large_384": Preset(large, _LARGE, Relative, _dpt("dpt_large-midas-2f21e586")),
    "dpt_hybrid_384": Preset(hybrid, _HYBRID, Relative, _dpt("dpt_hybrid-midas-501f0c75", hybrid=True)),
    "dpt_hybrid_384_nyu": Preset(hybrid, _HYBRID, _NYU, _dpt("dpt_hybrid_nyu-2ce69ec7", 480, 640, True)),
    "dpt_hybrid_384_kitti": Preset(hybrid, _HYBRID, _KITTI, _dpt("dpt_hybrid_kitti-cb926ef4", 352, 1216, True)),
    "dpt_large_384_ade20k": Preset(large, _LARGE, None, _dpt("dpt_large-ade20k-b12dca68", 480, 480, **_CLASSES)),
    "dpt_hybrid_384_ade20k": Preset(
        hybrid, _HYBRID, None, _dpt("dpt_hybrid-ade20k-53898607", 480, 480, True, **_CLASSES)
    ),
}

_DEPTH_ANYTHING = {  # arguments of DINOv2, its taps, channels of the reassembled and of the fused maps
    "small": ({"embed_dim": 384, "depth": 12, "num_heads": 6}, (2, 5, 8, 11), (48, 96, 192, 384), 64),
    "base": (feature_taps.VIT_BASE, (2, 5, 8, 11), _BASE, 128),
    "large": (feature_taps.VIT_LARGE, (4, 11, 17, 23), _LARGE, 256),
}
_DEPTH_ANYTHING_OUTPUTS = {"": Relative, "_hypersim": partial(Bounded, 20.0), "_vkitti": partial(Bounded, 80.0)}


def _depth_anything(size: str, suffix: str) -> dict[str, Any]:
    """The authors' files on the hub: ``depth_anything_v2_vits.pth``, ``depth_anything_v2_metric_vkitti_vitl.pth`` …"""
    data = {"": "", "_hypersim": "-Metric-Hypersim", "_vkitti": "-Metric-VKITTI"}[suffix]
    metric = f"_metric{suffix}" if suffix else ""
    return _cfg(
        518,
        518,
        "backbone.vit.patch_embed.proj",
        hf_hub_id=f"depth-anything/Depth-Anything-V2{data}-{size.capitalize()}",
        hf_hub_filename=f"depth_anything_v2{metric}_vit{size[0]}.pth",
        custom_load="hf",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        paper_ids="arXiv:2406.09414",
        paper_name="Depth Anything V2",
        origin_url="https://github.com/DepthAnything/Depth-Anything-V2",
        license="apache-2.0" if size == "small" else "cc-by-nc-4.0",
    )


for _size, (_vit, _blocks, _channels, _features) in _DEPTH_ANYTHING.items():
    for _suffix, _output in _DEPTH_ANYTHING_OUTPUTS.items():
        PRESETS[f"depth_anything_v2_{_size}{_suffix}"] = Preset(
            partial(feature_taps.dinov2, _blocks, **_vit),
            _channels,
            _output,
            _depth_anything(_size, _suffix),
            _features,
        )

_ANY = _cfg(384, 384, None, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)
default_cfgs = generate_default_cfgs({**{name: preset.cfg for name, preset in PRESETS.items()}, "dpt": _ANY})


def _published(
    name: str,
    num_classes: int = 0,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> DPT:
    preset = PRESETS[name]
    if preset.output is not None and num_classes:
        raise ValueError(f"num_classes: {name} predicts depth and has none, got {num_classes}")
    with torch.device(device or torch.get_default_device()):
        if preset.output is not None:
            head: nn.Module = DepthHead(preset.features, preset.output())
        else:
            head = SegmentationHead(preset.features, num_classes or 150)
        backbone = preset.backbone(in_chans=in_chans, drop_path_rate=drop_path_rate)
        model = DPT(backbone, preset.channels, head, preset.features, batch_norm=preset.output is None)
    if preset.output is None and not num_classes:
        model.reset_classifier(0)
    return model.to(dtype=dtype)


def _on_any(
    backbone: str = "mambaout_tiny_gatedcnn",
    pretrained_backbone: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **kwargs: Any,
) -> DPT:
    try:
        with torch.device(device or torch.get_default_device()):
            return on_backbone(backbone, pretrained=pretrained_backbone, **kwargs).to(dtype=dtype)
    except ValueError as error:  # callers who try whether a model has an image size expect what a constructor raises
        raise (TypeError(str(error)) if "'img_size'" in str(error) else error) from error


def _create(make: Callable[..., DPT], name: str, pretrained: bool, **kwargs: Any) -> nn.Module:
    return build_model_with_cfg(
        make,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **through_our_reader(kwargs),
    )


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return _create(partial(_published, name), name, pretrained, **kwargs)

    what = "class scores" if PRESETS[name].output is None else "depth"
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{re.sub('_', ' ', name)}: images (B, 3, H, W) to {what}."
    return create


for _name in PRESETS:
    globals()[_name] = register_model(_entrypoint(_name))


@register_model
def dpt(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """DPT's head on any ``backbone``, by name; see `on_backbone`. ``pretrained_backbone=True`` loads its weights."""
    return _create(_on_any, "dpt", pretrained, **kwargs)
