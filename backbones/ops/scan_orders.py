"""Orders in which a scan visits an H×W map beyond rows and columns, as tables of pixels and back.

Local windows (LocalMamba, arXiv 2403.09338, section 4.1) and the continuous 2-D snake (PlainMamba, arXiv 2403.17695,
section 3.2). The selective scan follows rows and columns by itself (`cross_scan.Route`), forwards and backwards and
without a copy; a map is copied into one of the orders here once, and its output back once.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F


class ScanOrder(NamedTuple):
    """One order of the pixels of an H×W map, and its inverse."""

    pixels: torch.Tensor
    """(S,) int64: the row-major index of the pixel at each step; H·W where the step is padding."""
    steps: torch.Tensor
    """(H·W,) int64: the step at which each pixel is visited."""
    padded: bool
    """Whether some steps are padding: S > H·W."""

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Copies pixels (B, H·W, C) into steps (B, S, C), zeros where there is no pixel."""
        if self.padded:
            x = F.pad(x, (0, 0, 0, 1))
        return x.index_select(1, self.pixels)

    def undo(self, y: torch.Tensor) -> torch.Tensor:
        """Copies steps (B, S, C) back to their pixels (B, H·W, C); padding is dropped."""
        return y.index_select(1, self.steps)


def scan_order(name: str, height: int, width: int, like: torch.Tensor, middle_token: bool = False) -> ScanOrder:
    """The order called ``name`` over an H×W map.

    Args:
        name: ``h`` row by row, ``v`` column by column, ``wK`` window by window of K×K pixels, windows and the pixels in
            them row by row, on the map padded at the bottom and right to multiples of K; ``snake_h`` row by row, every
            second row from right to left, ``snake_v`` column by column, every second column upwards. The suffix
            ``_flip`` reverses the whole order, padding included.
        height: H.
        width: W.
        like: a tensor on the device that the tables are wanted on.
        middle_token: the sequence holds a class token between the first H·W // 2 pixels and the others. It keeps the
            step H·W // 2 in every order (LocalVim).

    Returns:
        Tables, kept for the next call; but for while a compiler traces or ``like`` stands in for a tensor.

    Raises:
        ValueError: unknown ``name``.
    """
    arguments = (name, height, width, like.device, middle_token)
    if torch.compiler.is_compiling() or type(like) is not torch.Tensor:
        return _build(*arguments)
    return _kept(*arguments)


@functools.lru_cache(maxsize=512)
def _kept(*arguments: object) -> ScanOrder:
    with torch.inference_mode(False):  # a table made in inference mode could not serve training later
        return _build(*arguments)


def _build(name: str, height: int, width: int, device: torch.device, middle_token: bool) -> ScanOrder:
    base = name.removesuffix("_flip")
    window = base.removeprefix("w")
    is_window = base != window and window.isdecimal() and int(window) > 0
    if base in ("h", "v"):
        pixels = _row_major(height, width, device)
        pixels = pixels if base == "h" else pixels.t()
    elif base in ("snake_h", "snake_v"):
        pixels = _snake(height, width, device) if base == "snake_h" else _snake_columns(height, width, device)
    elif is_window:
        pixels = _windows(height, width, int(window), device)
    else:
        raise ValueError(f"unknown scan order {name!r}: expected h, v, snake_h, snake_v, w2, w7, … or one with _flip")
    pixels = pixels.reshape(-1)
    if base != name:
        pixels = pixels.flip(0)
    length = height * width
    if middle_token:
        middle = length // 2
        token = torch.full((1,), middle, device=device)
        pixels = pixels + (pixels >= middle)
        pixels = torch.cat((pixels[:middle], token, pixels[middle:]))
        length += 1
    # Traced sizes are symbols that do not say whether the windows fit: one zero too many does no harm.
    padded = is_window and (not isinstance(height * width, int) or pixels.shape[0] > length)
    return ScanOrder(pixels, torch.argsort(pixels, stable=True)[:length], padded)


def _row_major(height: int, width: int, device: torch.device) -> torch.Tensor:
    return torch.arange(height * width, device=device).view(height, width)


def _windows(height: int, width: int, window: int, device: torch.device) -> torch.Tensor:
    """Pixels of the padded map (windows down, windows across, window, window); H·W outside the map."""
    y = torch.arange(height + -height % window, device=device).unsqueeze(1)
    x = torch.arange(width + -width % window, device=device)
    pixels = torch.where((y < height) & (x < width), y * width + x, height * width)
    return pixels.unflatten(0, (-1, window)).unflatten(2, (-1, window)).transpose(1, 2)


def _snake(height: int, width: int, device: torch.device) -> torch.Tensor:
    pixels = _row_major(height, width, device)
    odd = torch.arange(height, device=device).unsqueeze(1) % 2 == 1
    return torch.where(odd, pixels.flip(1), pixels)


def _snake_columns(height: int, width: int, device: torch.device) -> torch.Tensor:
    pixels = _row_major(height, width, device).t()  # (W, H)
    odd = torch.arange(width, device=device).unsqueeze(1) % 2 == 1
    return torch.where(odd, pixels.flip(1), pixels)
