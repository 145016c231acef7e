"""From a photograph and its depth to what a network is fed: published resizing, crops and augmentations.

A sample is a dictionary with ``image``, float32 (3, H, W) in [0, 1], ``depth``, float32 (H, W) in metres with 0 where
there is none, and whatever else its dataset puts in. Every transform changes image and depth together. Randomness is
torch's, which a ``DataLoader`` seeds for each worker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import TRANSFORMS
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as TF

Sample = dict[str, Any]
Transform = Callable[[Sample], Sample]

HALF = (0.5, 0.5, 0.5)
MAX_PIXELS = 2048 * 2048  # of a network's input: beyond it, attention alone would fill most memories
METHODS = ("minimal", "lower_bound", "upper_bound")


def _to_multiple(length: float, multiple: int, at_least: int = 0, at_most: int | None = None) -> int:
    """``length`` in pixels to the nearest multiple; rounded down if that exceeds ``at_most``, up if below
    ``at_least``."""
    nearest = round(length / multiple) * multiple
    if at_most is not None and nearest > at_most:
        nearest = int(length // multiple) * multiple
    if nearest < at_least:
        nearest = -int(-length // multiple) * multiple
    return max(nearest, multiple)


@dataclass(frozen=True)
class Convention:
    """How a published model wants its images, and how its prediction gets back to the image's size.

    Attributes:
        height, width: of the target, in pixels; the aspect ratio is kept, so at most one of the two is met.
        multiple: both sides become multiples of it.
        method: which of the two scales is taken: ``minimal`` the one nearer to 1, ``lower_bound`` the larger (no side
            below the target), ``upper_bound`` the smaller.
        mean, std: of the normalisation, of RGB in [0, 1].
        aligned: the prediction is up-sampled bilinearly with aligned corners, as Depth Anything does; otherwise
            bicubically, as DPT does.
        kb_crop: images of KITTI are cropped to their bottom 352 rows and middle 1216 columns before.

    Raises:
        ValueError: unknown method.
    """

    height: int
    width: int
    multiple: int = 32
    method: str = "minimal"
    mean: tuple[float, float, float] = HALF
    std: tuple[float, float, float] = HALF
    aligned: bool = False
    kb_crop: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(H, W) in pixels that an image of ``height × width`` is resized to."""
        vertical, horizontal = self.height / height, self.width / width
        if self.method == "minimal":
            scale = horizontal if abs(1 - horizontal) < abs(1 - vertical) else vertical
            return _to_multiple(scale * height, self.multiple), _to_multiple(scale * width, self.multiple)
        bound = max if self.method == "lower_bound" else min
        scale = bound(vertical, horizontal)
        if self.method == "lower_bound":
            limits = [{"at_least": self.height}, {"at_least": self.width}]
        else:
            limits = [{"at_most": self.height}, {"at_most": self.width}]
        return tuple(
            _to_multiple(scale * side, self.multiple, **limit)
            for side, limit in zip((height, width), limits, strict=True)
        )

    def prepare(self, image: torch.Tensor) -> torch.Tensor:
        """RGB (3, H, W) in [0, 1] to a normalised batch of one, (1, 3, h, w).

        Raises:
            ValueError: the image is so narrow that it would be enlarged beyond `MAX_PIXELS`.
        """
        size = self.size(*image.shape[-2:])
        if size[0] * size[1] > MAX_PIXELS:
            raise ValueError(
                f"image of {image.shape[-2]}×{image.shape[-1]} pixels: this model's convention enlarges it to "
                f"{size[0]}×{size[1]}, more than {MAX_PIXELS} pixels; crop or pad it to a less extreme aspect ratio"
            )
        resized = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)
        return TF.normalize(resized, self.mean, self.std)

    def restore(self, prediction: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """``(B, h, w)`` to ``(B, *size)``, within the prediction's own range: bicubic overshoots at edges."""
        x = prediction[:, None]
        if self.aligned:
            return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)[:, 0]
        x_to = F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False)
        return x_to.clamp(x.amin((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True))[:, 0]


def as_convention(given: Convention | Mapping[str, Any]) -> Convention:
    """A convention, or one from a dictionary of its fields.

    Raises:
        ValueError: a field that it does not have, or lacks.
    """
    if isinstance(given, Convention):
        return given
    try:
        return Convention(**{key: tuple(value) if key in ("mean", "std") else value for key, value in given.items()})
    except TypeError as error:
        raise ValueError(f"convention: expected {', '.join(f.name for f in fields(Convention))}: {error}") from None


DPT_384 = Convention(384, 384)
DPT_480 = Convention(480, 480)
DPT_NYU = Convention(480, 640)
DPT_KITTI = Convention(352, 1216, kb_crop=True)
DEPTH_ANYTHING = Convention(518, 518, 14, "lower_bound", IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, aligned=True)
GENERIC = Convention(384, 384, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD)


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Transform]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Sample) -> Sample:
        for transform in self.transforms:
            sample = transform(sample)
        return sample


class Crop:
    """Cuts out rows ``top:bottom`` and columns ``left:right``.

    Raises:
        ValueError: the image is too small, when called.
    """

    def __init__(self, top: int, bottom: int, left: int, right: int) -> None:
        self.top, self.bottom, self.left, self.right = top, bottom, left, right

    def __call__(self, sample: Sample) -> Sample:
        height, width = sample["image"].shape[-2:]
        if height < self.bottom or width < self.right:
            raise ValueError(f"crop to rows {self.top}:{self.bottom}, columns {self.left}:{self.right}: the image has "
                             f"only {height}×{width} pixels")  # fmt: skip
        return _cut(sample, self.top, self.left, self.bottom - self.top, self.right - self.left)


def nyu_boundary_crop() -> Crop:
    """Cuts the white frame off a 480×640 image of NYUv2, as the BTS line of work does for training."""
    return Crop(45, 472, 43, 608)


class KBCrop:
    """KITTI's benchmark crop: the bottom 352 rows and the middle 1216 columns.

    Args:
        depth: crop the depth too; for evaluation it stays whole, since the two conventions treat it differently (see
            `metrics.Protocol`).

    Raises:
        ValueError: the image is smaller, when called.
    """

    height, width = 352, 1216

    def __init__(self, depth: bool = True) -> None:
        self.depth = depth

    @classmethod
    def corner(cls, height: int, width: int) -> tuple[int, int]:
        """(top, left) of the crop in an image of ``height × width``."""
        if height < cls.height or width < cls.width:
            raise ValueError(f"KB crop: expected an image of at least 352×1216 pixels, got {height}×{width}")
        return height - cls.height, (width - cls.width) // 2

    def __call__(self, sample: Sample) -> Sample:
        top, left = self.corner(*sample["image"].shape[-2:])
        cut = _cut(sample, top, left, self.height, self.width)
        return cut if self.depth else {**cut, "depth": sample["depth"]}


class RandomCrop:
    """Cuts a ``height × width`` window out at random.

    Raises:
        ValueError: the image is smaller, when called.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def __call__(self, sample: Sample) -> Sample:
        rows, columns = (
            have - want for have, want in zip(sample["image"].shape[-2:], (self.height, self.width), strict=True)
        )
        if min(rows, columns) < 0:
            height, width = sample["image"].shape[-2:]
            raise ValueError(f"random crop: expected at least {self.height}×{self.width} pixels, got {height}×{width}")
        top, left = (int(torch.randint(room + 1, ())) for room in (rows, columns))
        return _cut(sample, top, left, self.height, self.width)


def _cut(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    window = (..., slice(top, top + height), slice(left, left + width))
    return {**sample, "image": sample["image"][window], "depth": sample["depth"][window]}


class RandomFlip:
    """Mirrors left and right."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, sample: Sample) -> Sample:
        if torch.rand(()) >= self.p:
            return sample
        return {**sample, "image": sample["image"].flip(-1), "depth": sample["depth"].flip(-1)}


class RandomRotate:
    """Turns by up to ``degrees`` either way: the image bilinearly, the depth by nearest neighbours, since a mean of two
    depths lies on neither surface. Depth from outside the picture is 0: none."""

    def __init__(self, degrees: float, p: float = 0.5) -> None:
        self.degrees, self.p = degrees, p

    def __call__(self, sample: Sample) -> Sample:
        if torch.rand(()) >= self.p:
            return sample
        angle = float(torch.empty(()).uniform_(-self.degrees, self.degrees))
        image = TF.rotate(sample["image"], angle, InterpolationMode.BILINEAR)
        depth = TF.rotate(sample["depth"][None], angle, InterpolationMode.NEAREST)[0]
        return {**sample, "image": image, "depth": depth}


class RandomColor:
    """Gamma, brightness and a factor per colour, each uniform in its range; depth stays."""

    def __init__(
        self,
        gamma: tuple[float, float] = (0.9, 1.1),
        brightness: tuple[float, float] = (0.9, 1.1),
        color: tuple[float, float] = (0.9, 1.1),
        p: float = 0.5,
    ) -> None:
        self.gamma, self.brightness, self.color, self.p = gamma, brightness, color, p

    def __call__(self, sample: Sample) -> Sample:
        if torch.rand(()) >= self.p:
            return sample
        gamma, brightness = (torch.empty(()).uniform_(*limits) for limits in (self.gamma, self.brightness))
        color = torch.empty(3, 1, 1).uniform_(*self.color)
        return {**sample, "image": (sample["image"].clamp(0, 1) ** gamma * brightness * color).clamp(0, 1)}


class Resize:
    """To the size a `Convention` asks for; depth by nearest neighbours, or left at its own size for evaluation."""

    def __init__(self, convention: Convention, depth: bool = True) -> None:
        self.convention, self.depth = convention, depth

    def __call__(self, sample: Sample) -> Sample:
        size = self.convention.size(*sample["image"].shape[-2:])
        image = F.interpolate(sample["image"][None], size=size, mode="bicubic", align_corners=False)[0]
        if not self.depth:
            return {**sample, "image": image}
        depth = F.interpolate(sample["depth"][None, None], size=size, mode="nearest-exact")[0, 0]
        return {**sample, "image": image, "depth": depth}


class Normalize:
    """``(image - mean) / std``, channel by channel."""

    def __init__(self, convention: Convention) -> None:
        self.mean, self.std = convention.mean, convention.std

    def __call__(self, sample: Sample) -> Sample:
        return {**sample, "image": TF.normalize(sample["image"], self.mean, self.std)}


def _from_config(recipe: Callable[..., Compose]) -> Callable[..., Compose]:
    """Lets a config give a recipe's convention as a dictionary of `Convention`'s fields."""

    @wraps(recipe)
    def build(convention: Convention | Mapping[str, Any], **kwargs: Any) -> Compose:
        return recipe(as_convention(convention), **kwargs)

    return build


@TRANSFORMS.register_module()
@_from_config
def nyu_training(convention: Convention) -> Compose:
    """The NYUv2 recipe of the BTS line: boundary crop, rotation by 2.5°, flip, 416×544 crop, brightness .75–1.25."""
    return Compose(
        [
            nyu_boundary_crop(),
            RandomRotate(2.5),
            RandomFlip(),
            RandomCrop(416, 544),
            RandomColor(brightness=(0.75, 1.25)),
            Normalize(convention),
        ]
    )


@TRANSFORMS.register_module()
@_from_config
def kitti_training(convention: Convention) -> Compose:
    """The KITTI recipe of the BTS line: KB crop, rotation by 2.5°, flip, 352×704 crop, colour .9–1.1."""
    return Compose(
        [KBCrop(), RandomRotate(2.5), RandomFlip(), RandomCrop(352, 704), RandomColor(), Normalize(convention)]
    )


@TRANSFORMS.register_module()
@_from_config
def square_training(convention: Convention, side: int = 384) -> Compose:
    """For any RGB-D data: the shorter side to ``side``, a random square of it, flip, colour .9–1.1.

    That of MiDaS and DPT (arXiv 1907.01341, 2103.13413), who bring the longer side to 384; a square of that side then
    does not fit into the picture.
    """
    resize = Convention(side, side, multiple=1, method="lower_bound")
    return Compose([Resize(resize), RandomCrop(side, side), RandomFlip(), RandomColor(), Normalize(convention)])


@TRANSFORMS.register_module()
@_from_config
def resized_training(convention: Convention) -> Compose:
    """For small data: the whole picture at the convention's size, flip, colour .9–1.1."""
    return Compose([Resize(convention), RandomFlip(), RandomColor(), Normalize(convention)])


@TRANSFORMS.register_module()
@_from_config
def evaluation(convention: Convention) -> Compose:
    """What a published model is evaluated with: the image resized and normalised, depth as it was recorded."""
    steps: list[Transform] = [KBCrop(depth=False)] if convention.kb_crop else []
    return Compose([*steps, Resize(convention, depth=False), Normalize(convention)])
