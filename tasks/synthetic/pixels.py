"""Pictures as sequences of pixels, each to be predicted from those before it (PixelCNN, arXiv 1601.06759).

    python -m mixerzoo.tasks.synthetic.pixels --show [FILE.png]

Fashion-MNIST (arXiv 1708.07747) at 16 grey levels in row-major order: 784 pixels, or 196 and 49 by averaging. Token t
of the input shows pixel t - 1, so a causal network at token t predicts pixel t from all before it and from nothing
else. The measure is bits per pixel; a network that does not mix tokens knows the pixel before and the position.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from torch.utils.data import Dataset

from ..classification.data import FASHION_MNIST, FashionMNIST

__all__ = ["Pixels"]


class Pixels(Dataset):
    """Shifted pictures and their pixels: item i is a function of ``seed`` and i alone.

    An item is (levels + 1, n, n) float32, one-hot grey levels of the pixels before, the last channel marking the start;
    and (n, n) int64, the grey levels themselves.

    Args:
        side: n, a divisor of 28.
        root: folder of Fashion-MNIST's files.
        levels: grey levels, a divisor of 256.
        split: ``train``: item i is a picture drawn by (seed, i); ``test``: ``size`` pictures, evenly spaced.
        seed: of the order in training.
        size: number of items.

    Raises:
        FileNotFoundError: no Fashion-MNIST in ``root``; the message says how to get it.
        ValueError: ``side`` or ``levels`` divides nothing, or a test set larger than the data set.
    """

    def __init__(
        self,
        side: int = 28,
        root: str | Path = FASHION_MNIST,
        levels: int = 16,
        split: str = "train",
        seed: int = 0,
        size: int = 2**40,
    ) -> None:
        if 28 % side:
            raise ValueError(f"side: expected a divisor of 28, got {side}")
        if 256 % levels:
            raise ValueError(f"levels: expected a divisor of 256, got {levels}")
        images = FashionMNIST(root, split, transform={"input_size": (1, 28, 28)}).images  # (N, 28, 28) bytes
        block = 28 // side
        means = images.reshape(len(images), side, block, side, block).mean((2, 4), dtype=np.float32)
        self.pictures = (means / (256 / levels)).astype(np.uint8)  # (N, n, n)
        if split == "test" and size > len(images):
            raise ValueError(f"size: expected at most {len(images)} pictures, got {size}")
        self.side, self.levels, self.split, self.seed, self.size = side, levels, split, seed, size

    @property
    def channels(self) -> int:
        """Grey levels and the start."""
        return self.levels + 1

    @property
    def classes(self) -> int:
        """Grey levels."""
        return self.levels

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.batch([index[-1] if isinstance(index, tuple) else index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Items ``indices`` at once: (B, levels + 1, n, n) and (B, n, n)."""
        pixels = self.pictures[[self.picture(index) for index in indices]].reshape(len(indices), -1)  # (B, L)
        before = np.concatenate((np.full_like(pixels[:, :1], self.levels), pixels[:, :-1]), 1)
        one_hot = (before[:, None] == np.arange(self.channels)[:, None]).astype(np.float32)
        shape = (len(indices), -1, self.side, self.side)
        labels = pixels.astype(np.int64).reshape(len(indices), self.side, self.side)
        return torch.from_numpy(one_hot.reshape(shape)), torch.from_numpy(labels)

    def picture(self, index: int) -> int:
        """Number of the picture that item ``index`` shows."""
        if self.split == "test":
            return index * len(self.pictures) // self.size
        return int(np.random.default_rng((self.seed, index)).integers(len(self.pictures)))


@click.command()
@click.option("--show", "path", is_flag=False, flag_value="pixels.png", required=True, type=click.Path(path_type=Path))
@click.option("--data", default=FASHION_MNIST, show_default=True, help="Folder of Fashion-MNIST.")
def main(path: Path, data: str) -> None:
    """Draws a picture at its three lengths into a PNG file."""
    from matplotlib.figure import Figure

    from ...backbones.checkpoints import write_atomically

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    for axes, side in zip(figure.subplots(1, 3), (28, 14, 7), strict=True):
        axes.imshow(Pixels(side, data)[0][1].numpy(), cmap="gray", vmin=0, vmax=15)
        axes.set(title=f"{side * side} pixels of 16 levels", xticks=[], yticks=[])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    write_atomically(buffer.getvalue(), path)
    click.echo(f"{path}: one picture at 784, 196 and 49 pixels")


if __name__ == "__main__":
    main()
