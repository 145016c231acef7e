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
    window = int(base[1:]) if base.startswith("w") and base[1:].isdecimal() else 0
    tokens = torch.arange(height * width, device=device)
    y, x = tokens // width, tokens % width
    length = total = height * width
    if window:
        down, across = (height + window - 1) // window, (width + window - 1) // window
        steps = ((y // window) * across + x // window) * window**2 + y % window * window + x % window
        total = down * across * window**2
    elif base == "h":
        steps = tokens
    elif base == "v":
        steps = x * height + y
    elif base == "snake_h":
        steps = y * width + torch.where(y % 2 == 1, width - 1 - x, x)
    elif base == "snake_v":
        steps = x * height + torch.where(x % 2 == 1, height - 1 - y, y)
    else:
        raise ValueError(f"unknown scan order {name!r}: expected h, v, snake_h, snake_v, w2, w7, … or one with _flip")
    if base != name:
        steps = total - 1 - steps
    if middle_token:
        middle = length // 2
        steps = steps + (steps >= middle)
        steps = torch.cat((steps[:middle], steps.new_full((1,), middle), steps[middle:]))
        length, total = length + 1, total + 1
        tokens = torch.arange(length, device=device)
    pixels = (torch.zeros(total, dtype=torch.int64, device=device) + length).scatter(0, steps, tokens)
    # Traced sizes are symbols that do not say whether the windows fit: one zero too many does no harm.
    padded = window > 0 and (not isinstance(total, int) or total > length)
    return ScanOrder(pixels, steps, padded)
