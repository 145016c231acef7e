"""Dense Prediction Transformer: feature maps of four depths, brought to four scales and fused to one map.

Paper: "Vision Transformers for Dense Prediction", arXiv 2103.13413. Official code: isl-org/DPT (MIT). Three steps
(section 3): *reassemble* turns tokens into maps at strides 4, 8, 16 and 32, *fusion* adds them up from coarse to fine
(RefineNet, arXiv 1611.06612), a *head* makes depth or class scores of the finest. The head of Depth Anything V2
(arXiv 2406.09414) is the same with other constants.

Where we differ in how, not in what, it is computed:

- Fusion's 1×1 convolution comes before its up-sampling, on a quarter of the pixels. Bilinear weights add up to 1, so
  the two commute.
- The read-out's Linear(2D, D) of [token, class token] is applied as two products, the class token's once per image.
- Every up-sampling names its size instead of a factor of 2. The sizes are the same wherever the official code runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

Tap = tuple[torch.Tensor, torch.Tensor | None]
"""A feature map (B, D, h, w), with its class tokens (B, P, D) where there are any (P = 2: class and distillation)."""

READOUTS = ("ignore", "add", "project")
SCALES = (4, 2, 1, 0.5)  # of the four maps that are made of tokens


@dataclass(frozen=True)
class TapSpec:
    """One of the four feature maps a backbone hands to the head.

    Attributes:
        dim: its channels D.
        tokens: it comes from tokens and has to be reassembled; otherwise it is fused as it is.
        class_token: a class token comes with it.
    """

    dim: int
    tokens: bool = True
    class_token: bool = False


def upsample(x: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bilinear with aligned corners, as everywhere inside DPT: ``(B, C, h, w) -> (B, C, *size)``."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class Readout(nn.Module):
    """What becomes of the class token (section 3, "Read"), ``(B, D, h, w), (B, P, D) -> (B, D, h, w)``.

    Args:
        dim: channels D.
        mode: ``ignore`` drops it, ``add`` adds it to every token (the mean of class and distillation token, if there
            are both), ``project`` maps every token with the class token appended back to D channels.

    Raises:
        ValueError: unknown mode.
    """

    def __init__(self, dim: int, mode: str) -> None:
        super().__init__()
        if mode not in READOUTS:
            raise ValueError(f"readout: expected one of {', '.join(READOUTS)}, got {mode!r}")
        self.mode = mode
        self.project = nn.Linear(2 * dim, dim) if mode == "project" else None

    def forward(self, x: torch.Tensor, class_tokens: torch.Tensor | None) -> torch.Tensor:
        if self.mode == "ignore" or class_tokens is None:
            return x
        if self.project is None:
            return x + class_tokens.mean(1)[:, :, None, None]
        of_token, of_class = self.project.weight.chunk(2, dim=1)  # (D, D) each
        shared = F.linear(class_tokens[:, 0], of_class, self.project.bias)  # (B, D)
        y = F.conv2d(x, of_token[:, :, None, None]) + shared[:, :, None, None]
        return F.gelu(y)


class Reassemble(nn.Module):
    """Tokens to a map at a stride of choice (section 3, "Concatenate" and "Resample").

    ``(B, D, h, w) -> (B, C, scale·h, scale·w)``, halves rounded up.

    Args:
        tap: the map that comes in.
        channels: C.
        scale: 4, 2, 1 or 0.5.
        readout: see `Readout`; without a class token there is nothing to read.
    """

    def __init__(self, tap: TapSpec, channels: int, scale: float, readout: str) -> None:
        super().__init__()
        self.readout = Readout(tap.dim, readout if tap.class_token else "ignore")
        self.project = nn.Conv2d(tap.dim, channels, 1)
        self.resize: nn.Module = nn.Identity()
        if scale > 1:
            self.resize = nn.ConvTranspose2d(channels, channels, int(scale), stride=int(scale))
        elif scale < 1:
            self.resize = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor, class_tokens: torch.Tensor | None) -> torch.Tensor:
        return self.resize(self.project(self.readout(x, class_tokens)))


class ResidualConvUnit(nn.Module):
    """ReLU, conv, ReLU, conv, plus the input; ``(B, C, h, w)`` both ways. With batch norm the convolutions have no
    bias."""

    def __init__(self, channels: int, batch_norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        self.norm1 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=not batch_norm)
        self.norm2 = nn.BatchNorm2d(channels) if batch_norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(self.conv1(F.relu(x)))
        return self.norm2(self.conv2(F.relu(y))) + x


class Fusion(nn.Module):
    """Adds a finer map to what came from below, and up-samples (section 3, figure 1 right).

    Args:
        channels: C of all maps.
        skip: another map comes in; not at the coarsest level, where the official file has weights that nothing uses.
        batch_norm: in the residual units.
    """

    def __init__(self, channels: int, skip: bool, batch_norm: bool) -> None:
        super().__init__()
        self.skip_unit = ResidualConvUnit(channels, batch_norm) if skip else None
        self.unit = ResidualConvUnit(channels, batch_norm)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor, skip: torch.Tensor | None, size: Sequence[int]) -> torch.Tensor:
        """``(B, C, h, w), (B, C, h, w) -> (B, C, *size)``."""
        if self.skip_unit is not None:
            x = x + self.skip_unit(skip)
        return upsample(self.project(self.unit(x)), size)


class Relative(nn.Module):
    """Raw prediction to inverse depth, known up to a positive scale and a shift."""

    unit = "relative"

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return F.relu(y)


class Inverted(nn.Module):
    """Raw prediction to metres: ``1 / (scale · inverse depth + shift)``, the metric models of arXiv 2103.13413."""

    unit = "metre"

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.scale, self.shift = scale, shift

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return 1 / (self.scale * F.relu(y) + self.shift).clamp(min=1e-8)


class Bounded(nn.Module):
    """Raw prediction to metres: ``max_depth · sigmoid``, the metric models of arXiv 2406.09414."""

    unit = "metre"

    def __init__(self, max_depth: float) -> None:
        super().__init__()
        if not max_depth > 0:
            raise ValueError(f"max_depth: expected metres above 0, got {max_depth}")
        self.max_depth = max_depth

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.max_depth * y.sigmoid()


class DepthHead(nn.Module):
    """One number per pixel, ``(B, C, H/2, W/2) -> (B, H, W)``.

    Args:
        channels: C.
        output: what the number means: `Relative`, `Inverted` or `Bounded`.
    """

    def __init__(self, channels: int, output: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(channels // 2, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 1, 1)
        self.output = output

    @property
    def unit(self) -> str:
        """``relative`` (inverse depth) or ``metre``."""
        return self.output.unit

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        x = upsample(self.conv1(maps[0]), size)
        return self.output(self.conv3(F.relu(self.conv2(x)))).squeeze(1)


class SegmentationHead(nn.Module):
    """Class scores, ``(B, C, H/2, W/2) -> (B, classes, H, W)``; while training with those of an auxiliary classifier
    on the fusion step before the last (section 4.2)."""

    unit = "classes"

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.main = self._classifier(channels, num_classes)
        self.auxiliary = self._classifier(channels, num_classes)

    @staticmethod
    def _classifier(channels: int, num_classes: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> Any:
        scores = upsample(self.main(maps[0]), size)
        return (scores, upsample(self.auxiliary(maps[1]), size)) if self.training else scores


class DPT(nn.Module):
    """A backbone, reassembled to four scales, fused, and a head.

    Args:
        backbone: ``images -> four Taps``, fine to coarse, with ``taps`` (their `TapSpec`) and ``multiple`` (the pixels
            that both sides of its images must be a multiple of); see `backbones`.
        channels: of the four reassembled maps; for maps that are not tokens, ignored.
        head: `DepthHead` or `SegmentationHead`.
        features: channels of the fused maps.
        readout: see `Readout`.
        batch_norm: in the fusion's residual units.
    """

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
        specs = list(zip(backbone.taps, channels, SCALES, strict=True))
        self.reassemble = nn.ModuleList(
            Reassemble(tap, width, scale, readout) if tap.tokens else nn.Identity() for tap, width, scale in specs
        )
        widths = [width if tap.tokens else tap.dim for tap, width, _ in specs]
        self.adapters = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)
        coarsest = len(widths) - 1
        self.fusions = nn.ModuleList(Fusion(features, i < coarsest, batch_norm) for i in range(len(widths)))
        self.head = head

    @property
    def unit(self) -> str:
        """``relative`` (inverse depth up to scale and shift), ``metre`` or ``classes``."""
        return self.head.unit

    def forward_reassembled(self, images: torch.Tensor) -> list[torch.Tensor]:
        """``(B, 3, H, W)`` to the four maps that fusion starts from, fine to coarse."""
        return [
            step(x, class_tokens) if isinstance(step, Reassemble) else x
            for step, (x, class_tokens) in zip(self.reassemble, self.backbone(images), strict=True)
        ]

    def fuse(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The four maps to the four sums, fine to coarse; each has the size of the next finer map, the finest twice
        its own."""
        # In NHWC memory, which all that follows keeps, convolutions and up-sampling take a tenth less time on CPUs.
        maps = [
            adapter(x.contiguous(memory_format=torch.channels_last))
            for adapter, x in zip(self.adapters, maps, strict=True)
        ]
        sizes = [[2 * side for side in maps[0].shape[-2:]], *(x.shape[-2:] for x in maps[:-1])]
        fused = [self.fusions[-1](maps[-1], None, sizes[-1])]
        for i in reversed(range(len(maps) - 1)):
            fused.insert(0, self.fusions[i](fused[0], maps[i], sizes[i]))
        return fused

    def forward(self, images: torch.Tensor) -> Any:
        """Predicts at the images' size.

        Args:
            images: normalised (B, 3, H, W), any H and W. Sides that the backbone cannot take are resized to the
                nearest multiple it can, bicubically, and the prediction back, as the official scripts do.

        Returns:
            (B, H, W) inverse depth or metres (see `unit`), or (B, classes, H, W) scores; a segmentation model in
            training mode gives ``(scores, auxiliary scores)``.

        Raises:
            ValueError: not a batch of images.
        """
        if images.ndim != 4 or 0 in images.shape:
            raise ValueError(f"images: expected (B, C, H, W) without an empty side, got {tuple(images.shape)}")
        size = images.shape[-2:]
        inner = tuple(nearest_multiple(side, self.backbone.multiple) for side in size)
        if inner == tuple(size):
            return self.head(self.fuse(self.forward_reassembled(images)), size)
        images = F.interpolate(images, size=inner, mode="bicubic", align_corners=False)
        prediction = self.head(self.fuse(self.forward_reassembled(images)), inner)
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
