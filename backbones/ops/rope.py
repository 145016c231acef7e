"""Rotary position embedding of maps: half of the channels turn by the row, half by the column.

Source: RoFormer, arXiv 2104.09864, section 3.2; over two axes as in MILA, arXiv 2405.16605, section 4.2.
"""

from __future__ import annotations

import torch
from timm.layers import apply_rot_embed_cat

__all__ = ["axial_rope", "rotate"]


def axial_rope(height: int, width: int, frequencies: torch.Tensor) -> torch.Tensor:
    """Table of sines and cosines for a map, in the dtype and on the device of ``frequencies``.

    Positions are whole numbers that count from 0 and are not scaled, whatever the size of the map.

    Args:
        height: rows H.
        width: columns W.
        frequencies: (C/4,) radians per row, and per column. Pair i of the channels turns by the row times frequency i,
            pair C/4 + i by the column.

    Returns:
        (H, W, 2C): sines of the C channels, then their cosines.
    """
    rows = torch.arange(height, dtype=frequencies.dtype, device=frequencies.device)
    columns = torch.arange(width, dtype=frequencies.dtype, device=frequencies.device)
    angles = torch.cat(
        (
            (rows[:, None] * frequencies)[:, None].expand(-1, width, -1),
            (columns[:, None] * frequencies)[None].expand(height, -1, -1),
        ),
        dim=-1,
    )  # (H, W, C/2)
    return torch.cat((angles.sin(), angles.cos()), dim=-1).repeat_interleave(2, dim=-1)


def rotate(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Turns the channel pairs (0, 1), (2, 3), … of ``x`` (..., H, W, C) by `axial_rope`'s table."""
    return apply_rot_embed_cat(x, table)
