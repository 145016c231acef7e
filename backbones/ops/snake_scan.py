"""Continuous 2-D scanning: four selective scans along snakes, told at each step where they came from (PlainMamba)."""

from __future__ import annotations

import torch

from .cross_scan import VIM_ROUTES
from .scan_orders import scan_order
from .selective_scan import selective_scan_2d

DIRECTIONS = 5  # how a step was entered: 0 first step, 1 moving right, 2 left, 3 up, 4 down


def snake_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    direction_B: torch.Tensor,
    delta_bias: torch.Tensor,
    raster_selectivity: bool = False,
    backend: str = "auto",
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Sum of four selective scans with shared parameters: along snaking rows and columns, each there and back.

    Args:
        u: (B, H, W, E) input.
        delta: (B, H, W, E) step sizes, before bias and softplus.
        A: (E, N) state matrix.
        B: (B, H, W, N).
        C: like ``B``.
        D: (E,) skip connection.
        direction_B: (5, N), added to B by the move that led to the step (`DIRECTIONS`).
        delta_bias: (E,) added to ``delta``.
        raster_selectivity: the published PlainMamba takes only ``u`` in the order of the snakes; step s reads delta, B
            and C of the s-th pixel in row-major order, whatever pixel its input is from. Its weights want True. False
            gives each step the delta, B and C of its own pixel, as the paper has it.
        backend: as in :func:`~mixerzoo.backbones.ops.selective_scan.selective_scan_2d`.
        out_dtype: dtype of the output, that of ``u`` if None.

    Returns:
        (B, H, W, E).

    Source: PlainMamba, arXiv 2403.17695, section 3.2 and equation 5.
    """
    _, H, W, _ = u.shape
    u, delta, B, C = (x.flatten(1, 2) for x in (u, delta, B, C))  # (B, L, ·)
    if raster_selectivity:  # a reversed route is at its step s in place L-1-s
        delta, B, C = (torch.stack((x, x.flip(1)), dim=2).unsqueeze(1) for x in (delta, B, C))  # (B, 1, L, 2, ·)
    out = None
    for name in ("snake_h", "snake_v"):
        order = scan_order(name, H, W, u)
        here = (delta, B, C)
        if not raster_selectivity:
            here = tuple(order.apply(x)[:, None, :, None].expand(-1, -1, -1, 2, -1) for x in here)
        y = selective_scan_2d(  # the snake laid straight, and both ways along it
            order.apply(u).unsqueeze(1),  # (B, 1, L, E)
            here[0],
            A.expand(2, -1, -1),
            here[1] + direction_B[_moves(order.pixels, W)],
            here[2],
            D.expand(2, -1),
            delta_bias=delta_bias.expand(2, -1),
            delta_softplus=True,
            backend=backend,
            routes=VIM_ROUTES,
            out_dtype=out_dtype,
        )
        y = order.undo(y.squeeze(1))
        out = y if out is None else out + y
    return out.unflatten(1, (H, W))


def _moves(pixels: torch.Tensor, width: int) -> torch.Tensor:
    """How each step (L,) of a snake is entered on the way there and on the way back, (L, 2) indices of `DIRECTIONS`."""
    y, x = pixels // width, pixels % width
    down, right = y.diff(), x.diff()  # (L-1,) from each step to the next
    there = (right > 0) + 2 * (right < 0) + 3 * (down < 0) + 4 * (down > 0)
    back = (right < 0) + 2 * (right > 0) + 3 * (down > 0) + 4 * (down < 0)
    first = there.new_zeros(1)
    return torch.stack((torch.cat((first, there)), torch.cat((back, first))), dim=1)
