"""Image files in, depth out: 16-bit PNG, a picture to look at, a point cloud.

Every file is written under another name and renamed when it is complete.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..pictures import SIXTEEN_BITS, eight_bits, open_upright

UNITS = {"metre": "depth (m)", "relative": "inverse depth (relative)"}
_FULL = 65535
_POINT = np.dtype([(axis, "<f4") for axis in "xyz"] + [(color, "u1") for color in ("red", "green", "blue")])


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; takes its place at the end, or vanishes with an exception.
    Missing folders are made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_image(path: str | Path) -> torch.Tensor:
    """Any 8- or 16-bit image as RGB, float32 (3, H, W) in [0, 1].

    It is turned upright as its EXIF says, grey and palettes become RGB, what is transparent becomes white, and of an
    animation the first frame is taken.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no image, is damaged, or holds floating-point or 32-bit numbers, whose white is unknown.
    """
    image = open_upright(path)
    if image.mode in SIXTEEN_BITS:
        return torch.from_numpy(np.asarray(image) / _FULL).float().expand(3, -1, -1).contiguous()
    pixels = np.array(eight_bits(image))  # (H, W, 3)
    return torch.from_numpy(pixels).movedim(-1, 0).float().div(255).contiguous()


def read_depth(path: str | Path, counts_per_metre: float) -> torch.Tensor:
    """A 16-bit depth PNG as data sets hold it: float32 (H, W) in metres, 0 where there is none.

    Args:
        path: of the file.
        counts_per_metre: 1000 for NYUv2, 256 for KITTI.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no 16-bit grey image.
    """
    return torch.from_numpy(_counts(Path(path))[0] / counts_per_metre).float()


def _counts(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Pixels and metadata."""
    image = open_upright(path)
    if image.mode not in SIXTEEN_BITS:
        raise ValueError(f"{path}: depth has one 16-bit channel, this file is {image.mode}; an 8-bit copy has lost it")
    return np.asarray(image).astype(np.float64), image.info


def write_counts(path: str | Path, counts: np.ndarray, **text: str) -> None:
    """Writes (H, W) integers from 0 to 65535 as a 16-bit PNG, with ``text`` in its metadata.

    Raises:
        ValueError: a count does not fit, or ``path`` does not end in ``.png``.
    """
    if Path(path).suffix.lower() != ".png":
        raise ValueError(f"{path}: 16-bit depth is written as PNG; choose a name that ends in .png")
    if counts.min() < 0 or counts.max() > _FULL:
        raise ValueError(f"{path}: expected counts from 0 to {_FULL}, got {counts.min()} to {counts.max()}")
    metadata = PngInfo()
    for key, value in text.items():
        metadata.add_text(key, value)
    with replacing(path) as temporary:
        Image.fromarray(counts.astype(np.uint16)).save(temporary, format="PNG", pnginfo=metadata)


def write_depth_png(path: str | Path, prediction: torch.Tensor, unit: str) -> None:
    """Writes a prediction as a 16-bit PNG whose metadata say how to read it: ``value = offset + step · count``.

    Metres have the offset 0 and a step of 1/1000 (as NYUv2), of 1/256 where something is farther than 65 m (as KITTI),
    or the finest that fits beyond 255 m; count 0 means no depth, and is not written. Relative inverse depth is
    stretched over the whole range.

    Args:
        path: ends in ``.png``.
        prediction: (H, W).
        unit: ``metre`` or ``relative``.

    Raises:
        ValueError: unknown unit, NaN or infinity, or metres below 0.
    """
    values = _checked(prediction, unit)
    low, high = float(values.min()), float(values.max())
    if unit == "metre":
        offset, least = 0.0, 1
        step = next((s for s in (1 / 1000, 1 / 256) if high <= s * _FULL), high / _FULL)
    else:
        offset, least = low, 0
        step = (high - low) / _FULL or 1.0
    counts = np.clip(np.round((values - offset) / step), least, _FULL)
    write_counts(path, counts, unit=unit, offset=repr(offset), step=repr(step))


def read_depth_png(path: str | Path) -> tuple[torch.Tensor, str]:
    """What `write_depth_png` wrote: float32 (H, W), and its unit.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file.
    """
    counts, info = _counts(Path(path))
    missing = {"unit", "offset", "step"} - info.keys()
    if missing:
        raise ValueError(f"{path}: no {', '.join(sorted(missing))} in its metadata; read it with read_depth")
    unit, offset, step = (info[key] for key in ("unit", "offset", "step"))
    return torch.from_numpy(float(offset) + float(step) * counts).float(), unit


def write_picture(path: str | Path, image: torch.Tensor, prediction: torch.Tensor, unit: str) -> None:
    """Draws a prediction beside its image, near is bright, with a colour bar in metres or marked as relative.

    The colours (matplotlib's perceptually uniform inferno) span the 1st to the 99th percentile. 0 m is none, and grey.

    Args:
        path: its suffix says the format, as matplotlib knows them (.png, .pdf, .svg, …).
        image: RGB (3, H, W) in [0, 1].
        prediction: (H, W), or recorded depth.
        unit: ``metre`` or ``relative``.

    Raises:
        ValueError: unknown unit, NaN or infinity, or a format that matplotlib does not write.
    """
    from matplotlib.figure import Figure  # a third of a second, which readers of images need not wait

    values = _checked(prediction, unit)
    known = values > 0 if unit == "metre" else np.isfinite(values)
    some = values[known] if known.any() else np.ones(1)
    low, high = np.percentile(some, (1, 99))
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    beyond = extend[bool(some.min() < low), bool(some.max() > high)]
    if not high > low:
        low, high = low - 0.5, high + 0.5
    height, width = values.shape
    figure = Figure(figsize=(11.5, min(max(5 * height / width, 1.5), 8) + 0.5), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image.detach().cpu().clamp(0, 1).movedim(0, -1).numpy())
    colors = "inferno_r" if unit == "metre" else "inferno"
    shown = right.imshow(np.ma.masked_where(~known, values), cmap=colors, vmin=low, vmax=high)
    right.imshow(np.ma.masked_where(known, values), cmap="gray", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=right, label=UNITS[unit], extend=beyond, fraction=0.046)
    for axes in (left, right):
        axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:].lower() or "png")


def write_point_cloud(
    path: str | Path, image: torch.Tensor, depth: torch.Tensor, unit: str, focal: float | None = None
) -> None:
    """Writes a coloured point cloud as binary PLY, in metres; x right, y down, z forward from a pinhole camera.

    Pixels of 0 m, which are none, make no point.

    Args:
        path: of the file.
        image: RGB (3, H, W) in [0, 1].
        depth: (H, W), along the optical axis.
        unit: has to be ``metre``.
        focal: length in pixels; unknown: that of 60° from left to right. The optical axis is the middle of the image.

    Raises:
        ValueError: relative depth, which has no shape without its scale and shift; NaN or infinity; a focal length
            not above 0.
    """
    if unit != "metre":
        raise ValueError("point cloud: needs depth in metres; relative depth has no shape without its scale and shift. "
                         "Use a metric model such as dpt_hybrid_384_nyu")  # fmt: skip
    z = _checked(depth, unit)
    height, width = z.shape
    focal = width / 2 / math.tan(math.radians(30)) if focal is None else focal
    if not focal > 0:
        raise ValueError(f"focal: expected pixels above 0, got {focal}")
    v, u = np.mgrid[:height, :width] + 0.5
    points = np.empty(z.size, _POINT)
    points["x"] = ((u - width / 2) / focal * z).ravel()
    points["y"] = ((v - height / 2) / focal * z).ravel()
    points["z"] = z.ravel()
    colors = image.detach().cpu().clamp(0, 1).mul(255).round().byte().flatten(1)  # (3, H·W)
    for name, channel in zip(("red", "green", "blue"), colors, strict=True):
        points[name] = channel.numpy()
    points = points[points["z"] > 0]
    properties = [*(f"property float {axis}" for axis in "xyz"), *(f"property uchar {c}" for c in _POINT.names[3:])]
    header = ["ply", "format binary_little_endian 1.0", f"comment metres, focal length {focal:g} pixels",
              f"element vertex {len(points)}", *properties, "end_header"]  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_bytes("\n".join([*header, ""]).encode() + points.tobytes())


def _checked(prediction: torch.Tensor, unit: str) -> np.ndarray:
    """(H, W) float64, finite, and not negative if metres."""
    if unit not in UNITS:
        raise ValueError(f"unit: expected one of {', '.join(UNITS)}, got {unit!r}")
    values = prediction.detach().cpu().double().numpy()
    if values.ndim != 2 or not values.size:
        raise ValueError(f"expected a map (H, W) with pixels, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(values))} of {values.size} pixels are NaN or infinite")
    if unit == "metre" and values.min() < 0:
        raise ValueError(f"depth in metres is not negative, got {values.min():g}")
    return values
