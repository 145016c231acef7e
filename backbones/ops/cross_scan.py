"""The scan routes over an H×W grid, and the materialising cross-scan and cross-merge.

A route is an order in which a 1-D scan visits the pixels of a grid. The scan operators follow routes by index
arithmetic; :func:`cross_scan` and :func:`cross_merge` copy the pixels instead, as VMamba does (arXiv 2401.10166, §4.3),
and are the plain statement of what the operators must equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import torch


class Route(IntEnum):
    """Order in which a scan visits an H×W grid."""

    ROWS = 0  # row by row, left to right
    ROWS_REVERSED = 1
    COLUMNS = 2  # column by column, top to bottom
    COLUMNS_REVERSED = 3


VMAMBA_ROUTES = (Route.ROWS, Route.COLUMNS, Route.ROWS_REVERSED, Route.COLUMNS_REVERSED)  # the order of its weights
VIM_ROUTES = (Route.ROWS, Route.ROWS_REVERSED)


def route_pixels(routes: Sequence[int], height: int, width: int, device: torch.device | None = None) -> torch.Tensor:
    """Pixel that each step of each route visits.

    Returns:
        (K, L) int64 with L = H·W: entry (k, s) is the row-major index of the s-th pixel of route k.
    """
    rows = torch.arange(height * width, device=device)  # (L,)
    columns = rows.view(height, width).t().reshape(-1)  # (L,)
    orders = {
        Route.ROWS: rows,
        Route.ROWS_REVERSED: rows.flip(0),
        Route.COLUMNS: columns,
        Route.COLUMNS_REVERSED: columns.flip(0),
    }
    return torch.stack([orders[Route(route)] for route in routes])


def cross_scan(x: torch.Tensor, routes: Sequence[int] = VMAMBA_ROUTES) -> torch.Tensor:
    """Copies a grid into one sequence per route.

    Args:
        x: (B, H, W, E), read by every route, or (B, H, W, K, E), slice k of which route k reads.
        routes: K routes.

    Returns:
        (B, L, K, E): step s of route k, with L = H·W.

    Raises:
        ValueError: ``x`` has neither shape.
    """
    K = len(routes)
    if x.ndim == 4:
        x = x.unsqueeze(3).expand(-1, -1, -1, K, -1)
    if x.ndim != 5 or x.shape[3] != K:
        raise ValueError(f"cross_scan: x must be (B, H, W, E) or (B, H, W, {K}, E), got {tuple(x.shape)}")
    sequences = []
    for k, route in enumerate(routes):
        grid = x[:, :, :, k]  # (B, H, W, E)
        if route in (Route.COLUMNS, Route.COLUMNS_REVERSED):
            grid = grid.transpose(1, 2)  # (B, W, H, E)
        sequence = grid.flatten(1, 2)  # (B, L, E)
        if route in (Route.ROWS_REVERSED, Route.COLUMNS_REVERSED):
            sequence = sequence.flip(1)
        sequences.append(sequence)
    return torch.stack(sequences, dim=2)


def cross_merge(
    y: torch.Tensor, height: int, width: int, routes: Sequence[int] = VMAMBA_ROUTES, reduce: bool = True
) -> torch.Tensor:
    """Puts the sequences of all routes back onto the grid and adds them.

    Args:
        y: (B, L, K, E), as :func:`cross_scan` returns.
        height: H.
        width: W, with H·W = L.
        routes: the K routes.
        reduce: add the routes; otherwise each keeps its grid.

    Returns:
        (B, H, W, E), the plain sum over the routes, or (B, H, W, K, E) if not ``reduce``.

    Raises:
        ValueError: ``y`` does not fit the grid or the routes.
    """
    if y.ndim != 4 or y.shape[1] != height * width or y.shape[2] != len(routes):
        expected = f"(B, {height * width}, {len(routes)}, E)"
        raise ValueError(f"cross_merge: y must be {expected} for a {height}x{width} grid, got {tuple(y.shape)}")
    grids = []
    for k, route in enumerate(routes):
        sequence = y[:, :, k]  # (B, L, E)
        if route in (Route.ROWS_REVERSED, Route.COLUMNS_REVERSED):
            sequence = sequence.flip(1)
        if route in (Route.COLUMNS, Route.COLUMNS_REVERSED):
            grid = sequence.unflatten(1, (width, height)).transpose(1, 2)  # (B, H, W, E)
        else:
            grid = sequence.unflatten(1, (height, width))
        grids.append(grid)
    return sum(grids[1:], grids[0]) if reduce else torch.stack(grids, dim=3)
