"""Reading the pictures that ``mixerzoo predict`` is given, and writing what it draws."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .engine.checkpoints import write_atomically

__all__ = ["open_picture", "unused_name", "write_picture"]


def open_picture(path: str | Path) -> Image.Image:
    """A picture file, read whole.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no picture.
    """
    try:
        picture = Image.open(path)
        picture.load()
        return picture
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"{path}: not a picture that can be read: {error}") from error


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
