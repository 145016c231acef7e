"""The one way in which picture files are read, and the writing of what is drawn.

Training, checks, tests and predictions of every task read through `open_upright`, so that a picture means the same
everywhere: it is turned as its EXIF orientation says, which is how viewers show it; what is transparent becomes white;
16 bits are scaled to 8 (not clipped); CMYK, palettes and grey become RGB; of an animation the first picture is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from ..backbones.checkpoints import write_atomically

__all__ = [
    "EXTENSIONS",
    "SIXTEEN_BITS",
    "Shot",
    "eight_bits",
    "find_pictures",
    "open_upright",
    "read_picture",
    "shots",
    "turned",
    "unused_name",
    "write_picture",
]

EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
VIDEOS = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
# Others are not decoded whatever a file is called: for EPS, for one, Pillow runs Ghostscript.
FORMATS = {"AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP"}
SIXTEEN_BITS = ("I", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of one channel of more than 8 bits
FULL = 65535
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_upright(source: str | Path | BinaryIO, name: str | None = None) -> Image.Image:
    """A picture, decoded whole and turned upright, in the mode in which it is stored.

    Args:
        source: path, or an open file.
        name: what to call it in an error; default: its path.

    Returns:
        The picture; ``info["orientation"]`` is the EXIF orientation by which it was turned, 1 if it was not.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no picture, damaged, larger than Pillow's limit of 179 million pixels, or has floating-point
            or 32-bit pixels, whose white is unknown.
    """
    name = name or str(source)
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of half the limit, and of tags that no decoder needs
            image = Image.open(source, formats=sorted(FORMATS & Image.OPEN.keys()))
            image.load()
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
            upright = image.transpose(TURNS[turn]) if turn in TURNS else image
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such picture") from None
    except Exception as error:  # Pillow's decoders raise many types for damaged data, struct.error among them
        raise ValueError(f"{name}: not a picture that can be read: {error}") from error
    if upright.mode == "F":
        raise ValueError(f"{name}: floating-point pixels, whose white is unknown; save it with 8 or 16 bits")
    if upright.mode in SIXTEEN_BITS:
        low, high = upright.getextrema()
        if low < 0 or high > FULL:
            raise ValueError(f"{name}: values from {low} to {high}; at most 16 bits are read")
    upright.info["orientation"] = turn if turn in TURNS else 1
    return upright


def read_picture(source: str | Path | BinaryIO, mode: str = "RGB", name: str | None = None) -> Image.Image:
    """A picture of 8 bits as all tasks see it (`open_upright`, and what this module says).

    Args:
        source: path, or an open file.
        mode: ``RGB``, or ``L`` for grey.
        name: what to call it in an error; default: its path.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `open_upright`.
    """
    return eight_bits(open_upright(source, name), mode)


def eight_bits(image: Image.Image, mode: str = "RGB") -> Image.Image:
    """What `open_upright` gave, as all tasks see it."""
    turn = image.info["orientation"]
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray(np.round(np.asarray(image) / (FULL / 255)).astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert(mode)
    image.info["orientation"] = turn
    return image


def turned(image: Image.Image) -> str:
    """What a message about a picture's size has to say about its orientation; nothing if there is nothing to say.

    Args:
        image: of `open_upright` or `read_picture`.
    """
    turn = image.info.get("orientation", 1)
    if turn == 1:
        return ""
    width, height = image.size if turn < 5 else image.size[::-1]
    return f" as viewers show it (EXIF orientation {turn}; stored as {width}×{height})"


@dataclass(frozen=True)
class Shot:
    """A picture file, or a frame of a video.

    Attributes:
        name: the file; of a frame with ``#`` and its number, from 0 on.
        stem: what files made from it begin with.
        source: the file, or the frame itself.
    """

    name: str
    stem: str
    source: Path | Image.Image

    def picture(self) -> Image.Image:
        """RGB (`read_picture`)."""
        return self.source if isinstance(self.source, Image.Image) else read_picture(self.source)


def find_pictures(paths: Sequence[str | Path]) -> list[Path]:
    """Picture and video files: those given, and those in folders given, each read once to see that it can be.

    Raises:
        FileNotFoundError: no such file or folder, or no picture in a folder.
        ValueError: a file that cannot be read.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = [path]
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS + VIDEOS)
        if not inside:
            raise FileNotFoundError(f"{path}: no picture here; expected names that end in {', '.join(EXTENSIONS)}")
        found += inside
    for path in found:
        if path.suffix.lower() in VIDEOS:
            next(_frames(path))
        else:
            open_upright(path)
    return found


def shots(paths: Sequence[str | Path]) -> Iterator[Shot]:
    """What `find_pictures` gave, one after the other: a thousand pictures need no more memory than one."""
    for path in map(Path, paths):
        if path.suffix.lower() in VIDEOS:
            for number, frame in enumerate(_frames(path)):
                yield Shot(f"{path}#{number}", f"{path.stem}_{number:06d}", frame)
        else:
            yield Shot(str(path), path.stem, path)


def _frames(path: Path) -> Iterator[Image.Image]:
    import cv2  # a third of a second, for videos only

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such video")
    video = cv2.VideoCapture(str(path))
    try:
        there, pixels = video.read()  # (H, W, 3), BGR
        if not there:
            raise ValueError(f"{path}: not a video that can be read")
        while there:
            yield Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))
            there, pixels = video.read()
    finally:
        video.release()


def unused_name(name: str, names: set[str]) -> str:
    """``name``, or with a number where pictures of different folders share it; it joins ``names``."""
    number, free = 1, name
    while free in names:
        number, free = number + 1, f"{name}_{number + 1}"
    names.add(free)
    return free


def write_picture(picture: Image.Image, path: str | Path) -> None:
    """A PNG, whole or not at all.

    Raises:
        OSError: it could not be written.
    """
    buffer = BytesIO()
    picture.save(buffer, format="png")
    write_atomically(buffer.getvalue(), path)
