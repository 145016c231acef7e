"""Orders of scans against lists written out, and the snake scan against its plain statement."""

from __future__ import annotations

import pytest
import torch
from mixerzoo.backbones.ops.cross_scan import Route, route_pixels
from mixerzoo.backbones.ops.scan_orders import scan_order
from mixerzoo.backbones.ops.selective_scan import selective_scan
from mixerzoo.backbones.ops.snake_scan import snake_scan

GRIDS = [(2, 3), (1, 5), (5, 1), (4, 4), (7, 9)]
NAMES = ("h", "v", "w2", "w7", "snake_h", "snake_v")
LIKE = torch.zeros(())


def test_orders_written_out():
    def pixels(name: str, height: int, width: int, **kwargs) -> list[int]:
        return scan_order(name, height, width, LIKE, **kwargs).pixels.tolist()

    assert pixels("w2", 2, 4) == [0, 1, 4, 5, 2, 3, 6, 7]
    assert pixels("w2", 3, 3) == [0, 1, 3, 4, 2, 9, 5, 9, 6, 7, 9, 9, 8, 9, 9, 9]  # 9 is padding
    assert pixels("w2_flip", 1, 3) == [3, 3, 3, 2, 3, 3, 1, 0]
    assert pixels("snake_h", 3, 3) == [0, 1, 2, 5, 4, 3, 6, 7, 8]
    assert pixels("snake_v", 2, 3) == [0, 3, 4, 1, 2, 5]
    assert pixels("h_flip", 1, 4, middle_token=True) == [4, 3, 2, 1, 0]  # the token is 2, and in the middle
    assert pixels("w2", 1, 3, middle_token=True) == [0, 1, 2, 4, 4, 3, 4, 4, 4]  # token 1; 4 is padding


@pytest.mark.parametrize("flip", ["", "_flip"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_every_order_comes_back(height, width, name, flip):
    for middle_token in (False, True):
        order = scan_order(name + flip, height, width, LIKE, middle_token=middle_token)
        x = torch.randn(2, height * width + middle_token, 3, requires_grad=True)
        y = order.apply(x)
        assert order.padded == (y.shape[1] > x.shape[1])
        assert torch.equal(order.undo(y), x)
        torch.testing.assert_close(y.sum(1), x.sum(1))  # padding is zero
        (grad,) = torch.autograd.grad(order.undo(y * 2), x, torch.ones_like(x))
        assert torch.equal(grad, torch.full_like(x, 2))
        if middle_token:
            assert order.pixels[height * width // 2] == height * width // 2


@pytest.mark.parametrize(("height", "width"), GRIDS)
def test_rows_and_columns_are_routes(height, width):
    names = {"h": Route.ROWS, "h_flip": Route.ROWS_REVERSED, "v": Route.COLUMNS, "v_flip": Route.COLUMNS_REVERSED}
    for name, route in names.items():
        assert torch.equal(scan_order(name, height, width, LIKE).pixels, route_pixels([route], height, width)[0])


def test_orders_are_kept_for_training_though_first_used_in_inference_mode():
    with torch.inference_mode():
        scan_order("w3", 5, 11, LIKE)
    order = scan_order("w3", 5, 11, LIKE)
    assert order is scan_order("w3", 5, 11, LIKE)
    x = torch.randn(1, 55, 2, requires_grad=True)
    order.undo(order.apply(x)).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))
    assert scan_order("w3", 5, 11, LIKE.to("meta")).steps.is_meta


@pytest.mark.parametrize("name", ["w", "w0", "h2", "snake", "flip", "w2_flip_flip"])
def test_unknown_orders(name):
    with pytest.raises(ValueError, match=f"unknown scan order '{name}': expected h, v"):
        scan_order(name, 3, 3, LIKE)


def direction(before: tuple[int, int] | None, here: tuple[int, int]) -> int:
    """0 for the first step, else 1 moved right, 2 left, 3 up, 4 down."""
    move = None if before is None else (here[0] - before[0], here[1] - before[1])
    return [None, (0, 1), (0, -1), (-1, 0), (1, 0)].index(move)


@pytest.mark.parametrize("raster", [False, True])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 4), (5, 2)])
def test_snake_scan_is_four_scans_of_copies(height, width, raster):
    E, N, L = 5, 3, height * width
    u, delta = torch.randn(2, 2, height, width, E, dtype=torch.double).unbind(0)
    B, C = torch.randn(2, 2, height, width, N, dtype=torch.double).unbind(0)
    A, D, bias = -torch.rand(E, N, dtype=torch.double), *torch.randn(2, E, dtype=torch.double).unbind(0)
    direction_B = torch.randn(5, N, dtype=torch.double)
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, D, direction_B, bias)]

    rows = [(i, j if i % 2 == 0 else width - 1 - j) for i in range(height) for j in range(width)]
    columns = [(i if j % 2 == 0 else height - 1 - i, j) for j in range(width) for i in range(height)]
    expected = torch.zeros_like(u)
    for snake in (rows, rows[::-1], columns, columns[::-1]):

        def take(x: torch.Tensor, snake: list[tuple[int, int]]) -> torch.Tensor:
            return torch.stack([x[:, i, j] for i, j in snake], dim=2)  # (B, ·, L)

        source = [divmod(s, width) for s in range(L)] if raster else snake
        moves = [direction(None if s == 0 else snake[s - 1], here) for s, here in enumerate(snake)]
        y = selective_scan(
            take(u, snake),
            take(delta, source),
            A,
            take(B, source) + direction_B[moves].T,
            take(C, source),
            D,
            delta_bias=bias,
            delta_softplus=True,
            backend="reference",
        )
        back = [snake.index(divmod(s, width)) for s in range(L)]
        expected = expected + y[:, :, back].transpose(1, 2).unflatten(1, (height, width))

    out = snake_scan(u, delta, A, B, C, D, direction_B, bias, raster_selectivity=raster)
    torch.testing.assert_close(out, expected)
    weight = torch.randn_like(out)
    grads, naive = (torch.autograd.grad((y * weight).sum(), leaves) for y in (out, expected))
    torch.testing.assert_close(grads, naive)
