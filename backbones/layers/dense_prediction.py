"""The parts of the Dense Prediction Transformer (`dpt`): read-out, reassembly, fusion, and the heads.

Where they differ in how, not in what, is computed from the official code:

- Fusion's 1×1 convolution comes before its up-sampling, on a quarter of the pixels. Bilinear weights add up to 1, so
  the two commute.
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
        shared = class_tokens[:, :1].expand(-1, x[0, 0].numel(), -1)  # (B, hw, D)
        y = F.gelu(self.project(torch.cat([x.flatten(2).mT, shared], dim=2)))
        return y.mT.unflatten(2, x.shape[-2:])


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


class CutOff(nn.Module):
    """Stands for a level of the pyramid that pruning cut off: an empty tensor of its map's height and width.

    Args:
        scale: of the level, or 1 for a map that is fused as it is.
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: torch.Tensor, class_tokens: torch.Tensor | None) -> torch.Tensor:
        return x.new_empty(0, 0, *(self.scale * side for side in x.shape[-2:]))


class AsItIs(nn.Module):
    """A feature map that is fused as it is."""

    def forward(self, x: torch.Tensor, class_tokens: torch.Tensor | None) -> torch.Tensor:
        return x


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

    num_classes = 0

    @property
    def unit(self) -> str:
        """``relative`` (inverse depth) or ``metre``."""
        return self.output.unit

    @property
    def last(self) -> nn.Module:
        """Its last layer."""
        return self.conv3

    def forward(self, maps: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        x = upsample(self.conv1(maps[0]), size)
        return self.output(self.conv3(F.relu(self.conv2(x)))).squeeze(1)


class SegmentationHead(nn.Module):
    """Class scores, ``(B, C, H/2, W/2) -> (B, classes, H, W)``; while training with those of an auxiliary classifier
    on the fusion step before the last (section 4.2)."""

    unit = "classes"

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.main = self._classifier(channels, num_classes)
        self.auxiliary = self._classifier(channels, num_classes)

    @property
    def last(self) -> nn.Module:
        """Its last layer."""
        return self.main[-1]

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
