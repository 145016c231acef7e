"""Maps with a legend: a data set whose label is far away, or near, on the same pictures.

    python -m mixerzoo.tasks.synthetic.legend --show [FILE.png]

A map of n×n tokens, n a multiple of 7. Its top n/7 rows are a band with 4(n/7)² cards, 8 % of all tokens at every n; a
card shows a key and a value, and the cards of a map agree on one random table from keys to values. Every token below
shows a key:

- ``far``: it is to be labelled with the value of its key, which only the legend tells.
- ``local``: with the key of the token above it, modulo the number of values; the legend is of no use.

``tile=7`` makes the map of independent maps of 7×7, each with its own legend: as many tokens, but a short way. With
``legend="bottom"`` a scan from the top sees the legend too late. ``keys`` times ``values`` is the load: what has to be
carried from the legend to a token, K·V numbers as a table of weights.

A token sees its own key only, and tables are drawn evenly: without mixing of tokens, the best accuracy is 1/V.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch.utils.data import Dataset

__all__ = ["IGNORED", "TEST_SEED", "LegendMaps", "draw"]

TEST_SEED = 2**32 - 1  # of every test set; seeds of training are small
IGNORED = -100  # label of tokens that nothing is asked of, as in `torch.nn.functional.cross_entropy`


class LegendMaps(Dataset):
    """Maps with their labels, drawn as they are asked for: item i is a function of ``seed`` and i alone.

    An item is a map (K + V, n, n), float32, one-hot keys and, on cards, one-hot values; and labels (n, n), int64, with
    `IGNORED` where nothing is asked. ``far`` and ``local`` of one seed have the same maps.

    Args:
        side: n.
        keys: K.
        values: V.
        label: ``far`` or ``local``.
        tile: side of the independent maps, each with a legend; ``None`` for one of the whole side.
        legend: ``top`` or ``bottom``.
        seed: of the pictures.
        size: number of items.

    Raises:
        ValueError: a side that is no multiple of 7 or of the tile, a legend too small for the keys, or a word unknown.
    """

    def __init__(
        self,
        side: int,
        keys: int = 4,
        values: int = 4,
        label: str = "far",
        tile: int | None = None,
        legend: str = "top",
        seed: int = 0,
        size: int = 2**40,
    ) -> None:
        tile = side if tile is None else tile
        if tile % 7 or side % tile:
            raise ValueError(f"side, tile: expected multiples of 7, side one of tile, got {side} and {tile}")
        if label not in ("far", "local"):
            raise ValueError(f"label: expected far or local, got {label!r}")
        if legend not in ("top", "bottom"):
            raise ValueError(f"legend: expected top or bottom, got {legend!r}")
        if label == "local" and keys % values:
            raise ValueError(f"keys: expected a multiple of the {values} values for local labels, got {keys}")
        self.band = tile // 7  # rows of a legend
        self.cards = 4 * self.band**2
        if self.cards % keys:
            raise ValueError(f"keys: expected a divisor of the legend's {self.cards} cards, got {keys}")
        self.side, self.keys, self.values, self.label, self.tile, self.legend = side, keys, values, label, tile, legend
        self.seed, self.size = seed, size

    @property
    def channels(self) -> int:
        """K + V."""
        return self.keys + self.values

    @property
    def classes(self) -> int:
        """V."""
        return self.values

    @property
    def chance(self) -> float:
        """Best accuracy of a network that does not mix tokens."""
        return 1 / self.values

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.batch([index[-1] if isinstance(index, tuple) else index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Items ``indices`` at once: maps (B, K + V, n, n) and labels (B, n, n)."""
        drawn = [self.tokens(index) for index in indices]
        keys, values, labels = (np.stack(parts) for parts in zip(*drawn, strict=True))
        images = np.concatenate((_one_hot(keys, self.keys), _one_hot(values, self.values)), 1)
        return torch.from_numpy(images), torch.from_numpy(labels)

    def tokens(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys, values and labels (n, n) of a map; -1 where a token shows no key or no value."""
        rng = np.random.default_rng((self.seed, index))
        n, t = self.side, self.tile
        keys, values, far = (np.empty((n, n), np.int64) for _ in range(3))
        for top in range(0, n, t):
            for left in range(0, n, t):
                parts = self._one_map(rng)
                for whole, part in zip((keys, values, far), parts, strict=True):
                    whole[top : top + t, left : left + t] = part
        if self.legend == "bottom":
            keys, values, far = (np.ascontiguousarray(whole[::-1]) for whole in (keys, values, far))
        if self.label == "far":
            return keys, values, far
        query = far != IGNORED
        local = np.full((n, n), IGNORED, np.int64)
        local[1:] = np.where(query[1:] & query[:-1], keys[:-1] % self.values, IGNORED)
        return keys, values, local

    def _one_map(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t, band = self.tile, self.band
        table = rng.integers(self.values, size=self.keys)
        keys = rng.integers(self.keys, size=(t, t))
        values = np.full((t, t), -1)
        labels = table[keys]
        places = rng.permutation(band * t)[: self.cards]
        on_cards = np.arange(self.cards) % self.keys  # every key equally often
        top = np.full((2, band * t), -1)
        top[0, places], top[1, places] = on_cards, table[on_cards]
        keys[:band], values[:band] = top.reshape(2, band, t)
        labels[:band] = IGNORED
        return keys, values, labels

    def row_distances(self) -> np.ndarray:
        """For every row, how many rows it is away from the nearest row of its legend; 0 inside."""
        rows = np.arange(self.side) % self.tile
        distances = np.maximum(rows - self.band + 1, 0)
        return distances if self.legend == "top" else distances[::-1].copy()


def _one_hot(numbers: np.ndarray, classes: int) -> np.ndarray:
    """(B, n, n) with -1 for none -> (B, classes, n, n) float32."""
    return (numbers[:, None] == np.arange(classes)[:, None, None]).astype(np.float32)


def draw(maps: LegendMaps, index: int, axes: Any, title: str) -> None:
    """Draws a map: the colour is the key, the digit a card's value (boxed) or, on small maps, the label asked for."""
    keys, values, labels = maps.tokens(index)
    shown = np.ma.masked_less(keys, 0)
    axes.imshow(shown, cmap="Pastel1" if maps.keys <= 9 else "viridis", vmin=0, vmax=max(maps.keys - 1, 8))
    small = 9 if maps.side <= 14 else 5
    for (row, column), label in np.ndenumerate(labels):
        if values[row, column] >= 0:
            box = {"boxstyle": "square,pad=0.15", "facecolor": "white", "linewidth": 0.5}
            value = values[row, column]
            axes.text(column, row, value, ha="center", va="center", fontsize=small, weight="bold", bbox=box)
        elif label != IGNORED and maps.side <= 14:
            axes.text(column, row, label, ha="center", va="center", fontsize=small, color="0.35")
    axes.set(title=title, xticks=[], yticks=[])


@click.command()
@click.option("--show", "path", is_flag=False, flag_value="legend.png", required=True, type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(path: Path, seed: int) -> None:
    """Draws one map of every kind into a PNG file."""
    from matplotlib.figure import Figure

    from ...backbones.checkpoints import write_atomically

    kinds = {
        "far: the value of the key": LegendMaps(14, seed=seed),
        "local: the key above": LegendMaps(14, label="local", seed=seed),
        "load: 8 keys, 8 values": LegendMaps(14, 8, 8, seed=seed),
        "legend at the bottom": LegendMaps(14, legend="bottom", seed=seed),
        "tiled: legends of their own": LegendMaps(28, tile=7, seed=seed),
        "far, 784 tokens": LegendMaps(28, seed=seed),
    }
    figure = Figure(figsize=(15, 10.5), layout="constrained")
    for axes, (title, maps) in zip(figure.subplots(2, 3).flat, kinds.items(), strict=True):
        draw(maps, 0, axes, title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomically(buffer.getvalue(), path)
    click.echo(f"{path}: one map of each of {len(kinds)} kinds")


if __name__ == "__main__":
    main()
