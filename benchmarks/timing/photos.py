"""Real photographs as model input: scikit-image's bundled ones or a folder, through each model's own timm transform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import skimage.data
import torch
from PIL import Image, ImageOps
from timm.data import create_transform, resolve_data_config

from ..sources import pretrained_cfg

# scikit-image ships these in its wheel: no download. The right half of the stereo pair shows the same scene.
BUNDLED = ("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle")
BUNDLED_SOURCE = "scikit-image"
# Enough pictures to differ, few enough that a folder of thousands is not decoded to fill one batch.
MAX_PHOTOS = 16


@dataclass(frozen=True)
class Photo:
    """One photograph, upright and in RGB."""

    name: str
    image: Image.Image


def load_photos(source: Path | str) -> list[Photo]:
    """The photographs of a ``source`` as written into records: `BUNDLED_SOURCE`, or else a folder (`read_photos`)."""
    return bundled_photos() if source == BUNDLED_SOURCE else read_photos(source)


def bundled_photos() -> list[Photo]:
    """The five colour photographs of everyday scenes that scikit-image carries in its package."""
    photos = []
    for name in BUNDLED:
        pixels = getattr(skimage.data, name)()
        pixels = pixels[0] if isinstance(pixels, tuple) else pixels  # (H, W, 3) uint8; stereo: left, right, disparity
        photos.append(Photo(name.removeprefix("stereo_"), Image.fromarray(pixels)))
    return photos


def read_photos(folder: Path | str) -> list[Photo]:
    """The first `MAX_PHOTOS` images of a folder, by name.

    Args:
        folder: a directory; files whose suffix Pillow does not know are passed over.

    Raises:
        ValueError: the folder does not exist or holds no image, or an image cannot be decoded (the message names it).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"--photos: expected a folder of images, got {str(folder)!r}, which is not a folder")
    known = Image.registered_extensions()
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in known)
    if not files:
        raise ValueError(f"--photos: no image file in {str(folder)!r} (looked for .jpg, .png, .webp, .tif, …)")
    return [_read(path) for path in files[:MAX_PHOTOS]]


def _read(path: Path) -> Photo:
    try:
        with Image.open(path) as image:
            return Photo(path.stem, ImageOps.exif_transpose(image).convert("RGB"))
    # Pillow's decoders raise many types for damaged data, SyntaxError and struct.error among them.
    except Exception as error:
        raise ValueError(f"--photos: cannot read {str(path)!r} as an image: {error}") from error


def photo_batch(model: str, photos: Sequence[Photo], input_size: tuple[int, int], batch: int) -> torch.Tensor:
    """Photographs as ``model`` expects them: its own resize, crop and normalisation, at another input size.

    Args:
        model: a model as `sources.build_model` takes it; its pretrained configuration says the interpolation, the crop
            fraction, the mean and the standard deviation.
        photos: at least one; repeated in order where ``batch`` is larger.
        input_size: (H, W) in pixels.
        batch: number of images B.

    Returns:
        (B, 3, H, W) float32.

    Raises:
        ValueError: no photograph, or a model whose images do not have three channels.
    """
    if not photos:
        raise ValueError("expected at least one photograph, got none")
    cfg = pretrained_cfg(model)
    config = resolve_data_config(pretrained_cfg=cfg.to_dict() if cfg else {}, args={"in_chans": 3})
    if config["input_size"][0] != 3:
        raise ValueError(f"{model} expects images of {config['input_size'][0]} channels, photographs have 3")
    transform = create_transform(**{**config, "input_size": (3, *input_size)}, is_training=False)
    images = [transform(photo.image) for photo in photos[:batch]]  # each (3, H, W)
    return torch.stack([images[i % len(images)] for i in range(batch)])
