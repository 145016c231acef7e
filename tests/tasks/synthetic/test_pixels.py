"""Autoregressive pixels, on the small Fashion-MNIST of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from mixerzoo.tasks.synthetic.pixels import Pixels, main

DATA = Path(__file__).parents[2] / "data" / "fashion_mnist"


@pytest.mark.parametrize("side", [28, 14, 7])
def test_a_token_shows_the_pixel_before_the_one_it_asks_for(side):
    inputs, pixels = Pixels(side, DATA, seed=1)[3]
    assert inputs.shape == (17, side, side)
    assert (inputs.sum(0) == 1).all()
    shown = inputs.argmax(0).flatten()
    assert shown[0] == 16
    assert torch.equal(shown[1:], pixels.flatten()[:-1])
    assert pixels.min() >= 0
    assert 8 <= pixels.max() <= 15


def test_items_are_functions_of_seed_and_index_and_the_test_set_is_fixed():
    one, other = Pixels(7, DATA, seed=1), Pixels(7, DATA, seed=2)
    assert torch.equal(one.batch([4, 5])[1][1], one[5][1])
    assert [one.picture(i) for i in range(20)] != [other.picture(i) for i in range(20)]
    tests = [Pixels(7, DATA, split="test", seed=seed, size=16).batch(range(16)) for seed in (1, 2)]
    assert torch.equal(tests[0][1], tests[1][1])
    assert len(torch.unique(tests[0][1].flatten(1), dim=0)) > 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 5}, "side: expected a divisor of 28, got 5"),
        ({"levels": 10}, "levels: expected a divisor of 256, got 10"),
        ({"split": "test", "size": 10**6}, "size: expected at most"),
    ],
)
def test_what_there_is_not_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pixels(root=DATA, **arguments)


def test_show(tmp_path):
    path = tmp_path / "pixels.png"
    result = CliRunner().invoke(main, ["--show", str(path), "--data", str(DATA)])
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
