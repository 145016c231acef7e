"""The scan routes, and the 2-D scan against scans of materialised sequences."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.backbones.ops.cross_scan import VIM_ROUTES, VMAMBA_ROUTES, Route, cross_merge, cross_scan, route_pixels
from mixerzoo.backbones.ops.selective_scan import selective_scan, selective_scan_2d

GRIDS = [(2, 3), (1, 5), (5, 1), (4, 4), (7, 9)]


def test_order_of_the_routes() -> None:
    """A 2×3 grid, written out: VMamba's k0 … k3 (arXiv 2401.10166, figure 3)."""
    image = torch.tensor([[0, 1, 2], [3, 4, 5]]).view(1, 2, 3, 1)
    assert cross_scan(image)[0, :, :, 0].t().tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_route_pixels(height: int, width: int) -> None:
    """The index table of the operators says the same as the flips and transposes."""
    pixels = route_pixels(tuple(Route), height, width)
    image = torch.arange(height * width).view(1, height, width, 1)
    assert torch.equal(cross_scan(image, tuple(Route))[0, :, :, 0].t(), pixels)
    assert torch.equal(pixels.sort(dim=1).values, torch.arange(height * width).expand(4, -1))


@pytest.mark.parametrize("routes", [VMAMBA_ROUTES, VIM_ROUTES, (2,), (0, 0, 3)], ids=str)
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_merge_undoes_scan(height: int, width: int, routes: tuple[int, ...]) -> None:
    shared = torch.randn(2, height, width, 3)
    kept = cross_merge(cross_scan(shared, routes), height, width, routes, reduce=False)
    assert torch.equal(kept, shared.unsqueeze(3).expand(-1, -1, -1, len(routes), -1))
    per_route = torch.randn(2, height, width, len(routes), 3)
    merged = cross_merge(cross_scan(per_route, routes), height, width, routes)
    torch.testing.assert_close(merged, per_route.sum(3))


@pytest.mark.parametrize("backend", ["reference", "cpu", "torch"])
@pytest.mark.parametrize("routes", [VMAMBA_ROUTES, VIM_ROUTES, (3, 0)], ids=str)
@pytest.mark.parametrize("gated", [False, True])
def test_2d_scan_equals_scan_and_merge(backend: str, routes: tuple[int, ...], gated: bool) -> None:
    """One 1-D scan over the copied sequences of all routes, as VMamba runs it, then the merge."""
    (batch, height, width, E, N), K = (2, 5, 7, 6, 3), len(routes)
    x, z = torch.randn(2, batch, height, width, E).unbind(0)
    delta = torch.randn(batch, height, width, K, E)
    B, C = torch.randn(2, batch, height, width, K, N).unbind(0)
    A, D, bias = -torch.rand(K, E, N), torch.randn(K, E), torch.randn(K, E)

    def rows(values: torch.Tensor) -> torch.Tensor:  # (B, H, W, [K,] E) -> (B, K·E, L)
        return cross_scan(values, routes).flatten(2).transpose(1, 2)

    def groups(values: torch.Tensor) -> torch.Tensor:  # (B, H, W, K, N) -> (B, K, N, L)
        return cross_scan(values, routes).permute(0, 2, 3, 1)

    copies = selective_scan(
        rows(x),
        rows(delta),
        A.flatten(0, 1),
        groups(B),
        groups(C),
        D.flatten(),
        rows(z) if gated else None,
        bias.flatten(),
        delta_softplus=True,
        backend="reference",
    )
    expected = cross_merge(copies.transpose(1, 2).unflatten(2, (K, E)), height, width, routes)
    actual = selective_scan_2d(
        x, delta, A, B, C, D, z if gated else None, bias, delta_softplus=True, backend=backend, routes=routes
    )
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
