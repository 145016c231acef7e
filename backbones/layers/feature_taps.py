"""Networks that give DPT its four feature maps: the published ones exactly, and any model of the zoo or of timm."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d, pad_same
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .any_size import create_dense_network
from .dense_prediction import Tap, TapSpec

PositionResize = Callable[[torch.Tensor, tuple[int, int]], torch.Tensor]


def resize_bilinear(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """DPT's rule for position embeddings at other sizes, ``(1, D, G, G) -> (1, D, *grid)``."""
    return F.interpolate(positions, size=grid, mode="bilinear", align_corners=False)


def resize_dinov2(positions: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """DINOv2's rule: bicubic by a factor that has 0.1 of a patch too much, against rounding the size down.

    ``(1, D, G, G) -> (1, D, *grid)``. At the trained size the embedding is used as it is.
    """
    trained = positions.shape[-2:]
    if tuple(trained) == tuple(grid):
        return positions
    factors = tuple((new + 0.1) / old for new, old in zip(grid, trained, strict=True))
    return F.interpolate(positions, scale_factor=factors, mode="bicubic", antialias=False)


def below(name: str, matcher: dict[str, Any]) -> dict[str, Any]:
    """A ``group_matcher`` of timm's for a network that is the child ``name`` of another; all but the stem as a list."""

    def within(pattern: str) -> str:
        unanchored = re.sub(r"(^|[|(])\^", r"\1", pattern)
        return rf"^{name}\.(?:{unanchored})"

    stem, blocks = matcher["stem"], matcher["blocks"]
    stems = [stem] if isinstance(stem, str) else [pattern for pattern, _ in stem]
    listed = [(blocks, None)] if isinstance(blocks, str) else blocks
    return {
        "stem": "|".join(map(within, stems)),
        "blocks": [(within(pattern), order) for pattern, order in listed],
    }


class Taps(nn.Module):
    """What all have in common: one network inside, under the name ``inner``, that knows its parameters."""

    inner: str
    holds_networks = True

    @property
    def network(self) -> nn.Module:
        return getattr(self, self.inner)

    def no_weight_decay(self) -> set[str]:
        """See timm's method of this name."""
        own = self.network.no_weight_decay() if hasattr(self.network, "no_weight_decay") else set()
        return {f"{self.inner}.{name}" for name in own}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """See timm's method of this name; the stem and the blocks of the network inside."""
        return below(self.inner, self.network.group_matcher(coarse))

    def drop(self, level: int) -> None:
        """Forgets what only a level does that nobody fuses; its map is still handed out, for its size."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See timm's method of this name."""
        self.network.set_grad_checkpointing(enable)


class PublishedViT(VisionTransformer):
    """timm's ViT with the position embedding resized as the checkpoint's own code does, not as timm does."""

    def __init__(self, resize_positions: PositionResize, **kwargs: Any) -> None:
        super().__init__(num_classes=0, global_pool="", dynamic_img_size=True, **kwargs)
        self.resize_positions = resize_positions

    def _pos_embed(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, h, w, D) -> (B, 1 + h·w, D)``, class token in front."""
        side = self.patch_embed.grid_size
        positions = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, side)  # (1, D, G, G)
        positions = self.resize_positions(positions, tuple(x.shape[1:3])).flatten(2).transpose(1, 2)
        tokens = x.flatten(1, 2) + positions
        class_token = (self.cls_token + self.pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([class_token, tokens], dim=1))


class StdConv2dSame(nn.Conv2d):
    """Convolution with standardised weights and TensorFlow's padding, as DPT-Hybrid was released.

    ``(w - mean) / (std + 1e-5)`` per output channel. timm has since moved the epsilon under the root, which changes
    the released model's features by up to 1 %.
    """

    def __init__(self, in_chans: int, channels: int, kernel_size: int, stride: int = 1, **kwargs: Any) -> None:
        super().__init__(in_chans, channels, kernel_size, stride, bias=kwargs.pop("bias", False), **kwargs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        # A norm is one vectorised pass; torch.std_mean's takes several times as long.
        length = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True)
        std = length / math.sqrt(self.weight[0].numel())
        return F.conv2d(x, centred / (std + 1e-5), self.bias, self.stride, 0, self.dilation, self.groups)


class ViTTaps(Taps):
    """The outputs of four blocks of a ViT as published.

    Args:
        blocks: which.
        norm: pass each through the final norm (Depth Anything), or take it raw (DPT).
        class_token: hand out the class token too.
        resize_positions: `resize_bilinear` or `resize_dinov2`.
        kwargs: of timm's ``VisionTransformer``.
    """

    inner = "vit"

    def __init__(
        self, blocks: Sequence[int], norm: bool, class_token: bool, resize_positions: PositionResize, **kwargs: Any
    ) -> None:
        super().__init__()
        self.vit = PublishedViT(resize_positions, final_norm=norm, **kwargs)
        self.blocks, self.norm, self.class_token = list(blocks), norm, class_token
        self.multiple = self.vit.patch_embed.patch_size[0]
        self.in_chans = self.vit.in_chans
        self.taps = [TapSpec(self.vit.embed_dim, class_token=class_token)] * len(blocks)

    def forward(self, images: torch.Tensor) -> list[Tap]:
        taps = self.vit.forward_intermediates(
            images, self.blocks, return_prefix_tokens=True, norm=self.norm, intermediates_only=True, stop_early=True
        )
        return [(x, class_token if self.class_token else None) for x, class_token in taps]


class HybridTaps(Taps):
    """DPT-Hybrid's: two stages of a ResNet-50 and two blocks of the ViT-B that reads its third.

    The ViT is one of patch size 1 on the ResNet's 1024 channels at stride 16, which is what timm's hybrid computes.

    Args:
        layers: blocks of the ResNet's stages.
        widths: of the ResNet's stages.
        blocks: which two of the ViT's.
        kwargs: of timm's ``VisionTransformer``; ``img_size`` in pixels.
    """

    inner = "vit"
    multiple = 16

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 9),
        widths: Sequence[int] = (256, 512, 1024),
        blocks: Sequence[int] = (8, 11),
        img_size: int = 384,
        in_chans: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.resnet = ResNetV2(
            layers,
            tuple(widths),
            in_chans=in_chans,
            num_classes=0,
            global_pool="",
            preact=False,
            stem_type="same",
            conv_layer=StdConv2dSame,
        )
        self.vit = PublishedViT(
            resize_bilinear, img_size=img_size // 16, patch_size=1, in_chans=widths[2], final_norm=False, **kwargs
        )
        self.blocks = list(blocks)
        dim = self.vit.embed_dim
        self.taps = [
            TapSpec(widths[0], tokens=False),
            TapSpec(widths[1], tokens=False),
            TapSpec(dim, class_token=True),
            TapSpec(dim, class_token=True),
        ]

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The ViT's groups, the ResNet one with its stem."""
        groups = super().group_matcher(coarse)
        return {**groups, "stem": rf"{groups['stem']}|^resnet\."}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Of both networks."""
        super().set_grad_checkpointing(enable)
        self.resnet.set_grad_checkpointing(enable)

    def forward(self, images: torch.Tensor) -> list[Tap]:
        fine, middle, x = self.resnet.forward_intermediates(images, [1, 2, 3], intermediates_only=True)
        deep = self.vit.forward_intermediates(
            x, self.blocks, return_prefix_tokens=True, intermediates_only=True, stop_early=True
        )
        return [(fine, None), (middle, None), *deep]


class IsotropicTaps(Taps):
    """Four evenly spaced blocks of any model whose tokens keep one scale: ViT, Vim, causal ViT, ...

    Args:
        model: built without a classifier; what follows the last tap is cut off.
    """

    inner = "model"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        depth = len(model.feature_info)
        if depth < 4:
            raise ValueError(f"{type(model).__name__}: expected at least 4 blocks to tap, found {depth}")
        self.blocks = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        model.prune_intermediate_layers(self.blocks, prune_norm=True, prune_head=True)
        self.model = model
        self.in_chans = getattr(model, "in_chans", 3)
        has_class_token = getattr(model, "cls_token", None) is not None
        asks = inspect.signature(model.forward_intermediates).parameters
        self.class_token = has_class_token and "return_prefix_tokens" in asks
        self.class_tokens = 1 + (getattr(model, "dist_token", None) is not None)  # registers follow: not handed out
        dim, self.multiple = (model.feature_info[-1][key] for key in ("num_chs", "reduction"))
        self.taps = [TapSpec(dim, class_token=self.class_token)] * 4

    def forward(self, images: torch.Tensor) -> list[Tap]:
        options = {"return_prefix_tokens": True} if self.class_token else {}
        taps = self.model.forward_intermediates(
            images, self.blocks, output_fmt="NCHW", intermediates_only=True, **options
        )
        return (
            [(x, prefix[:, : self.class_tokens]) for x, prefix in taps]
            if self.class_token
            else [(x, None) for x in taps]
        )


class PyramidTaps(Taps):
    """The stages at strides 4, 8, 16 and 32 of any hierarchical model: MambaOut, VMamba, Swin, ConvNeXt, ...

    Each passes through a LayerNorm of its own, as the dense recipes of all four families have it.

    Args:
        model: built without a classifier; what follows the last stage is cut off.

    Raises:
        ValueError: it has no such stages.
    """

    STRIDES = (4, 8, 16, 32)
    inner = "model"
    multiple = 32

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        strides = [info["reduction"] for info in model.feature_info]
        if not set(self.STRIDES) <= set(strides):
            raise ValueError(f"{type(model).__name__}: expected stages at strides 4, 8, 16 and 32, found {strides}")
        self.stages = [len(strides) - 1 - strides[::-1].index(stride) for stride in self.STRIDES]  # the last of each
        dims = [model.feature_info[stage]["num_chs"] for stage in self.stages]
        model.prune_intermediate_layers(self.stages, prune_norm=True, prune_head=True)
        self.model = model
        self.in_chans = getattr(model, "in_chans", 3)
        self.norms = nn.ModuleList(LayerNorm2d(dim) for dim in dims)
        self.taps = [TapSpec(dim, tokens=False) for dim in dims]

    def drop(self, level: int) -> None:
        self.norms[level] = nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The model's groups, the norms behind them."""
        groups = super().group_matcher(coarse)
        return {**groups, "blocks": [*groups["blocks"], (r"^norms\.", (99999,))]}

    def forward(self, images: torch.Tensor) -> list[Tap]:
        maps = self.model.forward_intermediates(images, self.stages, output_fmt="NCHW", intermediates_only=True)
        return [(norm(x), None) for norm, x in zip(self.norms, maps, strict=True)]


def timm_taps(name: str, **kwargs: Any) -> nn.Module:
    """Four feature maps of any model that ``timm.create_model`` knows, the zoo's included.

    Args:
        name: of the model.
        kwargs: of ``timm.create_model`` (``pretrained``, ``drop_path_rate``, ...).

    Raises:
        ValueError: the model does not give intermediate maps, or not four.
    """
    model = create_dense_network(name, **kwargs)
    strides = {info["reduction"] for info in model.feature_info}
    return IsotropicTaps(model) if len(strides) == 1 else PyramidTaps(model)


VIT_BASE: dict[str, Any] = {"embed_dim": 768, "depth": 12, "num_heads": 12}
VIT_LARGE: dict[str, Any] = {"embed_dim": 1024, "depth": 24, "num_heads": 16}

dpt_base = partial(
    ViTTaps, (2, 5, 8, 11), norm=False, class_token=True, resize_positions=resize_bilinear, img_size=384, **VIT_BASE
)
dpt_large = partial(
    ViTTaps, (5, 11, 17, 23), norm=False, class_token=True, resize_positions=resize_bilinear, img_size=384, **VIT_LARGE
)
dpt_hybrid = partial(HybridTaps, **VIT_BASE)
dinov2 = partial(
    ViTTaps,
    norm=True,
    class_token=False,
    resize_positions=resize_dinov2,
    img_size=518,
    patch_size=14,
    init_values=1e-5,
)
