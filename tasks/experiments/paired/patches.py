"""Fashion-MNIST as a grid of patches, in order or permuted: does classification need to know where a patch is?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ...classification.data import FASHION_MNIST, FashionMNIST

__all__ = ["FashionPatches"]

MEAN, STD = 0.2860, 0.3530  # of the training images, in [0, 1]
PERMUTATION_SEED = 2405_07992


class FashionPatches(Dataset):
    """Images (1, 28, 28), float32, standardised, and their class; no augmentation.

    Args:
        patch_size: side of the patches that ``permuted`` moves, in pixels.
        permuted: the patches of every image change places, all by the same permutation: what is near is near no longer,
            while a network without mixing of tokens sees the same.
        root: folder of Fashion-MNIST's files.
        split: ``train``: the first epoch is items 0 to ``images`` - 1, in an order that ``seed`` draws, and so on;
            ``test``: ``size`` images.
        images: training images, evenly spaced in the data set.
        seed: of the order.
        size: items.

    Raises:
        FileNotFoundError: no Fashion-MNIST in ``root``; the message says how to get it.
        ValueError: ``patch_size`` does not divide 28, or more images than there are.
    """

    def __init__(
        self,
        patch_size: int = 2,
        permuted: bool = False,
        root: str | Path = FASHION_MNIST,
        split: str = "train",
        images: int = 6000,
        seed: int = 0,
        size: int = 2**40,
    ) -> None:
        if 28 % patch_size:
            raise ValueError(f"patch_size: expected a divisor of 28, got {patch_size}")
        files = FashionMNIST(root, split, transform={"input_size": (1, 28, 28)})
        count = size if split == "test" else images
        if count > len(files.images):
            raise ValueError(f"expected at most {len(files.images)} images of split {split}, got {count}")
        chosen = [i * len(files.images) // count for i in range(count)]
        pixels = (files.images[chosen].astype(np.float32) / 255 - MEAN) / STD  # (N, 28, 28)
        self.images = torch.from_numpy(_permute(pixels, patch_size) if permuted else pixels).unsqueeze(1)
        self.labels = torch.from_numpy(files.labels[chosen].astype(np.int64))
        self.split, self.seed, self.size = split, seed, size
        self.side, self.channels, self.classes = 28, 1, 10
        self._epoch, self._order = -1, np.arange(0)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int | tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.batch([index[-1] if isinstance(index, tuple) else index])
        return images[0], labels[0]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Items ``indices`` at once: (B, 1, 28, 28) and (B,)."""
        chosen = [self.image(index) for index in indices]
        return self.images[chosen], self.labels[chosen]

    def image(self, index: int) -> int:
        """Number of the image that item ``index`` shows."""
        if self.split == "test":
            return index
        epoch, place = divmod(index, len(self.images))
        if epoch != self._epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
            self._epoch, self._order = epoch, order
        return int(self._order[place])


def _permute(pixels: np.ndarray, patch: int) -> np.ndarray:
    """Moves the patches of all images (N, 28, 28) by one fixed permutation."""
    n = 28 // patch
    patches = pixels.reshape(-1, n, patch, n, patch).transpose(0, 1, 3, 2, 4).reshape(-1, n * n, patch, patch)
    patches = patches[:, np.random.default_rng(PERMUTATION_SEED).permutation(n * n)]
    return np.ascontiguousarray(patches.reshape(-1, n, n, patch, patch).transpose(0, 1, 3, 2, 4).reshape(-1, 28, 28))
