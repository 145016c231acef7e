"""Maps with a legend: what they show, what is asked, and what chance is."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from mixerzoo.backbones.isotropic import init_by_name
from mixerzoo.tasks.synthetic.legend import IGNORED, LegendMaps, main

KINDS = {
    "far": {"side": 14},
    "load": {"side": 14, "keys": 8, "values": 8},
    "local": {"side": 14, "label": "local"},
    "bottom": {"side": 14, "legend": "bottom"},
    "tiled": {"side": 14, "tile": 7},
}


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_is_a_function_of_seed_and_index_alone(kind):
    one, other = LegendMaps(**KINDS[kind], seed=3), LegendMaps(**KINDS[kind], seed=3)
    other[7], other.batch([1, 2])
    images, labels = one.batch([5, 6])
    assert torch.equal(images[1], other[6][0])
    assert torch.equal(labels[1], other[(0, 1, 6)][1])  # a sampler's key ends in the index
    assert not torch.equal(images[0], images[1])
    assert not torch.equal(LegendMaps(**KINDS[kind], seed=4)[5][0], images[0])


@pytest.mark.parametrize(("side", "tile"), [(7, None), (14, None), (28, None), (28, 7)])
def test_the_legend_tells_every_far_label(side, tile):
    maps = LegendMaps(side, tile=tile)
    keys, values, labels = maps.tokens(0)
    t = tile or side
    cards = values >= 0
    assert cards.sum() == 4 * (side // 7) ** 2  # 8 % of all tokens at every length
    for top in range(0, side, t):
        for left in range(0, side, t):
            part = (slice(top, top + t), slice(left, left + t))
            band = slice(0, t // 7)
            table = {}
            for key, value in zip(keys[part][band].flat, values[part][band].flat, strict=True):
                assert (key < 0) == (value < 0)
                assert table.setdefault(key, value) == value
            assert {0, 1, 2, 3} <= table.keys()
            assert (labels[part][band] == IGNORED).all()
            below = slice(t // 7, None)
            assert (values[part][below] == -1).all()
            assert labels[part][below].tolist() == [[table[key] for key in row] for row in keys[part][below]]


def test_local_maps_are_the_far_ones_with_the_key_above_as_label():
    far, local = LegendMaps(14).tokens(2), LegendMaps(14, label="local").tokens(2)
    assert np.array_equal(far[0], local[0])
    assert np.array_equal(far[1], local[1])
    assert (local[2][:3] == IGNORED).all()  # the legend's two rows, and the row below, above which there is no query
    assert np.array_equal(local[2][3:], local[0][2:-1])


def test_a_legend_at_the_bottom_is_the_map_upside_down():
    for part, flipped in zip(LegendMaps(14).tokens(1), LegendMaps(14, legend="bottom").tokens(1), strict=True):
        assert np.array_equal(part, flipped[::-1])
    assert LegendMaps(14).row_distances().tolist() == [0, *range(13)]
    assert LegendMaps(14, legend="bottom").row_distances().tolist() == [*range(12, -1, -1), 0]
    assert LegendMaps(14, tile=7).row_distances().tolist() == [*range(7), *range(7)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_without_mixing_is_at_chance(kind):
    """Within 3 standard errors clustered by picture, as the tokens of a picture share a table."""
    maps = LegendMaps(**KINDS[kind], seed=11)
    images, labels = maps.batch(range(64))
    net = timm.create_model(
        "isotropic_identity", img_size=maps.side, patch_size=1, in_chans=maps.channels, embed_dim=32, depth=1,
        num_classes=maps.classes, global_pool="",
    )  # fmt: skip
    init_by_name(net, 0)
    with torch.no_grad():
        right = ((net(images).argmax(-1) == labels) & (labels != IGNORED)).flatten(1).sum(1).double()
    count = (labels[0] != IGNORED).sum()
    share = right / count
    assert abs(share.mean() - maps.chance) < 3 * share.std() / len(share) ** 0.5
    assert maps.chance == 1 / maps.values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"side": 15}, "expected multiples of 7"),
        ({"side": 28, "tile": 21}, "expected multiples of 7, side one of tile"),
        ({"side": 14, "label": "near"}, "label: expected far or local, got 'near'"),
        ({"side": 14, "legend": "left"}, "legend: expected top or bottom, got 'left'"),
        ({"side": 7, "keys": 8}, "keys: expected a divisor of the legend's 4 cards, got 8"),
        ({"side": 14, "keys": 4, "values": 3, "label": "local"}, "expected a multiple of the 3 values"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LegendMaps(**arguments)


def test_show(tmp_path):
    path = tmp_path / "maps.png"
    result = CliRunner().invoke(main, ["--show", str(path)])
    assert result.exit_code == 0, result.output
    assert path.read_bytes().startswith(b"\x89PNG")
